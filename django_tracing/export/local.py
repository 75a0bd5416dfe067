"""Export spans to the local store: convert them to rows and pass these to a writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

from opentelemetry.sdk.resources import SERVICE_NAME
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.exceptions import ExportError, ExportReason, StoreError
from django_tracing.recording.sdk import plain_attributes
from django_tracing.redaction import redact_tracestate

__all__ = ["LocalExporter", "SpanRow", "span_row", "span_rows"]

#: One span as JSON-able values: what ``LocalStore.write`` takes. Times are nanoseconds.
SpanRow = dict[str, Any]


def span_rows(spans: Iterable[ReadableSpan]) -> list[SpanRow]:
    """Convert ``spans`` to rows. Those with the same resource share a dict."""
    resources: dict[int, tuple[object, dict[str, Any]]] = {}
    rows = []
    for span in spans:
        resource = span.resource
        known = resources.get(id(resource))
        if known is None:
            # With the resource, or another one could get its id.
            known = resources[id(resource)] = resource, _plain(plain_attributes(resource))
        rows.append(_row(span, known[1]))
    return rows


def span_row(span: ReadableSpan) -> SpanRow:
    """Convert ``span`` to a :data:`SpanRow`."""
    return _row(span, _plain(plain_attributes(span.resource)))


def _row(span: ReadableSpan, resource: dict[str, Any]) -> SpanRow:
    context = span.context
    assert context is not None
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else "",
        "name": span.name,
        "kind": span.kind.name.lower(),
        "service": str(resource.get(SERVICE_NAME, "")),
        "resource": resource,
        "scope": span.instrumentation_scope.name if span.instrumentation_scope else "",
        "start": span.start_time or 0,
        "end": span.end_time or 0,
        "status": span.status.status_code.name.lower(),
        "status_message": span.status.description or "",
        "attributes": _plain(plain_attributes(span)),
        "events": [
            {"name": event.name, "time": event.timestamp, "attributes": _plain(event.attributes)}
            for event in span.events
        ],
        "links": [
            {
                "trace_id": f"{link.context.trace_id:032x}",
                "span_id": f"{link.context.span_id:016x}",
                "attributes": _plain(link.attributes),
            }
            for link in span.links
        ],
        "trace_state": redact_tracestate(context.trace_state.to_header()) if context.trace_state else "",
    }


def _plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: _json(value) for key, value in (attributes or {}).items()}


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_json(item) for item in value]
    return str(value)


#: No batch can be stored: these spans are not the reason, and wait as long as the queue has room.
_REASONS: Final[Mapping[str, ExportReason]] = dict.fromkeys(("busy", "foreign", "full", "read_only"), "unreachable")


class LocalExporter(SpanExporter):
    """Pass spans to ``write``, which may raise OSError and similar exceptions for what a file can't store."""

    def __init__(self, write: Callable[[list[SpanRow]], None]) -> None:
        self._write = write

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write ``spans``. Raise :class:`ExportError`."""
        rows = span_rows(spans)
        try:
            self._write(rows)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # A bug of this app: another try would block the next spans.
            message = f"The local store can't store these spans: {type(error).__name__}: {error}"
            raise ExportError(message, reason="rejected", retryable=False) from error
        except StoreError as error:
            # This process can't write to a newer version's file, however often it tries.
            newer = error.reason == "newer"
            reason: ExportReason = "rejected" if newer else _REASONS.get(error.reason, "unavailable")
            raise ExportError(str(error), reason=reason, retryable=not newer) from error
        except Exception as error:
            raise ExportError(str(error), reason="unavailable", retryable=True) from error
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True
