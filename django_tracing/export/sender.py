"""Send the batches of a queue from one background thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import Token
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.sdk.trace.export import SpanExporter

from django_tracing.exceptions import ExportError
from django_tracing.export.announcements import Announcements, warn
from django_tracing.export.attempts import export_batch, probe
from django_tracing.export.counters import Counters, DropReason
from django_tracing.export.outbox import PROBE, Outbox, Waiting, drop_reason
from django_tracing.faults import CONTAINED, log_once
from django_tracing.untraced import SUPPRESSED

if TYPE_CHECKING:
    from django_tracing.export.spooling import Spooling

__all__ = ["Sender"]

_logger = logging.getLogger("django_tracing.export")

#: The share of the queue's bytes from which on what waits is stored in the spool.
_SPILL_AT: Final = 0.75
#: Steps of the sending thread, beside sending a batch and PROBE.
_SPILL: Final = object()
_SPOOLED: Final = object()
_PAUSE: Final = object()
#: Why batches are dropped that may be accepted later.
_TEMPORARY: Final = frozenset(("expired", "retry_full"))


class Sender:
    """The sending thread's half of a queue. The queue owns the state, and holds ``_changed`` when it changes it."""

    exporter: SpanExporter
    counters: Counters
    _announce: Announcements
    _outbox: Outbox
    _spooling: Spooling | None
    #: A lock in C: an interruption may come before a Condition, in Python, has released it.
    _lock: Any
    _changed: Condition
    _thread: Thread | None
    _batch_size: int
    _interval: float
    _queue_bytes: int
    _room: str
    _shutdown_timeout: float
    _deadline: float | None
    _stopping: bool
    _stopped: bool
    _bytes: int
    _accepted: int
    _settled: int
    _lost: int
    _attempt: int
    _next_send: float
    #: When the exporter may do what can wait, and how many spans were accepted when that was last asked.
    _work_at: float
    _accepted_before: int
    _spool_is_next: bool
    _is_spilling: bool
    _gather: Callable[[], None]
    _close_filling: Callable[[], None]

    @property
    def queued(self) -> int:
        raise NotImplementedError

    def _run(self) -> None:
        try:
            # Sending (HTTP, SQLite) must not be traced.
            _suppress()
            self._work()
            with self._lock:
                hung = self._stopped and self._late()
            if not hung:
                # Not in shutdown(), which has a time limit.
                self._shut_exporter()
        except BaseException as error:
            # Exporters should only raise subclasses of Exception. The next span starts a new thread.
            with self._lock:
                self._thread = None
                message = f"{type(self.exporter).__name__} raised {type(error).__name__}."
                self.counters.failed(message)
                lost = self._outbox.give_up(self._attempt + 1)
                if self._spooling is not None:
                    self._spooling.release()
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
        self._next_send = time.monotonic() + self._interval
        while True:
            with self._lock:
                step = self._wait_for_step()
                if step is None:
                    return
                if isinstance(step, Waiting):
                    self._attempt += 1
                    self._outbox.start(step, self._attempt)
            if isinstance(step, Waiting):
                self._send(step.batch)
                if hasattr(self.exporter, "work_in_pause"):
                    self._work_at = min(self._work_at, time.monotonic() + self._interval)
            elif step is _PAUSE:
                self._work_in_pause()
            elif step is PROBE:
                failure = probe(self.exporter)
                with self._lock:
                    self._outbox.probed(failure, time.monotonic())
            elif step is _SPILL:
                self._spill()
            else:
                self._send_spooled()

    def _work_in_pause(self) -> None:
        """Let the exporter do what can wait, as long as few spans wait."""
        work: Callable[[], bool] = self.exporter.work_in_pause  # type: ignore[attr-defined]
        more = True
        try:
            while more and not self._stopping and self.queued < self._batch_size // 2:
                more = work()
        except Exception:
            more = False
            log_once("pause", "What the exporter leaves for pauses could not be done.")
        self._work_at = time.monotonic() + self._interval if more else float("inf")

    def _wait_for_step(self) -> Any:
        """Return what to do next; None at the end. Call it with the lock."""
        outbox, spooling = self._outbox, self._spooling
        while True:
            if self._stopping:
                # Spans that another thread is about to count. Otherwise there would be empty batches.
                self._gather()
                self._close_filling()
            now = time.monotonic()
            if self._stopped or self._late():
                return None
            if now >= self._next_send:
                self._next_send = now + self._interval
                self._gather()
                # While nothing can be sent, only full batches are made, unless they are stored: they may get lost.
                if spooling is not None or not (outbox.paused and outbox):
                    self._close_filling()
            outbox.more = spooling is not None and spooling.has_more
            step = outbox.next(now)
            if spooling is not None and not outbox.hurries:
                full = outbox.is_down or self._bytes > self._queue_bytes * _SPILL_AT
                if full and outbox.waits and spooling.is_usable(now):
                    return _SPILL
                turn = isinstance(step, float) or self._spool_is_next
                if turn and not outbox.paused and not self._stopping and spooling.is_due(now):
                    self._spool_is_next = False
                    return _SPOOLED
            if self._stopping and not isinstance(step, Waiting):
                return None
            if not isinstance(step, float):
                self._spool_is_next = True
                return step
            if now >= self._work_at:
                # A process whose spans fill a batch in an interval is busy.
                busy = self._accepted - self._accepted_before >= self._batch_size
                self._accepted_before = self._accepted
                if not busy:
                    return _PAUSE
                self._work_at = now + self._interval
            self._changed.wait(max(min(step, self._next_send - now, self._work_at - now), 0.0))

    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _send(self, batch: Any) -> None:
        failure = export_batch(self.exporter, batch)
        with self._lock:
            if self._stopped:
                return  # shutdown() stopped waiting, and counted these as lost
            line, dropped = self._settle(batch, failure)
        self._drop(dropped)
        warn(line)
        warn(self._announce.overflow(self._room))
        # Last: what a flush has waited for is counted and logged.
        with self._lock:
            self._changed.notify_all()

    def _settle(self, batch: Any, failure: ExportError | None) -> tuple[str | None, list[tuple[DropReason, Any]]]:
        """Count the result of an attempt. Return a log line, and what is to be dropped. Call it with the lock."""
        now = time.monotonic()
        if failure is not None:
            self.counters.failed(str(failure))
        if failure is None or failure.rejected is not None:
            self._outbox.accept(now)
            self._leave(batch)
            return self._count_accepted(batch.count, failure), []
        if failure.retryable:
            self.counters.retried()
        dropped = self._outbox.fail(failure, now)
        if self._outbox.is_down:
            return self._announce.unavailable(failure, self.queued, self._room), dropped
        if not dropped:
            return None, dropped
        lost = sum(each.count for _, each in dropped)
        stored = self._spooling is not None and all(reason in _TEMPORARY for reason, _ in dropped)
        return self._announce.refused(failure, lost, stored=stored), dropped

    def _count_accepted(self, count: int, failure: ExportError | None) -> str | None:
        rejected = 0 if failure is None else min(failure.rejected or 0, count)
        self.counters.sent(count - rejected)
        line = self._announce.available()
        if failure is not None and rejected:
            line = " ".join(filter(None, (line, self._announce.refused(failure, rejected))))
            self.counters.drop("rejected", rejected)
        return line

    def _drop(self, dropped: list[tuple[DropReason, Any]]) -> None:
        """Drop batches, or store in the spool what was not refused for ever. Don't call it with the lock."""
        for reason, batch in dropped:
            kept = self._spooling is not None and reason in _TEMPORARY and self._spooling.store([batch])
            with self._lock:
                if not kept:
                    self.counters.drop(reason, batch.count)
                self._lost += batch.count
                self._leave(batch)

    @property
    def _spills(self) -> bool:
        """Whether what waits is about to be stored: the process may end after a flush."""
        spooling, outbox = self._spooling, self._outbox
        if spooling is None or self._is_spilling:
            return self._is_spilling
        return outbox.is_down and outbox.waits and spooling.is_usable(time.monotonic())

    def _leave(self, batch: Any) -> None:
        self._bytes -= batch.size
        self._settled += batch.count

    # ----- the spool

    def _spill(self) -> None:
        """Store all that waits in the spool."""
        assert self._spooling is not None
        with self._lock:
            waiting = self._outbox.take_all()
            self._is_spilling = True
        stored = self._spooling.store([each.batch for each in waiting])
        with self._lock:
            for each in waiting[:stored]:
                # A flush did not send it.
                self._lost += each.batch.count
                self._leave(each.batch)
            self._outbox.put_back(waiting[stored:])
            self._is_spilling = False
            self._changed.notify_all()

    def _send_spooled(self) -> None:
        """Send the oldest batch of the spool."""
        spooling, outbox = self._spooling, self._outbox
        assert spooling is not None
        batch = spooling.next(time.monotonic())
        if batch is None:
            return
        with self._lock:
            self._attempt += 1
        failure = export_batch(self.exporter, batch)
        line = None
        with self._lock:
            now = time.monotonic()
            if failure is not None:
                self.counters.failed(str(failure))
            if failure is None or failure.rejected is not None:
                outbox.accept(now)
                self.counters.unspool(batch.count)
                line = self._count_accepted(batch.count, failure)
            elif failure.retryable:
                self.counters.retried()
                outbox.refuse_spooled(failure, now, self._attempt)
                if outbox.is_down:
                    line = self._announce.unavailable(failure, self.queued, self._room)
                if spooling.keep(now, outbox.accepted):
                    batch = None
                else:
                    line = self._announce.refused(failure, batch.count)
                    self.counters.drop("expired", batch.count)
            else:
                outbox.answered(now)
                line = self._refuse_spooled(batch, failure)
        if batch is not None:
            spooling.done()
        warn(line)

    def _refuse_spooled(self, batch: Any, failure: ExportError) -> str | None:
        if failure.reason == "too_large" and batch.count > 1:
            for part in batch.split():
                self._bytes += part.size
                self._accepted += part.count
                self._outbox.put(part)
            return None
        line = self._announce.refused(failure, batch.count)
        self.counters.drop(drop_reason(failure), batch.count)
        return line

    def _work_here(self) -> None:
        """Send from this thread: the interpreter is ending and starts no other thread."""
        timeout = getattr(self.exporter, "timeout", None)
        if isinstance(timeout, (int, float)):
            self.exporter.timeout = min(timeout, self._shutdown_timeout)  # type: ignore[attr-defined]
        token = _suppress()
        try:
            self._work()
        except CONTAINED:
            # The process ends: what waits is counted as lost.
            _logger.debug("The spans that waited could not be sent.", exc_info=True)
        finally:
            context_api.detach(token)

    def _shut_exporter(self) -> None:
        try:
            self.exporter.shutdown()
        except CONTAINED:
            _logger.debug("The exporter could not be shut down.", exc_info=True)


def _suppress() -> Token[Context]:
    return context_api.attach(Context({**context_api.get_current(), **SUPPRESSED}))
