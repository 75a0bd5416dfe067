"""Read the answers of version 3 of Jaeger's query API."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from django_tracing.semconv.otlp import KIND_NUMBERS, STATUS_NUMBERS
from django_tracing.traces.model import (
    Event,
    Kind,
    Link,
    Span,
    Status,
    TraceSummary,
    root_first,
)
from django_tracing.traces.readers.jaeger.conversion import (
    Group,
    ReadSpan,
    checked_text,
    microseconds,
    nanoseconds,
    parse_span_id,
    parse_trace_id,
    sorted_names,
)
from django_tracing.traces.readers.jaeger.json_stream import JsonStream
from django_tracing.traces.times import iso_time, to_nanoseconds
from django_tracing.traces.values import DEEPEST, shallow

if TYPE_CHECKING:
    from django_tracing.traces.readers.jaeger.http import QueryClient

__all__ = ["OPERATIONS_PATH", "SERVICES_PATH", "TRACES_PATH", "operations", "query", "search", "services", "walk"]


SERVICES_PATH: Final = "/api/v3/services"
OPERATIONS_PATH: Final = "/api/v3/operations"
TRACES_PATH: Final = "/api/v3/traces"


def services(answer: Any) -> list[str]:
    return sorted_names(answer.get("services"))


def operations(answer: Any) -> list[str]:
    # There may be several kinds of span with one name.
    return sorted_names({item["name"] for item in answer.get("operations") or ()})


def query(
    service: str,
    since: float,
    until: float,
    depth: int,
    operation: str | None = None,
    min_duration: float | None = None,
    attributes: dict[str, str] | None = None,
) -> dict[str, str]:
    found = {
        "query.serviceName": service,
        "query.startTimeMin": iso_time(to_nanoseconds(since)),
        "query.startTimeMax": iso_time(to_nanoseconds(until)),
        "query.searchDepth": str(depth),
    }
    if operation is not None:
        found["query.operationName"] = operation
    if min_duration is not None:
        found["query.durationMin"] = microseconds(min_duration)
    if attributes:
        found["query.attributes"] = json.dumps(attributes)
    return found


def search(client: QueryClient, query: dict[str, str]) -> list[TraceSummary]:
    return client.ask(
        "/api/v3/trace-summaries", query, lambda answer: [_summary(item) for item in answer.get("summaries") or ()]
    )


_KINDS: Final[dict[Any, Kind]] = {number: cast(Kind, name) for name, number in KIND_NUMBERS.items()}
_STATUSES: Final[dict[Any, Status]] = {number: cast(Status, name) for name, number in STATUS_NUMBERS.items()}


def _summary(item: dict[str, Any]) -> TraceSummary:
    # Zeros and empty texts are omitted.
    start = nanoseconds(item.get("minStartTimeUnixNano", 0))
    root = checked_text(item.get("rootServiceName", ""))
    return TraceSummary(
        trace_id=parse_trace_id(item["traceId"]),
        name=checked_text(item.get("rootOperationName", "")),
        service=root,
        services=root_first(root, (checked_text(service.get("name", "")) for service in item.get("services") or ())),
        start=start,
        duration=max(0, nanoseconds(item.get("maxEndTimeUnixNano", 0)) - start),
        span_count=int(item.get("spanCount", 0)),
        error_count=int(item.get("errorSpanCount", 0)),
    )


def walk(stream: JsonStream) -> Iterator[ReadSpan]:
    found = False
    for key in stream.members():
        if key == "result":
            found = True
            for inner in stream.members():
                if inner == "resourceSpans":
                    for _ in stream.items():
                        yield from _walk_resource(stream)
                else:
                    stream.value()
        else:
            stream.value()
    if not found:
        raise KeyError("result")


def _walk_resource(stream: JsonStream) -> Iterator[ReadSpan]:
    group = Group(complete=True)
    for key in stream.members():
        if key == "resource":
            group.resource = _attributes((stream.value() or {}).get("attributes"))
        elif key == "scopeSpans":
            for _ in stream.items():
                scope = Group(complete=True)
                for inner in stream.members():
                    if inner == "scope":
                        scope.scope = checked_text((stream.value() or {}).get("name", ""))
                    elif inner == "spans":
                        for _ in stream.items():
                            yield _read(stream.value(), group, scope)
                    else:
                        stream.value()
        else:
            stream.value()


def _read(item: dict[str, Any], group: Group, scope: Group) -> ReadSpan:
    return ReadSpan(
        item,
        group,
        scope,
        parse_trace_id(item["traceId"]),
        parse_span_id(item["spanId"]),
        nanoseconds(item.get("startTimeUnixNano", 0)),
        not item.get("parentSpanId"),
        lambda item, group, scope, keys: _span(item, group.resource, scope.scope, keys),
    )


def _span(item: dict[str, Any], resource: dict[str, Any], scope: str, keys: Collection[str] | None) -> Span:
    status = item.get("status") or {}
    attributes = item.get("attributes") or ()
    if keys is not None:
        attributes = [each for each in attributes if each["key"] in keys]
    return Span(
        trace_id=parse_trace_id(item["traceId"]),
        span_id=parse_span_id(item["spanId"]),
        parent_id=parse_span_id(item.get("parentSpanId", "")),
        name=checked_text(item.get("name", "")),
        kind=_KINDS.get(item.get("kind"), "internal"),
        service=str(resource.get("service.name", "")),
        start=nanoseconds(item.get("startTimeUnixNano", 0)),
        end=nanoseconds(item.get("endTimeUnixNano", 0)),
        status=_STATUSES.get(status.get("code"), "unset"),
        status_message=checked_text(status.get("message", "")),
        attributes=_attributes(attributes),
        events=[]
        if keys is not None
        else [
            Event(
                checked_text(event.get("name", "")),
                nanoseconds(event.get("timeUnixNano", 0)),
                _attributes(event.get("attributes")),
            )
            for event in item.get("events") or ()
        ],
        links=[]
        if keys is not None
        else [
            Link(parse_trace_id(link["traceId"]), parse_span_id(link["spanId"]), _attributes(link.get("attributes")))
            for link in item.get("links") or ()
        ],
        resource=resource,
        scope=scope,
    )


def _attributes(items: Iterable[dict[str, Any]] | None, depth: int = DEEPEST) -> dict[str, Any]:
    return {checked_text(item["key"]): _value(item.get("value") or {}, depth) for item in items or ()}


def _value(value: dict[str, Any], depth: int = DEEPEST) -> Any:
    """Convert an AnyValue of protobuf's JSON, in which integers of 64 bits are strings. Limit its depth."""
    if not depth:
        return "…"
    for kind, item in value.items():
        if kind == "intValue":
            return int(item)
        if kind == "doubleValue":
            return float(item)
        if kind == "arrayValue":
            return [_value(each, depth - 1) for each in item.get("values") or ()]
        if kind == "kvlistValue":
            return _attributes(item.get("values"), depth - 1)
        return shallow(item)
    return None
