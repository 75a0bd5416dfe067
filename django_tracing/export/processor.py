"""A bounded queue of ended spans and the one thread that sends them: off the request's path, whatever happens."""

from __future__ import annotations

import logging
import os
import random
import time
import weakref
from collections import deque
from threading import Condition, Thread
from typing import Final

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.export.counters import Counters
from django_tracing.export.errors import ExportError

__all__ = ["QueueProcessor", "estimate_size"]

_logger = logging.getLogger("django_tracing.export")

_FIRST_BACKOFF: Final = 0.5
_LONGEST_BACKOFF: Final = 30.0
#: How often a batch is tried whose exporter only says that it failed: it may have retried by itself.
_ATTEMPTS: Final = 3
_SPAN_BYTES: Final = 1000
_ATTRIBUTE_BYTES: Final = 60


def estimate_size(span: ReadableSpan) -> int:
    """About how many bytes of memory an ended span holds on to."""
    size = _SPAN_BYTES
    attributes = span.attributes
    if attributes:
        size += _attributes_size(attributes)
    for event in span.events:
        size += 200 + _attributes_size(event.attributes or {})
    return size + 200 * len(span.links)


def _attributes_size(attributes: object) -> int:
    size = 0
    for key, value in attributes.items():  # type: ignore[attr-defined]
        size += _ATTRIBUTE_BYTES + len(key)
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, (tuple, list)):
            size += sum(len(item) if isinstance(item, (str, bytes)) else 8 for item in value) + 56
    return size


class QueueProcessor(SpanProcessor):
    """Queues ended spans and sends them in batches from one background thread.

    At most ``queue_size`` spans of at most ``queue_bytes`` bytes wait; what comes on top is dropped and counted in
    ``counters``. A batch goes when ``batch_size`` spans wait or ``export_interval`` seconds have passed. A backend
    that is away is tried again with growing pauses, its batch kept; going down and coming back is one log line
    each. ``shutdown`` takes at most ``shutdown_timeout`` seconds, whatever the exporter does.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        batch_size: int = 512,
        export_interval: float = 5.0,
        queue_size: int = 8192,
        queue_bytes: int = 8 * 1024 * 1024,
        shutdown_timeout: float = 3.0,
    ) -> None:
        self.exporter = exporter
        self._batch_size = min(batch_size, queue_size)
        self._interval = export_interval
        self._queue_size = queue_size
        self._queue_bytes = queue_bytes
        self._shutdown_timeout = shutdown_timeout
        self._reset()
        if hasattr(os, "register_at_fork"):
            weak = weakref.WeakMethod(self._reset)

            def after_in_child() -> None:
                reset = weak()
                if reset is not None:
                    reset()

            os.register_at_fork(after_in_child=after_in_child)

    def _reset(self) -> None:
        """As new: also in a forked child, whose parent sends its own spans, and whose locks may be held by nobody."""
        self.counters = Counters()
        self._queue: deque[tuple[ReadableSpan, int]] = deque()
        self._bytes = 0
        self._in_flight = 0
        self._changed = Condition()
        self._thread: Thread | None = None
        self._flushing = 0
        self._stopping = False
        self._stopped = False
        self._deadline: float | None = None
        self._down = False
        self._dropped_when_down = 0

    # ----- the request's side

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        try:
            context = span.context
            if context is None or not context.trace_flags.sampled:
                return
            size = estimate_size(span)
            with self._changed:
                if self._stopped or self._stopping:
                    self.counters.drop("shutdown")
                    return
                if len(self._queue) + self._in_flight >= self._queue_size:
                    self.counters.drop("queue_full_spans")
                    return
                if self._bytes + size > self._queue_bytes:
                    self.counters.drop("queue_full_bytes")
                    return
                self._queue.append((span, size))
                self._bytes += size
                if self._thread is None:
                    self._start()
                elif len(self._queue) == self._batch_size:
                    self._changed.notify_all()
        except Exception:
            _logger.debug("A span was lost on its way into the queue.", exc_info=True)

    def _start(self) -> None:
        thread = Thread(target=self._run, name="django_tracing.export", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down: shutdown() sends what is there
            return
        self._thread = thread

    @property
    def queued(self) -> int:
        """How many spans wait."""
        return len(self._queue) + self._in_flight

    # ----- the sending thread

    def _run(self) -> None:
        condition = self._changed
        # What sending does (HTTP, SQLite) must not be traced itself.
        _suppress()
        pause = 0.0
        next_send = time.monotonic() + self._interval
        while True:
            with condition:
                if pause:
                    # Only a flush or the end interrupts it: waiting spans must not hammer a backend that is away.
                    condition.wait_for(lambda: self._flushing or self._stopping, pause)
                else:
                    while not self._due(next_send):
                        condition.wait(max(0.0, next_send - time.monotonic()))
                if self._stopped:
                    return
            pause = self._send_due()
            next_send = time.monotonic() + self._interval
            with condition:
                if self._flushing and (pause or not self._queue):
                    self._flushing = 0
                    condition.notify_all()
                if self._stopping and (pause or not self._queue or self._late()):
                    self._stopped = True
                    condition.notify_all()
                    return

    def _due(self, next_send: float) -> bool:
        return (
            len(self._queue) >= self._batch_size
            or bool(self._flushing)
            or self._stopping
            or self._stopped
            or time.monotonic() >= next_send
        )

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _send_due(self) -> float:
        """Sends all that waits, batch by batch; gives the seconds to pause after a failure, else 0."""
        backoff, attempts = 0.0, 0
        while True:
            with self._changed:
                if self._stopped or self._late():
                    return 0.0
                batch = [self._queue.popleft() for _ in range(min(self._batch_size, len(self._queue)))]
                self._in_flight = len(batch)
            if not batch:
                return 0.0
            while True:
                failure = self._export([span for span, _ in batch])
                if failure is None:
                    self._settle(batch)
                    break
                attempts += 1
                keep = failure.retryable and (failure.reason != "failed" or attempts < _ATTEMPTS)
                self._note_failure(failure)
                if not keep:
                    self._settle(batch)
                    self.counters.drop("rejected" if not failure.retryable else "export_error", len(batch))
                    break
                backoff = min(max(backoff * 2, _FIRST_BACKOFF), _LONGEST_BACKOFF)
                wait = failure.retry_after if failure.retry_after is not None else backoff * random.uniform(0.8, 1.2)  # noqa: S311
                with self._changed:
                    if self._stopping or self._flushing:
                        # Tried once more a moment ago: those who wait are told, the batch goes on waiting.
                        self._give_back(batch)
                        return backoff
                    self._changed.wait_for(
                        lambda: self._flushing or self._stopping or self._stopped, min(wait, _LONGEST_BACKOFF)
                    )
                    if self._stopped:
                        return 0.0

    def _give_back(self, batch: list[tuple[ReadableSpan, int]]) -> None:
        self._queue.extendleft(reversed(batch))
        self._in_flight = 0

    def _settle(self, batch: list[tuple[ReadableSpan, int]]) -> None:
        with self._changed:
            self._bytes -= sum(size for _, size in batch)
            self._in_flight = 0
            self._changed.notify_all()

    def _export(self, spans: list[ReadableSpan]) -> ExportError | None:
        try:
            result = self.exporter.export(spans)
        except ExportError as error:
            return error
        except Exception as error:
            return ExportError(
                f"{type(self.exporter).__name__} raised {type(error).__name__}: {error}",
                reason="failed",
                retryable=True,
            )
        if result is SpanExportResult.SUCCESS:
            self.counters.sent(len(spans))
            if self._down:
                self._down = False
                dropped = self.counters.dropped_total() - self._dropped_when_down
                _logger.warning("Spans are sent again; %d were dropped meanwhile.", dropped)
            return None
        return ExportError(f"{type(self.exporter).__name__} failed.", reason="failed", retryable=True)

    def _note_failure(self, failure: ExportError) -> None:
        message = str(failure)
        self.counters.failed(message)
        if not self._down:
            self._down = True
            self._dropped_when_down = self.counters.dropped_total()
            _logger.warning(
                "Spans can't be sent: %s %s Requests are not affected; `python manage.py check_tracing` says more.",
                message,
                f"Up to {self._queue_size} wait for it to come back." if failure.retryable else "They are dropped.",
            )

    # ----- the end

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Sends what waits; True when it was sent within ``timeout_millis`` milliseconds."""
        with self._changed:
            if self._stopped or not self.queued:
                return not self.queued
            if self._thread is None:
                self._start()
            self._flushing += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._flushing or not self.queued, timeout_millis / 1000)
            return not self.queued

    def shutdown(self) -> None:
        """Sends what waits, for at most ``shutdown_timeout`` seconds; the rest is dropped and counted."""
        with self._changed:
            if self._stopped or self._stopping:
                return
            self._deadline = time.monotonic() + self._shutdown_timeout
            thread = self._thread
            if thread is None and self._queue:
                self._start()
                thread = self._thread
            self._stopping = True
            self._changed.notify_all()
        if thread is not None:
            thread.join(self._shutdown_timeout)
        with self._changed:
            self._stopped = True
            left = self.queued
            self._queue.clear()
            self._changed.notify_all()
        if left:
            self.counters.drop("shutdown", left)
            _logger.warning("%d spans could not be sent before the process ended.", left)
        if thread is None or not thread.is_alive():
            # A thread that hangs in the exporter may hold its locks: the process ends without waiting for them.
            try:
                self.exporter.shutdown()
            except Exception:
                _logger.debug("The exporter could not be shut down.", exc_info=True)


def _suppress() -> None:
    context = context_api.set_value("suppress_instrumentation", True)
    try:
        from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

        context = context_api.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True, context)
    except ImportError:
        pass
    context_api.attach(context)
