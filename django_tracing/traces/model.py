"""Define stored traces: their spans, their summaries, and statistics of many traces.

Times are nanoseconds since the epoch, and durations are nanoseconds. Stored traces may be incomplete or wrong:
parents are missing, there are several roots, spans are each other's ancestors, clocks disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from django_tracing.semconv.categories import Category, TargetKind, category_of, is_statement
from django_tracing.semconv.names import ERROR_PROPAGATED
from django_tracing.semconv.requests import NO_REQUEST, RequestFacts, request_facts
from django_tracing.traces.readers.base import Reader
from django_tracing.traces.times import iso_time
from django_tracing.traces.topmost import State, Topmost, outline_of, topmost_of
from django_tracing.traces.tree import Node, build_tree
from django_tracing.traces.values import json_safe

__all__ = [
    "MOST_SPANS",
    "Dependencies",
    "Dependency",
    "Event",
    "FoundSpan",
    "Kind",
    "Link",
    "Reader",
    "RouteList",
    "RouteStatistics",
    "Sample",
    "Span",
    "SpanStream",
    "Status",
    "Trace",
    "TraceList",
    "TraceSummary",
    "request_of",
    "root_first",
    "span_of",
    "summarize",
]

Kind = Literal["internal", "server", "client", "producer", "consumer"]


Status = Literal["unset", "ok", "error"]


#: At most this many spans of a trace are shown, the earliest: a browser can show them, and a worker reads them in two
#: seconds.
MOST_SPANS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a span, e.g. an exception."""

    name: str
    time: int
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to another span that is not the parent."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One operation. Ids are lower-case hex: 32 digits for traces, 16 for spans, and ``""`` for no parent."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: Kind
    service: str
    start: int
    end: int
    status: Status = "unset"
    status_message: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)
    scope: str = ""

    @property
    def duration(self) -> int:
        """Nanoseconds. 0 if the end is missing or is before the start."""
        return max(0, self.end - self.start)

    @property
    def failed(self) -> bool:
        return self.status == "error"

    @property
    def failed_first(self) -> bool:
        """Return True if it failed by itself, and not by an exception that came out of a span below."""
        return self.failed and self.attributes.get(ERROR_PROPAGATED) is not True

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: times as ISO 8601 in UTC, the duration in milliseconds."""
        return {
            "span_id": self.span_id,
            "parent_id": self.parent_id or None,
            "name": self.name,
            "kind": self.kind,
            "service": self.service,
            "start": iso_time(self.start),
            "duration_ms": self.duration / 1e6,
            "status": self.status,
            "status_message": self.status_message,
            "attributes": json_safe(self.attributes),
            "events": [
                {"name": event.name, "time": iso_time(event.time), "attributes": json_safe(event.attributes)}
                for event in self.events
            ],
            "links": [
                {"trace_id": link.trace_id, "span_id": link.span_id, "attributes": json_safe(link.attributes)}
                for link in self.links
            ],
            "resource": json_safe(self.resource),
            "scope": self.scope,
        }


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A trace in one line.

    ``name`` and ``service`` are those of the root, or of the topmost span that is stored; see
    :func:`~django_tracing.traces.topmost.topmost_of`.
    """

    trace_id: str
    name: str
    service: str
    services: tuple[str, ...]
    start: int
    duration: int
    #: The number of all spans, including those that are left out.
    span_count: int
    error_count: int
    #: How many spans were not stored because the trace had reached its limit.
    left_out: int = 0
    #: ``running``: the request's span is not stored yet, so the duration is that until the last span that is stored.
    #: ``incomplete``: it has not been stored for a long time.
    state: State = "finished"
    #: Of the root, if it is a request: the method, the path without its query, and the status.
    method: str = ""
    path: str = ""
    status_code: int | None = None
    #: The id of the root's user.
    user: str = ""
    #: The number of SQL statements, and the time of all SQL, with that of connecting. None: the backend does not know
    #: them.
    sql_count: int | None = None
    sql_time: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the start as ISO 8601 in UTC, the duration in milliseconds."""
        return {
            "trace_id": self.trace_id,
            "name": self.name,
            "service": self.service,
            "services": list(self.services),
            "start": iso_time(self.start),
            "duration_ms": self.duration / 1e6,
            "span_count": self.span_count,
            "error_count": self.error_count,
            "left_out": self.left_out,
            "state": self.state,
            "method": self.method,
            "path": self.path,
            "status_code": self.status_code,
            "user": self.user,
            "sql_count": self.sql_count,
            "sql_ms": None if self.sql_time is None else self.sql_time / 1e6,
        }


class TraceList(list[TraceSummary]):
    """The traces that a search found, the newest first."""

    def __init__(self, found: Iterable[TraceSummary] = (), reached: int | None = None) -> None:
        super().__init__(found)
        #: Set if the search took too long: traces that started before it (nanoseconds) were not searched.
        self.reached = reached


class FoundSpan(NamedTuple):
    """One span, and what its page shows of its trace."""

    span: Span
    trace_name: str
    #: The start of the trace, in nanoseconds since the epoch.
    trace_start: int


@dataclass(frozen=True, slots=True)
class SpanStream:
    """All stored spans of a trace, read while they are iterated, which may raise :class:`ReadError`."""

    trace_id: str
    name: str
    spans: Iterator[Span]
    #: How many spans of the trace were not stored.
    unstored: int = 0


class Trace:
    """The spans of one trace, earliest first. There is at least one.

    ``left_out`` is how many more spans the trace has, and ``unstored`` is how many of those are not stored.
    ``uncounted`` means that there are still more, and their number is not known.
    """

    __slots__ = ("_topmost", "left_out", "spans", "trace_id", "uncounted", "unstored")

    def __init__(
        self,
        trace_id: str,
        spans: Iterable[Span],
        *,
        left_out: int = 0,
        unstored: int = 0,
        uncounted: bool = False,
    ) -> None:
        self.trace_id = trace_id
        self.left_out = left_out
        self.unstored = unstored
        self.uncounted = uncounted
        self._topmost: Topmost | None = None
        self.spans: list[Span] = sorted(spans, key=lambda span: (span.start, bool(span.parent_id), -span.end))
        if not self.spans:
            raise ValueError("A trace has at least one span.")

    @property
    def root(self) -> Span:
        """The earliest span without a parent. If all have one (the caller's, stored elsewhere), the earliest."""
        return next((span for span in self.spans if not span.parent_id), self.spans[0])

    @property
    def topmost(self) -> Topmost:
        """The name and the service of the trace, and whether its request is still running."""
        if self._topmost is None:
            self._topmost = topmost_of(map(outline_of, self.spans))
        return self._topmost

    @property
    def request(self) -> RequestFacts:
        """The request that gives the trace its name. Without one, only the user may be known."""
        return request_of(self.root, self.topmost)

    @property
    def start(self) -> int:
        return self.spans[0].start

    @property
    def duration(self) -> int:
        """Nanoseconds from the first start to the last end."""
        return max(0, max(span.end for span in self.spans) - self.start)

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the services of the spans, that of the trace first."""
        return root_first(self.topmost.service, (span.service for span in self.spans))

    @property
    def span_count(self) -> int:
        """The number of all spans, including those that are left out."""
        return len(self.spans) + self.left_out

    @property
    def error_count(self) -> int:
        """The number of errors. An exception that passes several spans is one."""
        # The span in which it was raised may be lost.
        return sum(span.failed_first for span in self.spans) or int(any(span.failed for span in self.spans))

    def summary(self) -> TraceSummary:
        topmost = self.topmost
        # If spans are left out, some of them may be SQL.
        sql_count, sql_time = (None, None) if self.left_out or self.uncounted else self.sql
        return TraceSummary(
            trace_id=self.trace_id,
            name=topmost.name,
            service=topmost.service,
            services=self.services,
            start=self.start,
            duration=self.duration,
            span_count=self.span_count,
            error_count=self.error_count,
            left_out=self.left_out,
            state=topmost.state,
            **self.request._asdict(),
            sql_count=sql_count,
            sql_time=sql_time,
        )

    @property
    def sql(self) -> tuple[int, int]:
        """The number of SQL statements among the spans, and the time of all SQL, with that of connecting."""
        found = [span for span in self.spans if category_of(span.kind, span.attributes, span.resource) == "sql"]
        return sum(is_statement(span.attributes) for span in found), sum(span.duration for span in found)

    def spans_by_service(self) -> Counter[str]:
        """Return the number of ``spans`` of each service."""
        return Counter(span.service for span in self.spans)

    def tree(self) -> list[Node]:
        """Return the roots, each with its children, in the order of their starts. Every span occurs exactly once.

        A span whose parent is not stored is a root marked ``orphan``. If spans are each other's ancestors, the
        earliest of them becomes a root. Spans of views and middleware that were created afterwards, as with
        ``LAYERS = "slow"``, become the parents of their siblings that lie within them.
        """
        return build_tree(self.spans)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the summary, and ``spans``."""
        return {**self.summary().as_dict(), "spans": [span.as_dict() for span in self.spans]}


@dataclass(frozen=True, slots=True)
class RouteStatistics:
    """Statistics of one kind of request, task or command of one service, over many traces. Times are nanoseconds."""

    service: str
    #: The name of the first span, e.g. ``GET /items/<int:pk>``.
    name: str
    count: int
    error_count: int
    p50: int
    p95: int
    p99: int
    #: The sum of the own times of all its spans, by category.
    time_by_work: dict[Category, int]
    slowest_trace_id: str
    slowest: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: times in milliseconds."""
        return {
            "service": self.service,
            "name": self.name,
            "count": self.count,
            "error_count": self.error_count,
            "p50_ms": self.p50 / 1e6,
            "p95_ms": self.p95 / 1e6,
            "p99_ms": self.p99 / 1e6,
            "time_by_work_ms": {work: time / 1e6 for work, time in self.time_by_work.items()},
            "slowest_trace_id": self.slowest_trace_id,
            "slowest_ms": self.slowest / 1e6,
        }


class Sample(NamedTuple):
    """The traces that statistics are computed from, if these are not all: their number, and when they started."""

    traces: int
    #: Nanoseconds since the epoch.
    first: int
    last: int

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> Sample | None:
        """Describe ``traces``. None if there are none."""
        starts = [trace.start for trace in traces]
        return cls(len(starts), min(starts), max(starts)) if starts else None


class RouteList(list[RouteStatistics]):
    """The statistics by route."""

    def __init__(self, found: Iterable[RouteStatistics] = (), sample: Sample | None = None) -> None:
        super().__init__(found)
        #: What they are computed from. None: all traces.
        self.sample = sample


@dataclass(frozen=True, slots=True)
class Dependency:
    """The calls from a service to another one, a database, a cache, a breaker or a target that is not traced."""

    caller: str
    callee: str
    kind: Literal["service"] | TargetKind
    calls: int
    #: How many of the ``examined`` calls failed.
    errors: int
    #: How many of the calls were examined for failures: all of them, unless the backend only counts calls.
    examined: int
    #: The latest state of a circuit breaker: ``closed``, ``open`` or ``half-open``.
    state: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "caller": self.caller,
            "callee": self.callee,
            "kind": self.kind,
            "calls": self.calls,
            "errors": self.errors,
            "examined": self.examined,
            **({"state": self.state} if self.state else {}),
        }


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The calls between services and to other targets, sorted by their names."""

    links: list[Dependency]
    #: How many of the newest traces were examined for what the backend does not count. None: all traces.
    sampled: int | None = None
    #: The same, with the time in which these traces started.
    sample: Sample | None = None


def request_of(span: Span, topmost: Topmost) -> RequestFacts:
    """Return the facts of ``span``, the first of a trace. Only its user, if another span names the trace."""
    facts = request_facts(span.kind, span.attributes)
    return facts if span.name == topmost.name else NO_REQUEST._replace(user=facts.user)


def span_of(row: Mapping[str, Any]) -> Span:
    """Return the span of a row that ``export.local.span_row`` made of a span that is not stored yet."""
    known = {key: row[key] for key in Span.__slots__ if key in row}
    known["events"] = [Event(**event) for event in row.get("events", ())]
    known["links"] = [Link(**link) for link in row.get("links", ())]
    return Span(**known)


def summarize(spans: Iterable[Span]) -> list[TraceSummary]:
    """Return the summaries of the traces of ``spans``, the newest first."""
    by_trace: dict[str, list[Span]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    summaries = [Trace(trace_id, members).summary() for trace_id, members in by_trace.items()]
    return sorted(summaries, key=lambda summary: (summary.start, summary.trace_id), reverse=True)


def root_first(root: str, services: Iterable[str]) -> tuple[str, ...]:
    """Return the names of services: the root's first, then the others in alphabetical order."""
    others = sorted({name for name in services if name and name != root})
    return (root, *others) if root else tuple(others)
