"""Queue ended spans, and send them from one background thread."""

from __future__ import annotations

import logging
import os
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Token
from threading import Condition, RLock, Thread
from typing import Any, Final

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import TraceFlags

from django_tracing.exceptions import ExportError
from django_tracing.export.announcements import Announcements, warn
from django_tracing.export.batches import SpanBatch
from django_tracing.export.counters import Counters, DropReason
from django_tracing.export.outbox import PROBE, Outbox
from django_tracing.faults import CONTAINED
from django_tracing.recording.span import RecordingSpan
from django_tracing.redaction import cut, redact_text
from django_tracing.untraced import SUPPRESSED

__all__ = ["QueueProcessor"]

_logger = logging.getLogger("django_tracing.export")

#: The approximate size of a batch in memory. It is smaller when sent: receivers accept messages of 4 MiB and more.
_BATCH_BYTES: Final = 2 * 1024 * 1024
#: How many ended spans are packed at once.
_SLICE: Final = 64


class QueueProcessor(SpanProcessor):
    """Queue ended spans and send them in batches from one background thread.

    An exporter with ``new_batch`` and ``export_batch`` defines its own batches (``export.wire.EncodedBatch``). Any
    other receives the spans.

    Spans of at most ``queue_bytes`` bytes wait, and at most ``queue_size`` of them unless it is None. Further spans
    are dropped and counted in ``counters``. A batch is sent when ``batch_size`` spans wait or ``export_interval``
    seconds have passed. A batch that the backend refuses for a time is tried again for at most ``retry_for`` seconds,
    with growing pauses, while others are sent. While the backend is unavailable, all wait; the failure and the
    recovery are one log line each.
    ``shutdown`` takes at most ``shutdown_timeout`` seconds, whatever the exporter does.

    Once ``muted`` returns True, only spans passed to ``send`` are sent, until the process ends or is forked.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        batch_size: int = 512,
        export_interval: float = 5.0,
        queue_size: int | None = None,
        queue_bytes: int = 16 * 1024 * 1024,
        shutdown_timeout: float = 3.0,
        retry_for: float = 60.0,
        muted: Callable[[], bool] | None = None,
    ) -> None:
        self.exporter = exporter
        self._new_batch: Any = getattr(exporter, "new_batch", SpanBatch)
        self._pack: Callable[[ReadableSpan], tuple[Any, int]] = self._new_batch.pack
        self._queue_size = sys.maxsize if queue_size is None else queue_size
        self._batch_size = min(batch_size, self._queue_size)
        self._interval = export_interval
        #: How much may wait, for people.
        self._room = f"{queue_bytes / (1024 * 1024):.3g} MiB" if queue_size is None else f"{queue_size} spans"
        self._queue_bytes = queue_bytes
        self._shutdown_timeout = shutdown_timeout
        self._retry_for = retry_for
        self._muted = muted
        #: The queues of other exporters, which end with this one: all of them share the time limit.
        self.others: Sequence[QueueProcessor] = ()
        self._reset()
        if hasattr(os, "register_at_fork"):
            weak = weakref.WeakMethod(self._reset)

            def after_in_child() -> None:
                reset = weak()
                if reset is not None:
                    reset()

            os.register_at_fork(after_in_child=after_in_child)

    def _reset(self) -> None:
        """Reset everything. Also in a forked child: the parent sends its spans, and its threads held the locks."""
        self.counters = Counters()
        #: Ended spans that are not packed yet.
        self._ended: deque[ReadableSpan] = deque()
        self._slice = min(_SLICE, self._batch_size)
        #: Batches that wait to be sent, and the batch that is being filled.
        self._outbox = Outbox(
            retry_for=self._retry_for,
            # The others stay free for what the receiver does not refuse.
            room_bytes=self._queue_bytes // 2,
            can_probe=hasattr(self.exporter, "probe"),
        )
        self._filling: Any = self._new_batch()
        self._bytes = 0
        self._accepted = 0
        self._settled = 0
        # Attempts are numbered, so that a flush can tell its own from an earlier one that is still running.
        self._attempt = 0
        self._lost = 0
        # Reentrant: a span may end in a signal handler or a finalizer that interrupts on_end.
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._thread: Thread | None = None
        self._stopping = False
        self._stopped = False
        self._finished = False
        self._deadline: float | None = None
        self._announce = Announcements(self.counters)
        self._silent = False

    # ----- the request's side

    def on_end(self, span: ReadableSpan) -> None:
        ended = self._ended
        ended.append(span)
        if self._thread is None:
            self._start_unless_muted()
        # Only every so many ends takes the lock.
        if len(ended) >= self._slice:
            with self._lock:
                self._gather()

    def send(self, span: ReadableSpan) -> None:
        """Queue an ended span, also if the queue is muted."""
        with self._lock:
            self._gather()
            self._gather_one(span)
        self._start()

    def _start_unless_muted(self) -> None:
        with self._lock:
            if self._is_silent():
                self._ended.clear()
                return
        self._start()

    def _gather(self) -> None:
        """Pack the spans that ended since the last call, or count them as dropped. Call it with the lock.

        Many at once: packing a single span in the middle of a request costs five times as much, because its code and
        data have left the processor's caches. But not too many, so that no request waits for long.
        """
        ended = self._ended
        if self._is_silent():
            ended.clear()
        while ended:
            spans = [ended.popleft() for _ in range(min(len(ended), _SLICE))]
            try:
                for span in spans:
                    if span.__class__ is RecordingSpan:
                        span.name_running_request()
                if self._gather_slice(spans):
                    continue
            except Exception:
                _logger.debug("A span could not be encoded; its slice is tried one by one.", exc_info=True)
            for span in spans:
                try:
                    self._gather_one(span)
                except Exception:
                    _logger.debug("A span was lost on its way into the queue.", exc_info=True)

    def _is_silent(self) -> bool:
        # Permanent: spans that ended in a test are not sent after the tests.
        self._silent = self._silent or (self._muted is not None and self._muted())
        return self._silent

    def _gather_slice(self, spans: list[ReadableSpan]) -> bool:
        """Add all of ``spans`` at once. Return False if that is not possible."""
        filling = self._filling
        pack_all = getattr(filling, "pack_all", None)
        if (
            pack_all is None
            or self._drop_reason(0) is not None
            or filling.count + len(spans) > self._batch_size
            or self._accepted - self._settled + len(spans) > self._queue_size
            or not all(span.__class__ is RecordingSpan and span.flags & TraceFlags.SAMPLED for span in spans)
        ):
            return False
        packed = pack_all(spans)
        if packed is None:
            return False
        encoded, size = packed
        if self._bytes + size > self._queue_bytes or filling.size + size > _BATCH_BYTES:
            return False
        filling.add_all(spans, encoded, size)
        self._bytes += size
        self._accepted += len(spans)
        if filling.count >= self._batch_size:
            self._close()
        return True

    def _gather_one(self, span: ReadableSpan) -> None:
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        # Checked twice: a span without a place is not encoded.
        reason = self._drop_reason(0)
        if reason is None:
            packed, size = self._pack(span)
            reason = self._drop_reason(size)
            if reason is None:
                self._add(span, packed, size)
        if reason is not None:
            self.counters.drop(reason)

    def _add(self, span: ReadableSpan, packed: Any, size: int) -> None:
        filling = self._filling
        if filling.count and filling.size + size > _BATCH_BYTES:
            filling = self._close()
        filling.add(span, packed, size)
        self._bytes += size
        self._accepted += 1
        if filling.count >= self._batch_size:
            self._close()

    def _close(self) -> Any:
        self._outbox.put(self._filling)
        self._filling = self._new_batch()
        if self._thread is not None:
            self._changed.notify_all()
        return self._filling

    def _close_filling(self) -> None:
        if self._filling.count:
            self._close()

    def _drop_reason(self, size: int) -> DropReason | None:
        """Return why a span of ``size`` bytes is dropped; None if there is a place for it."""
        if self._stopping or self._stopped:
            return "shutdown"
        if self._accepted - self._settled >= self._queue_size:
            return "queue_full_spans"
        if self._bytes + size > self._queue_bytes:
            return "queue_full_bytes"
        return None

    def _start(self) -> None:
        """Start the sending thread unless it runs. Don't call it with the lock.

        Under gevent, starting a thread lets other greenlets run. They would enter a reentrant lock that this greenlet
        holds, because the native thread is the same, or wait for any other lock forever.
        """
        with self._lock:
            if self._thread is not None or self._stopping:
                return
            thread = self._thread = Thread(target=self._run, name="django_tracing.export", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down: shutdown() sends the waiting spans
            with self._lock:
                if self._thread is thread:
                    self._thread = None

    @property
    def queued(self) -> int:
        """The number of waiting spans."""
        return self._accepted - self._settled + len(self._ended)

    # ----- the sending thread

    def _run(self) -> None:
        try:
            # Sending (HTTP, SQLite) must not be traced.
            _suppress()
            self._work()
            with self._changed:
                hung = self._stopped and self._late()
            if not hung:
                # Not in shutdown(), which has a time limit.
                self._shut_exporter()
        except BaseException as error:
            # Exporters should only raise subclasses of Exception. The next span starts a new thread.
            with self._changed:
                self._thread = None
                message = f"{type(self.exporter).__name__} raised {type(error).__name__}."
                self.counters.failed(message)
                lost = self._outbox.give_up(self._attempt + 1)
                if lost is not None:
                    self.counters.drop("export_error", lost.count)
                    self._lost += lost.count
                    self._leave(lost)
                # Flushes must not wait for the next attempt: there is none.
                self._attempt += 1
                self._changed.notify_all()
            if not isinstance(error, (SystemExit, KeyboardInterrupt)):
                raise

    def _work(self) -> None:
        """Send until shutdown() is called and nothing is left, or nothing more can be sent."""
        changed = self._changed
        next_send = time.monotonic() + self._interval
        while True:
            with changed:
                while True:
                    if self._stopping:
                        # Spans that another thread is about to count. Otherwise there would be empty batches.
                        self._gather()
                        self._close_filling()
                    now = time.monotonic()
                    if self._stopped or self._late():
                        return
                    if now >= next_send:
                        next_send = now + self._interval
                        self._gather()
                        # While nothing can be sent, only full batches are made.
                        if not (self._outbox.paused and self._outbox):
                            self._close_filling()
                    step = self._outbox.next(now)
                    if not isinstance(step, float):
                        break
                    if self._stopping:
                        return
                    changed.wait(max(min(step, next_send - now), 0.0))
                if step is not PROBE:
                    self._attempt += 1
                    self._outbox.start(step, self._attempt)
            if step is PROBE:
                self._probe()
            else:
                failure = self._export(step.batch)
                with changed:
                    if self._stopped:
                        return  # shutdown() stopped waiting, and counted these as lost
                    line = self._settle(step.batch, failure)
                # Not with the lock: a slow log handler must not delay a request.
                warn(line)
                with changed:
                    changed.notify_all()

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _settle(self, batch: Any, failure: ExportError | None) -> str | None:
        """Count the result of an attempt. Return a log line. Call it with the lock."""
        now = time.monotonic()
        counters, announce = self.counters, self._announce
        if failure is not None:
            counters.failed(str(failure))
        if failure is None or failure.rejected is not None:
            rejected = 0 if failure is None else min(failure.rejected or 0, batch.count)
            self._outbox.accept(now)
            self._leave(batch)
            counters.sent(batch.count - rejected)
            line = announce.available()
            if failure is not None and rejected:
                counters.drop("rejected", rejected)
                line = " ".join(filter(None, (line, announce.refused(failure))))
            return line
        if failure.retryable:
            counters.retried()
        dropped = self._outbox.fail(failure, now)
        for reason, lost in dropped:
            counters.drop(reason, lost.count)
            self._lost += lost.count
            self._leave(lost)
        if self._outbox.is_down:
            return announce.unavailable(failure, self.queued, self._room)
        return announce.refused(failure) if dropped else None

    def _leave(self, batch: Any) -> None:
        self._bytes -= batch.size
        self._settled += batch.count

    def _export(self, batch: Any) -> ExportError | None:
        if batch.__class__ is SpanBatch:
            return self._attempt_to(lambda: self.exporter.export(batch.spans))
        return self._attempt_to(lambda: self.exporter.export_batch(batch))  # type: ignore[attr-defined]

    def _probe(self) -> None:
        failure = self._attempt_to(lambda: self.exporter.probe() or SpanExportResult.SUCCESS)  # type: ignore[attr-defined]
        with self._changed:
            self._outbox.probed(failure, time.monotonic())

    def _attempt_to(self, send: Callable[[], Any]) -> ExportError | None:
        try:
            result = send()
        except ExportError as error:
            return error
        except Exception as error:
            return ExportError(
                # An exporter's message may contain its URL or headers.
                f"{type(self.exporter).__name__} raised {type(error).__name__}: {cut(redact_text(str(error)), 300)}.",
                reason="failed",
                retryable=True,
            )
        if result is SpanExportResult.SUCCESS:
            return None
        return ExportError(f"{type(self.exporter).__name__} failed.", reason="failed", retryable=True)

    # ----- the end

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send all waiting spans. Return True if they were sent within ``timeout_millis`` milliseconds."""
        with self._changed:
            self._gather()
            if not self.queued:
                return True
        self._start()
        with self._changed:
            if self._stopping or self._stopped or self._thread is None:
                return False
            self._close_filling()
            outbox, lost, attempt = self._outbox, self._lost, self._attempt + 1
            number = outbox.last_number
            outbox.hurry(number, attempt)
            self._changed.notify_all()
            self._changed.wait_for(lambda: outbox.tried(number, attempt) or self._stopped, timeout_millis / 1000)
            return outbox.is_done(number) and self._lost == lost

    def shutdown(self) -> None:
        """Send waiting spans for at most ``shutdown_timeout`` seconds; the rest is dropped and counted."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
        for queue in (self, *self.others):
            queue._begin_shutdown()
        self._finish_shutdown()

    def _begin_shutdown(self) -> None:
        with self._changed:
            if self._deadline is not None:
                return
            self._deadline = time.monotonic() + self._shutdown_timeout
            self._gather()
            # Spans that end from now on are immediately counted as dropped.
            self._slice = 1
            waits = self.queued > 0
        if waits:
            self._start()
        with self._changed:
            if self._stopping:
                return
            self._stopping = True
            self._outbox.hurry(float("inf"), self._attempt + 1)
            self._changed.notify_all()

    def _finish_shutdown(self) -> None:
        thread = self._thread
        if thread is not None:
            with suppress(RuntimeError):  # another thread is about to start it
                thread.join(max((self._deadline or 0.0) - time.monotonic(), 0.0))
        elif self.queued:
            self._work_here()
        with self._changed:
            self._stopped = True
            # Counted now, and not once more by the thread that ended them.
            self._gather()
            left = self.queued
            self._filling = self._new_batch()
            self._outbox.take_all()
            # The batch of a hanging exporter stays in the queue.
            current = self._outbox.current
            self._settled = self._accepted - (0 if current is None else current.batch.count)
            if left:
                self.counters.drop("shutdown", left)
            self._changed.notify_all()
        if left:
            warn(f"{left} spans could not be sent before the process ended.")
        if thread is None:
            self._shut_exporter()

    def _work_here(self) -> None:
        """Send from this thread: the interpreter is ending and starts no other thread."""
        timeout = getattr(self.exporter, "timeout", None)
        if isinstance(timeout, (int, float)):
            self.exporter.timeout = min(timeout, self._shutdown_timeout)  # type: ignore[attr-defined]
        token = _suppress()
        try:
            self._work()
        finally:
            context_api.detach(token)

    def _shut_exporter(self) -> None:
        try:
            self.exporter.shutdown()
        except CONTAINED:
            _logger.debug("The exporter could not be shut down.", exc_info=True)


def _suppress() -> Token[Context]:
    return context_api.attach(Context({**context_api.get_current(), **SUPPRESSED}))
