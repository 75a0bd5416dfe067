"""Write a trace as OTLP JSON and as the JSON of Jaeger's UI, while its spans are read."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from django_tracing.semconv.otlp import KIND_NUMBERS, STATUS_NUMBERS
from django_tracing.traces.model import Event, Span
from django_tracing.traces.values import DEEPEST

__all__ = ["jaeger_json", "otlp_json"]


def otlp_json(spans: Iterable[Span]) -> Iterator[str]:
    """Write ``spans`` as an export request in OTLP JSON, which any OTLP receiver accepts at ``/v1/traces``.

    The text is yielded in pieces while the spans are read. Consecutive spans of one resource and scope are one group.
    The encoding: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    """
    yield '{"resourceSpans": ['
    behind = ""
    for number, (resource, members) in enumerate(groupby(spans, key=_Resource)):
        yield f'{"," if number else ""}\n{{"resource": {_written({"attributes": _otlp_attributes(resource.whole)})}'
        yield ', "scopeSpans": ['
        for place, (scope, found) in enumerate(groupby(members, key=lambda span: span.scope)):
            yield f'{"," if place else ""}\n{{"scope": {_written({"name": scope} if scope else {})}, "spans": [\n'
            behind = ""
            for span in found:
                yield behind + _written(_otlp_span(span))
                behind = ",\n"
            yield "]}"
        yield "]}"
    yield "]}\n"


class _Resource:
    """A span's resource and service. Comparing the same dict twice does not compare its content."""

    __slots__ = ("service", "stored")

    def __init__(self, span: Span) -> None:
        self.service = span.service
        self.stored = span.resource

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Resource)
            and self.service == other.service
            and (self.stored is other.stored or self.stored == other.stored)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def whole(self) -> dict[str, Any]:
        return {"service.name": self.service, **self.stored}


def _written(value: Any) -> str:
    return json.dumps(value, default=str)


def _otlp_span(span: Span) -> dict[str, Any]:
    status: dict[str, Any] = {"code": STATUS_NUMBERS[span.status]} if span.status != "unset" else {}
    if span.status_message:
        status["message"] = span.status_message
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        **({"parentSpanId": span.parent_id} if span.parent_id else {}),
        "name": span.name,
        "kind": KIND_NUMBERS[span.kind],
        # JavaScript's numbers have less than 64 bits.
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end),
        "attributes": _otlp_attributes(span.attributes),
        "events": [
            {"name": event.name, "timeUnixNano": str(event.time), "attributes": _otlp_attributes(event.attributes)}
            for event in span.events
        ],
        "links": [
            {"traceId": link.trace_id, "spanId": link.span_id, "attributes": _otlp_attributes(link.attributes)}
            for link in span.links
        ],
        "status": status,
    }


def _otlp_attributes(attributes: Mapping[str, Any], depth: int = DEEPEST) -> list[dict[str, Any]]:
    return [{"key": key, "value": _otlp_value(value, depth)} for key, value in attributes.items()]


def _otlp_value(value: Any, depth: int = DEEPEST) -> dict[str, Any]:
    if not depth:
        return {"stringValue": "…"}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        # Numbers of more than 64 bits become text.
        return {"intValue": str(value)} if -(2**63) <= value < 2**63 else {"stringValue": str(value)}
    if isinstance(value, float):
        # Protobuf's JSON writes only these numbers as text.
        return {"doubleValue": value if math.isfinite(value) else _not_finite(value)}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [_otlp_value(item, depth - 1) for item in value]}}
    if isinstance(value, Mapping):
        return {
            "kvlistValue": {"values": _otlp_attributes({str(key): item for key, item in value.items()}, depth - 1)}
        }
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    return {} if value is None else {"stringValue": str(value)}


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def jaeger_json(trace_id: str, spans: Iterable[Span], unstored: int = 0) -> Iterator[str]:
    """Write ``spans`` as Jaeger's query API does, in the format of files for Jaeger's UI. Times are microseconds.

    The text is yielded in pieces while the spans are read. ``unstored`` is how many more spans the trace had.
    How OpenTelemetry's spans are mapped to it: https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/
    """
    yield f'{{"data": [{{"traceID": {_written(trace_id)}, "spans": ['
    processes: dict[str, dict[str, Any]] = {}
    numbers: dict[str, str] = {}
    behind = "\n"
    last: _Resource | None = None
    number = ""
    for span in spans:
        resource = _Resource(span)
        if resource != last:
            last = resource
            tags = {key: value for key, value in span.resource.items() if key != "service.name"}
            known = repr((span.service, sorted(tags.items(), key=lambda item: item[0])))
            number = numbers.setdefault(known, f"p{len(numbers) + 1}")
            processes.setdefault(number, {"serviceName": span.service, "tags": _tags(tags)})
        yield behind + _written(_jaeger_span(span, number))
        behind = ",\n"
    warnings = [f"{unstored} more spans were not stored."] if unstored else None
    yield f'],\n"processes": {_written(processes)}, "warnings": {_written(warnings)}}}],'
    yield ' "total": 0, "limit": 0, "offset": 0, "errors": null}\n'


def _jaeger_span(span: Span, process: str) -> dict[str, Any]:
    tags: dict[str, Any] = dict(span.attributes)
    tags["span.kind"] = span.kind
    if span.scope:
        tags["otel.scope.name"] = span.scope
    if span.status != "unset":
        tags["otel.status_code"] = span.status.upper()
    if span.failed:
        tags["error"] = True
    if span.status_message:
        tags["otel.status_description"] = span.status_message
    references = (
        [{"refType": "CHILD_OF", "traceID": span.trace_id, "spanID": span.parent_id}] if span.parent_id else []
    )
    references += [
        {"refType": "FOLLOWS_FROM", "traceID": link.trace_id, "spanID": link.span_id} for link in span.links
    ]
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start // 1000,
        "duration": span.duration // 1000,
        "tags": _tags(tags),
        "logs": [_log(event) for event in span.events],
        "processID": process,
        "warnings": None,
    }


def _log(event: Event) -> dict[str, Any]:
    return {"timestamp": event.time // 1000, "fields": _tags({"event": event.name, **event.attributes})}


def _tags(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_tag(key, value) for key, value in attributes.items()]


def _tag(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"key": key, "type": "bool", "value": value}
    if isinstance(value, int) and -(2**53) < value < 2**53:
        return {"key": key, "type": "int64", "value": value}
    if isinstance(value, float) and math.isfinite(value):
        return {"key": key, "type": "float64", "value": value}
    if isinstance(value, (list, tuple, Mapping)):
        return {"key": key, "type": "string", "value": _json(value)}
    return {"key": key, "type": "string", "value": str(value)}


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))
