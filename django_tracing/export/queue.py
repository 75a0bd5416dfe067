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
from threading import Condition, RLock, Thread
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.trace import TraceFlags

from django_tracing.export.announcements import Announcements, SharedTimes, warn
from django_tracing.export.batches import SpanBatch
from django_tracing.export.counters import Counters, DropReason
from django_tracing.export.outbox import Outbox
from django_tracing.export.sender import Sender
from django_tracing.faults import log_hourly, log_once
from django_tracing.recording.span import RecordingSpan
from django_tracing.untraced import start_without_context

if TYPE_CHECKING:
    from django_tracing.export.spool import Spool
    from django_tracing.export.spooling import Spooling

__all__ = ["QueueProcessor"]

_logger = logging.getLogger("django_tracing.export")

#: The approximate size of a batch in memory. It is smaller when sent: receivers accept messages of 4 MiB and more.
_BATCH_BYTES: Final = 2 * 1024 * 1024
#: How many ended spans are packed at once.
_SLICE: Final = 64


class QueueProcessor(Sender, SpanProcessor):
    """Queue ended spans and send them in batches from one background thread.

    An exporter with ``new_batch`` and ``export_batch`` defines its own batches (``export.wire.EncodedBatch``). Any
    other receives the spans.

    Spans of at most ``queue_bytes`` bytes wait, and at most ``queue_size`` of them unless it is None. Further spans
    are dropped and counted in ``counters``. A batch is sent when ``batch_size`` spans wait or ``export_interval``
    seconds have passed. A batch that the backend refuses for a time is tried again for at most ``retry_for`` seconds,
    with growing pauses, while others are sent. While the backend is unavailable, all wait; the failure and the
    recovery are one log line each.
    ``shutdown`` takes at most ``shutdown_timeout`` seconds, whatever the exporter does.

    With a ``spool``, batches that can't be sent wait there: while the backend is unavailable, when the queue is
    nearly full, after ``retry_for`` seconds, and at the end.

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
        spool: Spool | None = None,
        muted: Callable[[], bool] | None = None,
        name: str = "",
        address: str = "",
    ) -> None:
        self.exporter = exporter
        #: The exporter as the settings name it, and its endpoint for people.
        self.name = name or type(exporter).__name__
        self.address = address
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
        self.spool = spool
        self._spooling: Spooling | None = None
        self._muted = muted
        #: The queues of other exporters, which end with this one: all of them share the time limit.
        self.others: Sequence[QueueProcessor] = ()
        #: Shared with forked processes, once :meth:`share_log_times` was called.
        self._log_times: SharedTimes | None = None
        self._reset()
        if hasattr(os, "register_at_fork"):
            weak = weakref.WeakMethod(self._reset)

            def after_in_child() -> None:
                reset = weak()
                if reset is not None:
                    reset()

            os.register_at_fork(after_in_child=after_in_child)

    def share_log_times(self) -> None:
        """Log a state that lasts once for this process and all that are forked from it later."""
        self._log_times = SharedTimes()
        self._announce.share(self._log_times)

    def _reset(self) -> None:
        """Reset everything. Also in a forked child: the parent sends its spans, and its threads held the locks."""
        # First: what follows may fail in the child, which must not wait for a lock for ever.
        # Reentrant: a span may end in a signal handler or a finalizer that interrupts on_end.
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._thread: Thread | None = None
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
        self._stopping = False
        self._stopped = False
        self._finished = False
        #: Whether spans waited when it was shut down.
        self._abandoned = False
        self._deadline: float | None = None
        self._announce = Announcements(self.counters, self._log_times)
        if self._spooling is not None:
            # The lock of a batch that the parent of a forked process sends is the parent's.
            self._spooling.release()
        if self.spool is not None:
            # Imported here: most queues have no spool.
            from django_tracing.export.spooling import Spooling

            self._spooling = Spooling(self.spool, self.counters, self._announce, self._retry_for)
        self._spool_is_next = False
        self._is_spilling = False
        self._work_at = float("inf")
        self._accepted_before = 0
        self._silent = False

    # ----- the request's side

    def on_end(self, span: ReadableSpan) -> None:
        # An exception would reach the code that ends its own span.
        try:
            ended = self._ended
            ended.append(span)
            if self._thread is None:
                self._start_unless_muted()
            # Only every so many ends takes the lock.
            if len(ended) >= self._slice:
                with self._lock:
                    self._gather()
        except Exception:
            log_once("queue", "A span could not be queued.")

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

    def send_spooled(self) -> None:
        """Start to send what waits in the spool, as the first span does."""
        self._start_unless_muted()

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
                    self.counters.drop("unencodable")
                    log_once("unencodable", "A span can't be encoded; it is dropped.")

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
            try:
                thread = self._thread = Thread(target=self._run, name="django_tracing.export", daemon=True)
            except RuntimeError:
                # Others would keep the interpreter from ending. shutdown() sends what the queue has place for.
                log_hourly("no-threads", "This interpreter has no daemon threads. Spans are sent when it ends.")
                return
        try:
            start_without_context(thread)
        except RuntimeError:  # the interpreter is shutting down: shutdown() sends the waiting spans
            with self._lock:
                if self._thread is thread:
                    self._thread = None

    @property
    def queued(self) -> int:
        """The number of waiting spans."""
        return self._accepted - self._settled + len(self._ended)

    def state(self) -> dict[str, Any]:
        """Return the counts, what waits, and whether the backend is available: one consistent dict of JSON values."""
        with self._lock:
            return {
                "queued": self.queued,
                "queued_bytes": self._bytes,
                "queue_bytes": self._queue_bytes,
                "available": not self._outbox.is_down,
                "stopped": self._stopped,
                **self.counters.snapshot(),
            }

    # ----- the end

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send all waiting spans. Return True if they were sent within ``timeout_millis`` milliseconds."""
        with self._lock:
            self._gather()
            if not self.queued:
                return not self._abandoned
        self._start()
        with self._lock:
            if self._stopping or self._stopped or self._thread is None:
                return False
            self._close_filling()
            outbox, lost, attempt = self._outbox, self._lost, self._attempt + 1
            number = outbox.last_number
            outbox.hurry(number, attempt)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (outbox.tried(number, attempt) and not self._spills) or self._stopped, timeout_millis / 1000
            )
            return outbox.is_done(number) and self._lost == lost

    def shutdown(self) -> None:
        """Send waiting spans for at most ``shutdown_timeout`` seconds; the rest is dropped and counted."""
        try:
            with self._lock:
                if self._finished:
                    return
                self._finished = True
            for queue in (self, *self.others):
                queue._begin_shutdown()
            self._finish_shutdown()
        except Exception:
            log_once("shutdown", "The spans that waited could not be sent.")

    def _begin_shutdown(self) -> None:
        with self._lock:
            if self._deadline is not None:
                return
            self._deadline = time.monotonic() + self._shutdown_timeout
            self._gather()
            # Spans that end from now on are immediately counted as dropped.
            self._slice = 1
            waits = self.queued > 0
        if waits:
            self._start()
        with self._lock:
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
        with self._lock:
            self._stopped = True
            # Counted now, and not once more by the thread that ended them.
            self._gather()
            self._close_filling()
            batches = [waiting.batch for waiting in self._outbox.take_all()]
            # The batch of a hanging exporter: whatever becomes of it, it is not counted again.
            current = self._outbox.current
            if current is not None:
                batches.insert(0, current.batch)
            left = self.queued
            self._settled = self._accepted
            self._abandoned = left > 0
            self._changed.notify_all()
        if self._spooling is not None:
            # It may arrive twice, if the exporter only seems to hang.
            left -= sum(batch.count for batch in batches[: self._spooling.store(batches, sync=False)])
        if left:
            self.counters.drop("shutdown", left)
            warn(f"{left} spans could not be sent before the process ended.")
        if thread is None:
            self._shut_exporter()
