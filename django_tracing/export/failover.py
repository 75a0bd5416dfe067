"""Send each batch to one of several receivers: to the next one if the first is not available."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.exceptions import ExportError

__all__ = ["FailoverExporter"]

#: Seconds until a receiver that was not available is probed again.
_PAUSE: Final = 0.9
#: A longer Retry-After is not followed: the receiver may be any program.
_LONGEST_RETRY_AFTER: Final = 30.0
#: The probes of a receiver that does not answer take at most this share of the sending thread's time.
_SHARE: Final = 0.1
#: The reasons of failures of one receiver, if it did not refuse the batch: another one may accept it.
_ITS_OWN: Final = frozenset(("tls", "wrong_protocol"))


class _Receiver:
    __slots__ = ("check_at", "exporter", "failure", "shown")

    def __init__(self, shown: str, exporter: Any) -> None:
        self.shown = shown
        self.exporter = exporter
        #: Why it is not available; None if it is.
        self.failure: ExportError | None = None
        #: When to probe it.
        self.check_at = 0.0


class FailoverExporter(SpanExporter):
    """Send each batch to the first available receiver, or to all of them in turn. Raise :class:`ExportError`.

    ``exporters`` are pairs of an address for people and an exporter of the same kind, with a ``probe``. A receiver
    that is not available is left out, and probed again each second. Not thread-safe, as exporters need not be.
    """

    def __init__(
        self, exporters: Sequence[tuple[str, SpanExporter]], order: Literal["in_order", "round_robin"]
    ) -> None:
        self._receivers = [_Receiver(shown, exporter) for shown, exporter in exporters]
        self._in_turn = order == "round_robin"
        self._turn = 0
        self.new_batch = self._receivers[0].exporter.new_batch

    @property
    def timeout(self) -> float:
        """The seconds of one export, with all receivers that it tries."""
        return float(self._receivers[0].exporter.timeout)

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        for receiver in self._receivers:
            receiver.exporter.timeout = seconds

    def states(self) -> list[dict[str, Any]]:
        """Return each receiver's address for people, and whether it was available when it was last used."""
        return [{"endpoint": each.shown, "available": each.failure is None} for each in self._receivers]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send ``spans``. Raise :class:`ExportError`."""
        return self._send(lambda exporter: exporter.export(spans))

    def export_batch(self, batch: Any) -> SpanExportResult:
        """Send spans that are encoded already. Raise :class:`ExportError`."""
        return self._send(lambda exporter: exporter.export_batch(batch))

    def probe(self) -> None:
        """Raise :class:`ExportError` if no receiver is available."""
        failures = [self._probe(receiver) for receiver in self._receivers]
        failure = failures[-1]
        if failure is not None and None not in failures:
            raise failure

    def _probe(self, receiver: _Receiver) -> ExportError | None:
        started = time.monotonic()
        failure = None
        try:
            receiver.exporter.probe()
        except ExportError as error:
            # One that refuses an empty message for ever may still accept spans.
            failure = error if _is_its_own(error) else None
        ended = time.monotonic()
        self._note(receiver, failure, ended + (ended - started) / _SHARE)
        return failure

    def _send(self, send: Callable[[Any], SpanExportResult]) -> SpanExportResult:
        failure: ExportError | None = None
        timeout = self.timeout
        deadline = time.monotonic() + timeout
        try:
            for receiver in self._order():
                left = deadline - time.monotonic()
                if failure is not None and left <= 0:
                    # The queue tries again, with the next receiver.
                    break
                receiver.exporter.timeout = min(max(left, 0.0), timeout)
                try:
                    result = send(receiver.exporter)
                except ExportError as error:
                    if not _is_its_own(error):
                        self._note(receiver, None)
                        raise
                    self._note(receiver, error, time.monotonic())
                    failure = error
                else:
                    self._note(receiver, None)
                    return result
        finally:
            self.timeout = timeout
        assert failure is not None
        raise failure

    def _order(self) -> list[_Receiver]:
        """Return the receivers in the order in which they are tried: the available ones first."""
        now = time.monotonic()
        receivers = self._receivers
        if self._in_turn:
            self._turn = (self._turn + 1) % len(receivers)
            receivers = receivers[self._turn :] + receivers[: self._turn]
        if any(receiver.failure is None for receiver in receivers):
            for receiver in receivers:
                if receiver.failure is not None and receiver.check_at <= now:
                    self._probe(receiver)
        available = [receiver for receiver in receivers if receiver.failure is None]
        others = [receiver for receiver in receivers if receiver.failure is not None]
        return available + sorted(others, key=lambda receiver: receiver.check_at)

    def _note(self, receiver: _Receiver, failure: ExportError | None, check_at: float = 0.0) -> None:
        receiver.failure = failure
        asked = 0.0 if failure is None else min(failure.retry_after or 0.0, _LONGEST_RETRY_AFTER)
        receiver.check_at = max(check_at, time.monotonic() + max(_PAUSE, asked))

    def shutdown(self) -> None:
        for receiver in self._receivers:
            with suppress(Exception):
                receiver.exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _is_its_own(error: ExportError) -> bool:
    """Return whether another receiver may accept what this one did not."""
    return error.retryable or (error.reason in _ITS_OWN and error.status in (None, 200))
