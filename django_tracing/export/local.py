"""Export spans to the local store, in the encoding that other receivers get, with what its lists need of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

from opentelemetry.sdk.resources import SERVICE_NAME
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing.exceptions import ExportError, ExportReason, StoreError
from django_tracing.export.wire import EncodedBatch, encode_resource, encode_scope, encode_span
from django_tracing.recording.sdk import plain_attributes
from django_tracing.recording.span import UNSET, RecordingSpan
from django_tracing.redaction import redact_tracestate
from django_tracing.semconv.facts import FACTS_BYTES, EncodedSection, SpanFacts, facts_of

__all__ = ["LocalBatch", "LocalExporter", "SpanRow", "span_row"]

#: One span as JSON-able values. Times are nanoseconds.
SpanRow = dict[str, Any]

#: By their numbers: a kind is an Enum, which is slow to hash.
_KINDS: Final = [kind.name.lower() for kind in sorted(SpanKind, key=lambda kind: kind.value)]
#: The resource does not matter to what a span of this process does.
_HERE: Final[Mapping[str, Any]] = {}


def span_row(span: ReadableSpan) -> SpanRow:
    """Convert ``span`` to a :data:`SpanRow`."""
    context = span.context
    assert context is not None
    resource = _plain(plain_attributes(span.resource))
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else "",
        "name": span.name,
        "kind": _KINDS[span.kind.value],
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


def _facts(span: ReadableSpan) -> SpanFacts:
    context, parent = span.context, span.parent
    assert context is not None
    return facts_of(
        *(context.trace_id, context.span_id, parent.span_id if parent is not None else 0, span.name),
        *(_KINDS[span.kind.value], span.start_time or 0, span.end_time or 0),
        span.status.status_code is StatusCode.ERROR,
        plain_attributes(span),
        plain_attributes(span.resource),
    )


def _own_facts(span: RecordingSpan) -> SpanFacts:
    """Return the facts of one of our own spans. To read its public attributes would take longer."""
    attributes: dict[str, Any] = {}
    for part in span.shared:
        attributes.update(part.attributes)
    if span.own:
        attributes.update(span.own)
    status = span.span_status
    return facts_of(
        *(span.trace_id, span.span_id, span.parent_id, span.span_name, _KINDS[span.span_kind.value]),
        *(span.start_ns, span.end_ns or 0, status is not UNSET and status.status_code is StatusCode.ERROR),
        *(attributes, _HERE),
    )


class LocalBatch(EncodedBatch):
    """Build the sections that the local store takes, of encoded spans."""

    __slots__ = ("_facts",)

    @staticmethod
    def pack(span: ReadableSpan) -> tuple[tuple[bytes, SpanFacts], int]:  # type: ignore[override]
        encoded = encode_span(span)
        return (encoded, _facts(span)), len(encoded) + FACTS_BYTES

    @staticmethod
    def pack_all(spans: Sequence[ReadableSpan]) -> tuple[Any, int] | None:
        packed = EncodedBatch.pack_all(spans)
        if packed is None:
            return None
        encoded, size = packed
        facts = [_own_facts(span) for span in spans]  # type: ignore[arg-type]
        return (encoded, facts), size + FACTS_BYTES * len(spans)

    def __init__(self) -> None:
        super().__init__()
        self._facts: dict[tuple[int, int], list[SpanFacts]] = {}

    def add(self, span: ReadableSpan, encoded: Any, size: int) -> None:
        super().add(span, encoded[0], size)
        self._facts_of(span).append(encoded[1])

    def add_all(self, spans: Sequence[ReadableSpan], encoded: Any, size: int) -> None:
        super().add_all(spans, encoded[0], size)
        self._facts_of(spans[0]).extend(encoded[1])

    def _facts_of(self, span: ReadableSpan) -> list[SpanFacts]:
        return self._facts.setdefault((id(span.resource), id(span.instrumentation_scope)), [])

    def sections(self) -> list[EncodedSection]:
        """Return the spans as the local store takes them."""
        return [
            EncodedSection(
                str(plain_attributes(section.resource).get(SERVICE_NAME, "")),
                encode_resource(section.resource),
                b"".join(encode_scope(section.scope)),
                section.encoded,
                self._facts[key],
            )
            for key, section in self._sections.items()
        ]


#: No batch can be stored: these spans are not the reason, and wait as long as the queue has room.
_REASONS: Final[Mapping[str, ExportReason]] = dict.fromkeys(("busy", "foreign", "full", "read_only"), "unreachable")


class LocalExporter(SpanExporter):
    """Pass spans to ``write``, which may raise OSError and similar exceptions for what a file can't store."""

    new_batch = LocalBatch

    def __init__(
        self, write: Callable[[Sequence[EncodedSection]], None], work_in_pause: Callable[[], bool] = bool
    ) -> None:
        self._write = write
        #: Does a step of what can wait until nothing is to be written, and returns whether there is more of it.
        self.work_in_pause = work_in_pause

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write ``spans``. Raise :class:`ExportError`."""
        batch = LocalBatch()
        for span in spans:
            batch.add(span, *batch.pack(span))
        return self.export_batch(batch)

    def export_batch(self, batch: LocalBatch) -> SpanExportResult:
        """Write the spans of ``batch``. Raise :class:`ExportError`."""
        try:
            self._write(batch.sections())
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
