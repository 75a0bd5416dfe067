"""Call an exporter, and turn whatever it raises or returns into an ExportError or None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace.export import SpanExportResult

from django_tracing.exceptions import ExportError
from django_tracing.export.batches import SpanBatch
from django_tracing.redaction import cut, redact_text

__all__ = ["export_batch", "probe"]


def export_batch(exporter: Any, batch: Any) -> ExportError | None:
    """Send ``batch``. Return why it was not accepted, or None."""
    if batch.__class__ is SpanBatch:
        return _attempt(exporter, lambda: exporter.export(batch.spans))
    return _attempt(exporter, lambda: exporter.export_batch(batch))


def probe(exporter: Any) -> ExportError | None:
    """Ask whether the receiver is available. Return why it is not, or None."""
    return _attempt(exporter, lambda: exporter.probe() or SpanExportResult.SUCCESS)


def _attempt(exporter: Any, send: Callable[[], Any]) -> ExportError | None:
    try:
        result = send()
    except ExportError as error:
        return error
    except Exception as error:
        return ExportError(
            # An exporter's message may contain its URL or headers.
            f"{type(exporter).__name__} raised {type(error).__name__}: {cut(redact_text(str(error)), 300)}.",
            reason="failed",
            retryable=True,
        )
    if result is SpanExportResult.SUCCESS:
        return None
    return ExportError(f"{type(exporter).__name__} failed.", reason="failed", retryable=True)
