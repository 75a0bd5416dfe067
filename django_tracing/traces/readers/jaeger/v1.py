"""Read the answers of version 1 of Jaeger's query API."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from django_tracing.semconv.categories import category_of, is_statement
from django_tracing.traces.model import (
    Event,
    Kind,
    Link,
    Span,
    TraceSummary,
    request_of,
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
from django_tracing.traces.times import to_nanoseconds
from django_tracing.traces.topmost import MOST_OUTLINED, Outline, outline_of, topmost_of
from django_tracing.traces.values import shallow

if TYPE_CHECKING:
    from django_tracing.traces.readers.jaeger.http import QueryClient

__all__ = [
    "DEPENDENCIES_PATH",
    "MOST_PROCESSES",
    "OPERATIONS_PATH",
    "SERVICES_PATH",
    "TRACES_PATH",
    "call_counts",
    "operations",
    "query",
    "search",
    "services",
    "walk",
]

#: The names of a trace's services come from at most this many processes.
MOST_PROCESSES: Final = 1000
SERVICES_PATH: Final = "/api/services"
OPERATIONS_PATH: Final = "/api/operations"
TRACES_PATH: Final = "/api/traces"
#: Version 3 does not have it.
DEPENDENCIES_PATH: Final = "/api/dependencies"


def services(answer: Any) -> list[str]:
    return sorted_names(answer["data"])


def operations(answer: Any) -> list[str]:
    return sorted_names({item["name"] for item in answer["data"] or ()})


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
        "service": service,
        "start": str(to_nanoseconds(since) // 1000),
        "end": str(to_nanoseconds(until) // 1000),
        "limit": str(depth),
    }
    if operation is not None:
        found["operation"] = operation
    if min_duration is not None:
        found["minDuration"] = microseconds(min_duration)
    if attributes:
        found["tags"] = json.dumps(attributes)
    return found


def call_counts(answer: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Caller, called service and number of calls."""
    return [
        (checked_text(item["parent"]), checked_text(item["child"]), int(item.get("callCount", 0)))
        for item in answer["data"] or ()
        if item["parent"] != item["child"]
    ]


#: Tags of what a span has its own field for: https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/
_OWN_TAGS: Final = frozenset(
    {
        "span.kind",
        "error",
        "otel.status_code",
        "otel.status_description",
        "otel.scope.version",
        "otel.library.version",
        "internal.span.format",
        "w3c.tracestate",
    }
)


#: The tags that hold the name of a span's scope, in different versions.
_SCOPE_TAGS: Final = ("otel.scope.name", "otel.library.name")
_NAMED_KINDS: Final = frozenset({"server", "client", "producer", "consumer"})


def walk(stream: JsonStream) -> Iterator[ReadSpan]:
    found = False
    for key in stream.members():
        if key == "data":
            found = True
            for _ in stream.items():
                group = Group(complete=False)
                for inner in stream.members():
                    if inner == "spans":
                        for _ in stream.items():
                            yield _read(stream.value(), group)
                    elif inner == "processes":
                        group.processes = stream.value() or {}
                    else:
                        stream.value()
                group.complete = True
        else:
            stream.value()
    if not found:
        raise KeyError("data")


def _read(item: dict[str, Any], group: Group) -> ReadSpan:
    return ReadSpan(
        item,
        group,
        group,
        parse_trace_id(item["traceID"]),
        parse_span_id(item["spanID"]),
        nanoseconds(item["startTime"], 1000),
        not item.get("references"),
        lambda item, group, _scope, keys: _span(item, _process(item, group), keys),
    )


def _process(item: dict[str, Any], group: Group) -> dict[str, Any]:
    return group.processes.get(item.get("processID")) or item.get("process") or {}


def _start(outline: Outline) -> int:
    return outline.start


class _Sum:
    """The summary of a trace, computed while its spans are read."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.count = self.errors = self.sql_count = self.sql_time = 0
        self.start = self.end = 0
        #: The span that has the request's attributes, and the keys by which it is chosen.
        self.first: tuple[bool, int, ReadSpan] | None = None
        #: The services of these are the ids of their processes: in a response, processes follow the spans.
        self.outlines: list[Outline] = []
        self.processes: dict[Any, ReadSpan] = {}

    def add(self, read: ReadSpan) -> None:
        span = read.span()
        self.start = span.start if not self.count else min(self.start, span.start)
        self.end = span.end if not self.count else max(self.end, span.end)
        self.count += 1
        self.errors += span.failed
        if category_of(span.kind, span.attributes, {}) == "sql":
            self.sql_count += is_statement(span.attributes)
            self.sql_time += span.duration
        if self.first is None or (bool(span.parent_id), span.start) < self.first[:2]:
            self.first = bool(span.parent_id), span.start, read
        process = str(read.item.get("processID"))
        self._outline(outline_of(span)._replace(service=process))
        if len(self.processes) < MOST_PROCESSES:
            self.processes.setdefault(process, read)

    def _outline(self, outline: Outline) -> None:
        outlines = self.outlines
        if not outline.parent_id:
            # The others are not needed any more.
            self.outlines = [min((each for each in (outline, *outlines[:1]) if not each.parent_id), key=_start)]
        elif len(outlines) < MOST_OUTLINED and (not outlines or outlines[0].parent_id):
            outlines.append(outline)

    def summary(self, trace_id: str) -> TraceSummary:
        services = {process: read.span().service for process, read in self.processes.items()}
        outlines = [each._replace(service=services.get(each.service, "")) for each in self.outlines]
        topmost = topmost_of(outlines, whole=self.count <= MOST_OUTLINED)
        assert self.first is not None
        first = self.first[2].span()
        return TraceSummary(
            trace_id=trace_id,
            name=topmost.name,
            service=topmost.service,
            services=root_first(topmost.service, services.values()),
            start=self.start,
            duration=max(0, self.end - self.start),
            span_count=self.count,
            error_count=self.errors,
            state=topmost.state,
            **request_of(first, topmost)._asdict(),
            sql_count=self.sql_count,
            sql_time=self.sql_time,
        )


def search(client: QueryClient, query: dict[str, str]) -> list[TraceSummary]:
    return client.ask_for_spans(TRACES_PATH, query, _summaries)


def _summaries(stream: JsonStream) -> list[TraceSummary]:
    """Summarize the traces of a response, which are whole traces, without keeping their spans."""
    sums: dict[str, _Sum] = {}
    for read in walk(stream):
        known = sums.get(read.trace_id)
        if known is None:
            known = sums[read.trace_id] = _Sum(read.group)
        known.add(read)
    found = [known.summary(trace_id) for trace_id, known in sums.items()]
    return sorted(found, key=lambda summary: (summary.start, summary.trace_id), reverse=True)


def _span(item: dict[str, Any], process: dict[str, Any], keys: Collection[str] | None) -> Span:
    tags = _tags(item.get("tags"))
    # Before Jaeger 1.52 the scope is among the tags of the process.
    resource = _tags(process.get("tags"))
    scopes = [found.pop(name, "") for found in (resource, tags) for name in _SCOPE_TAGS]
    resource.pop("otel.library.version", None)
    resource.pop("otel.scope.version", None)
    trace_id = parse_trace_id(item["traceID"])
    service = str(process.get("serviceName", ""))
    parent_id = ""
    links: list[Link] = []
    for reference in item.get("references") or ():
        other, span_id = parse_trace_id(reference["traceID"]), parse_span_id(reference["spanID"])
        if not parent_id and reference.get("refType") == "CHILD_OF" and other == trace_id:
            parent_id = span_id
        else:
            links.append(Link(other, span_id))
    code = str(tags.get("otel.status_code", "")).lower()
    failed = code == "error" or str(tags.get("error", "")).lower() == "true"
    start = nanoseconds(item["startTime"], 1000)
    kind = tags.get("span.kind")
    return Span(
        trace_id=trace_id,
        span_id=parse_span_id(item["spanID"]),
        parent_id=parent_id,
        name=checked_text(item.get("operationName", "")),
        kind=cast(Kind, kind) if kind in _NAMED_KINDS else "internal",
        service=service,
        start=start,
        end=start + nanoseconds(item.get("duration", 0), 1000),
        status="error" if failed else "ok" if code == "ok" else "unset",
        status_message=str(tags.get("otel.status_description", "")),
        attributes={
            key: value for key, value in tags.items() if key not in _OWN_TAGS and (keys is None or key in keys)
        },
        events=[] if keys is not None else [_event(log) for log in item.get("logs") or ()],
        links=links,
        resource={"service.name": service, **resource},
        scope=str(next(filter(None, scopes), "")),
    )


def _event(log: dict[str, Any]) -> Event:
    fields = _tags(log.get("fields"))
    return Event(str(fields.pop("event", "")), nanoseconds(log["timestamp"], 1000), fields)


def _tags(items: Iterable[dict[str, Any]] | None) -> dict[str, Any]:
    return {checked_text(item["key"]): _tag(item) for item in items or ()}


def _tag(item: dict[str, Any]) -> Any:
    kind, value = item.get("type"), item.get("value")
    # Integers that JavaScript can't hold are text.
    if kind == "int64":
        return int(value)  # type: ignore[arg-type]
    return shallow(value)
