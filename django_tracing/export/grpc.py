"""OTLP over gRPC, through upstream's exporter: the extra ``otlp-grpc``. Imported only when it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.export.errors import ExportError, MissingExtra, Reason

__all__ = ["make_otlp_grpc_exporter"]

#: Upstream's exporter logs each attempt; our own line per state change says it all.
_UPSTREAM_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.grpc",
)


def make_otlp_grpc_exporter(
    endpoint: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0
) -> SpanExporter:
    """An exporter for ``http://host:4317`` (plain) or ``https://host:4317`` (TLS). ``timeout`` is in seconds.

    Raises :class:`MissingExtra` when the extra ``otlp-grpc`` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingExtra(
            f'OTLP over gRPC is not installed ({error}): pip install "django-tracing[otlp-grpc]". Or send OTLP over '
            "HTTP, which needs no extra: the same host with port 4318."
        ) from error
    parts = urlsplit(endpoint)
    exporter = OTLPSpanExporter(
        endpoint=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}",
        insecure=parts.scheme != "https",
        # gRPC's metadata keys are lower case.
        headers=[(name.lower(), value) for name, value in (headers or {}).items()],
        timeout=timeout,
    )
    return _GRPCExporter(exporter, parts.netloc.rpartition("@")[2])


class _LastError(logging.Handler):
    """Takes upstream's log lines instead of the user's log, and remembers the last."""

    def __init__(self) -> None:
        super().__init__()
        self.message = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.message = record.getMessage()


class _GRPCExporter(SpanExporter):
    def __init__(self, exporter: Any, where: str) -> None:
        self._exporter = exporter
        self._where = where
        self._log = _LastError()
        for name in _UPSTREAM_LOGGERS:
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.addHandler(self._log)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends ``spans``; raises :class:`ExportError`."""
        self._log.message = ""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            return SpanExportResult.SUCCESS
        reason, retryable = _reason(self._log.message)
        raise ExportError(
            f"{self._where} did not take spans over gRPC ({self._log.message[:200] or 'no reason given'}).",
            reason=reason,
            retryable=retryable,
        )

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _reason(message: str) -> tuple[Reason, bool]:
    """What a gRPC status (https://grpc.io/docs/guides/status-codes/) in a log line means, and if it may pass."""
    if "UNAUTHENTICATED" in message or "PERMISSION_DENIED" in message:
        return "unauthorized", False
    if "UNIMPLEMENTED" in message:
        return "not_found", False
    if "DEADLINE_EXCEEDED" in message:
        return "timeout", True
    if "INVALID_ARGUMENT" in message:
        return "rejected", False
    return "unavailable", True
