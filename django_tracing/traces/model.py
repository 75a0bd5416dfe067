"""A trace as it was stored: spans, their tree, and the line that stands for a trace in a list.

Times are nanoseconds since the epoch, durations nanoseconds. What is read here was written by others and may be
incomplete or wrong: missing parents, several roots, circles, clocks that disagree.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Literal, NamedTuple, Protocol

from django_tracing.redaction.printable import printable
from django_tracing.semconv.categories import Category, TargetKind

__all__ = [
    "DEEPEST",
    "FARTHEST",
    "MOST_SPANS",
    "Dependencies",
    "Dependency",
    "Event",
    "FoundSpan",
    "Kind",
    "Link",
    "LongReader",
    "Node",
    "ReadError",
    "Reader",
    "RouteStatistics",
    "Span",
    "SpanStream",
    "Status",
    "Trace",
    "TraceSummary",
    "innermost",
    "is_layer",
    "shallow",
    "span_of",
    "summarise",
    "to_nanoseconds",
    "trace_id_prefix",
]

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Status = Literal["unset", "ok", "error"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: From the epoch, in nanoseconds, either way.
FARTHEST: Final = 9.2e18
#: So many spans of a trace are shown, the earliest: what a browser can show, and a worker can read in two seconds.
MOST_SPANS: Final = 10_000
#: Values within values are read as deep as this; no function that meets them may need the whole of Python's stack.
DEEPEST: Final = 16
#: Shorter ones would match by chance.
MIN_PREFIX: Final = 6
#: Characters of an error's message.
_MOST_SAID: Final = 1000


class ReadError(Exception):
    """Traces could not be read (or stored); the message says what is wrong and what to do.

    It may quote what a backend or a file said: it is cut, and on one line. ``reason`` is a word that a program can
    tell errors apart by.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(printable(message, _MOST_SAID))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened within a span, e.g. an exception."""

    name: str
    time: int
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that a span points to and that is not its parent."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One operation. Ids are lower-case hex, of 32 digits for traces and 16 for spans; no parent is ``""``."""

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
        """Nanoseconds; 0 where the end is missing or lies before the start."""
        return max(0, self.end - self.start)

    @property
    def failed(self) -> bool:
        return self.status == "error"

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
            "attributes": _json(self.attributes),
            "events": [
                {"name": event.name, "time": iso_time(event.time), "attributes": _json(event.attributes)}
                for event in self.events
            ],
            "links": [
                {"trace_id": link.trace_id, "span_id": link.span_id, "attributes": _json(link.attributes)}
                for link in self.links
            ],
            "resource": _json(self.resource),
            "scope": self.scope,
        }


@dataclass(slots=True, eq=False)
class Node:
    """A span in its tree. ``orphan``: the span names a parent that is not among the stored spans."""

    span: Span
    children: list[Node] = field(default_factory=list)
    orphan: bool = False


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A trace in one line. ``name`` and ``service`` are the root's, as far as it is known."""

    trace_id: str
    name: str
    service: str
    services: tuple[str, ...]
    start: int
    duration: int
    #: All of them, also those that were left out.
    span_count: int
    error_count: int
    #: How many spans came and were not stored, since the trace had as many as it may have.
    left_out: int = 0

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
        }


class FoundSpan(NamedTuple):
    """One span, and as much of its trace as its page says."""

    span: Span
    trace_name: str
    #: When the trace began, in nanoseconds.
    trace_start: int


@dataclass(frozen=True, slots=True)
class SpanStream:
    """All stored spans of a trace, read as they are asked for; reading on may raise :class:`ReadError`."""

    trace_id: str
    name: str
    spans: Iterator[Span]
    #: How many spans of the trace were not stored.
    unstored: int = 0


class Trace:
    """The spans of one trace, earliest first. There is at least one.

    ``left_out`` is how many more spans it has than are here, ``unstored`` how many of those are stored nowhere.
    ``uncounted``: there are even more, which nobody counted.
    """

    __slots__ = ("left_out", "spans", "trace_id", "uncounted", "unstored")

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
        self.spans: list[Span] = sorted(spans, key=lambda span: (span.start, bool(span.parent_id), -span.end))
        if not self.spans:
            raise ValueError("A trace has at least one span.")

    @property
    def root(self) -> Span:
        """The earliest span without a parent; the earliest span where every one has (the caller's is elsewhere)."""
        return next((span for span in self.spans if not span.parent_id), self.spans[0])

    @property
    def start(self) -> int:
        return self.spans[0].start

    @property
    def duration(self) -> int:
        """From the first start to the last end, in nanoseconds."""
        return max(0, max(span.end for span in self.spans) - self.start)

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the services that took part, the root's first."""
        return root_first(self.root.service, (span.service for span in self.spans))

    @property
    def span_count(self) -> int:
        """All of them, also those that were left out."""
        return len(self.spans) + self.left_out

    @property
    def error_count(self) -> int:
        return sum(span.failed for span in self.spans)

    def summary(self) -> TraceSummary:
        root = self.root
        return TraceSummary(
            trace_id=self.trace_id,
            name=root.name,
            service=root.service,
            services=self.services,
            start=self.start,
            duration=self.duration,
            span_count=self.span_count,
            error_count=self.error_count,
            left_out=self.left_out,
        )

    def spans_by_service(self) -> Counter[str]:
        """How many of ``spans`` are each service's."""
        return Counter(span.service for span in self.spans)

    def tree(self) -> list[Node]:
        """The roots, each with its children, in order of their starts. Every span stands in it exactly once.

        A span whose parent is not stored is a root marked ``orphan``; spans that are each other's ancestors are
        cut open at the earliest of them. Spans of views and middleware that were made afterwards, as with
        ``LAYERS = "slow"``, take in what their parent did while they lasted.
        """
        nodes = [Node(span) for span in self.spans]
        by_id: dict[str, Node] = {}
        for node in nodes:
            by_id.setdefault(node.span.span_id, node)
        roots: list[Node] = []
        for node in nodes:
            parent = by_id.get(node.span.parent_id) if node.span.parent_id else None
            if parent is None or parent is node:
                node.orphan = bool(node.span.parent_id)
                roots.append(node)
            else:
                parent.children.append(node)
        reached = {id(node) for node in _below(roots)}
        for node in nodes:
            if id(node) not in reached:
                first = _earliest_of_circle(node, by_id)
                by_id[first.span.parent_id].children.remove(first)
                first.orphan = True
                roots.append(first)
                reached.update(id(other) for other in _below([first]))
        for node in nodes:
            _nest_in_layers(node)
        return roots

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the summary, and ``spans``."""
        return {**self.summary().as_dict(), "spans": [span.as_dict() for span in self.spans]}


@dataclass(frozen=True, slots=True)
class RouteStatistics:
    """One kind of request (or task, or command) of one service, over many traces. Times are nanoseconds."""

    service: str
    #: The name of the spans that begin it, e.g. ``GET /items/<int:pk>``.
    name: str
    count: int
    error_count: int
    p50: int
    p95: int
    p99: int
    #: Of all its time: what its spans spent themselves, by kind of work.
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


@dataclass(frozen=True, slots=True)
class Dependency:
    """Who calls whom: a service another service, a database, a cache, a breaker or something that is not traced."""

    caller: str
    callee: str
    kind: Literal["service"] | TargetKind
    calls: int
    #: How many of the ``examined`` calls failed.
    errors: int
    #: Among how many calls failures were looked for: all of them, unless the backend counts calls only.
    examined: int
    #: Of a breaker, as it was last seen: ``closed``, ``open`` or ``half-open``.
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
    """Who calls whom, in the order of their names."""

    links: list[Dependency]
    #: How many of the newest traces were looked through for what the backend does not count itself; None: all.
    sampled: int | None = None


class Reader(Protocol):
    """Where traces are read back from. All methods raise :class:`ReadError`.

    ``start`` and ``end`` are seconds since the epoch and bound when traces began. Two more methods may be there,
    see :class:`LongReader`.
    """

    def describe(self) -> str:
        """What is read from, for people: a path, a URL. Without credentials."""
        ...

    def trace_link(self, trace_id: str) -> str | None:
        """The page of the trace in the backend's own UI, None where it has none."""
        ...

    def services(self) -> list[str]:
        """Names of the services that sent spans, sorted."""
        ...

    def operations(self, service: str) -> list[str]:
        """Names of the spans of ``service``, sorted."""
        ...

    def search(
        self,
        *,
        service: str | None = None,
        operation: str | None = None,
        min_duration: float | None = None,
        max_duration: float | None = None,
        errors: bool = False,
        attributes: dict[str, str] | None = None,
        start: float | None = None,
        end: float | None = None,
        limit: int = 20,
        before: tuple[int, str] | None = None,
    ) -> list[TraceSummary]:
        """The newest traces with one span of ``service`` and ``operation`` that has all ``attributes``.

        Durations are the trace's, in seconds; ``errors`` asks for at least one failed span. Values of attributes are
        compared as text (``{"cache.hit": "true", "http.status_code": "404"}``), and a failed span has
        ``{"error": "true"}``. ``before`` is the start (nanoseconds) and the id of a trace: what is older follows.
        """
        ...

    def trace(self, trace_id: str) -> Trace | None:
        """The trace whose id is, or alone begins with, ``trace_id`` (6 hex digits or more); None if there is none.

        Of a longer one the earliest :data:`MOST_SPANS` spans, and how many were left out.
        """
        ...

    def routes(
        self, *, service: str | None = None, start: float | None = None, end: float | None = None
    ) -> list[RouteStatistics]:
        """What requests, tasks and commands took, by service and name; a backend may look at its newest only."""
        ...

    def dependencies(self, *, start: float | None = None, end: float | None = None) -> Dependencies:
        """Who calls whom."""
        ...


class LongReader(Reader, Protocol):
    """A reader that needs not read a trace for one of its spans, nor keep all of it for its file."""

    def span(self, trace_id: str, span_id: str) -> FoundSpan | None:
        """One span; None if there is none."""
        ...

    def stream(self, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
        """All spans of a trace, the earliest first; ``grouped``: those of one resource and scope follow each other.

        None if there is no such trace. Raises what is wrong at once as far as it is known by then.
        """
        ...


def span_of(row: Mapping[str, Any]) -> Span:
    """The span of a row, as ``export.local.span_row`` makes them of spans that were not stored yet."""
    known = {key: row[key] for key in Span.__slots__ if key in row}
    known["events"] = [Event(**event) for event in row.get("events", ())]
    known["links"] = [Link(**link) for link in row.get("links", ())]
    return Span(**known)


def summarise(spans: Iterable[Span]) -> list[TraceSummary]:
    """A summary of each trace that ``spans`` belong to, the newest first."""
    by_trace: dict[str, list[Span]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    summaries = [Trace(trace_id, members).summary() for trace_id, members in by_trace.items()]
    return sorted(summaries, key=lambda summary: (summary.start, summary.trace_id), reverse=True)


def root_first(root: str, services: Iterable[str]) -> tuple[str, ...]:
    """Names of services: the root's, then the others in alphabetical order."""
    others = sorted({name for name in services if name and name != root})
    return (root, *others) if root else tuple(others)


def trace_id_prefix(text: str) -> str:
    """``text`` as the beginning of a trace id: lower-case hex. Raises :class:`ReadError` for anything else."""
    prefix = text.strip().lower()
    if not MIN_PREFIX <= len(prefix) <= 32 or not all(character in "0123456789abcdef" for character in prefix):
        raise ReadError(
            f"{text[:40]!r} is not a trace id. Give its 32 hex digits, or at least the first {MIN_PREFIX} of them.",
            "bad_id",
        )
    return prefix


def to_nanoseconds(seconds: float) -> int:
    """Seconds as nanoseconds, within what 64 bits hold: the years 1678 to 2261."""
    return round(min(max(seconds * 1e9, -FARTHEST), FARTHEST))


def iso_time(nanoseconds: int) -> str:
    """ISO 8601 in UTC with microseconds."""
    return to_datetime(nanoseconds).isoformat(timespec="microseconds").replace("+00:00", "Z")


def to_datetime(nanoseconds: int) -> datetime:
    """An aware datetime in UTC; the epoch for what no calendar holds."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return _EPOCH


def is_layer(span: Span | Any) -> bool:
    """Whether the span (or what has its name and kind) is a view's or a middleware's, as this app names them."""
    return span.kind == "internal" and span.name.startswith(("view.", "middleware."))


def innermost(
    members: Sequence[tuple[int, int]], layers: Sequence[tuple[int, int]], *, strict: bool = False
) -> list[int | None]:
    """For each of ``members`` (start, end) the number of the shortest of ``layers`` that lasts all the while.

    None for those that no layer takes in; ``strict``: neither does one of the same start and end. A sweep from the
    latest end to the earliest: n spans take n log n steps.
    """
    found: list[int | None] = [None] * len(members)
    by_start = sorted(range(len(layers)), key=lambda number: layers[number][0])
    starts = [layers[number][0] for number in by_start]
    places = {number: place for place, number in enumerate(by_start)}
    # What may take in a span stands before it.
    events = [(-end, start, strict, number) for number, (start, end) in enumerate(layers)]
    events += [(-end, start, not strict, -number - 1) for number, (start, end) in enumerate(members)]
    shortest = _Shortest(len(layers))
    for negative, start, _order, number in sorted(events):
        if number >= 0:
            shortest.add(places[number], max(-negative - start, 0), number)
        else:
            found[-number - 1] = shortest.up_to(bisect_right(starts, start))
    return found


class _Shortest:
    """The shortest of the first few: a Fenwick tree of minima."""

    def __init__(self, size: int) -> None:
        self._least: list[tuple[int, int] | None] = [None] * (size + 1)

    def add(self, place: int, length: int, number: int) -> None:
        candidate = (length, number)
        place += 1
        while place < len(self._least):
            known = self._least[place]
            if known is None or candidate < known:
                self._least[place] = candidate
            place += place & -place

    def up_to(self, count: int) -> int | None:
        """The number of the shortest among the first ``count`` places."""
        best: tuple[int, int] | None = None
        while count:
            known = self._least[count]
            if known is not None and (best is None or known < best):
                best = known
            count -= count & -count
        return None if best is None else best[1]


def _nest_in_layers(node: Node) -> None:
    """Moves children into the layers beside them that lasted all the while."""
    by_service: dict[str, list[Node]] = {}
    for child in node.children:
        if is_layer(child.span):
            by_service.setdefault(child.span.service, []).append(child)
    if not by_service:
        return
    members: dict[str, list[Node]] = {}
    for child in node.children:
        if child.span.service in by_service and not is_layer(child.span):
            members.setdefault(child.span.service, []).append(child)
    around: dict[int, Node] = {}
    for service, inside in members.items():
        layers = by_service[service]
        found = innermost(
            [(child.span.start, child.span.end) for child in inside],
            [(layer.span.start, layer.span.end) for layer in layers],
        )
        around.update(
            (id(child), layers[number]) for child, number in zip(inside, found, strict=True) if number is not None
        )
    if not around:
        return
    kept: list[Node] = []
    for child in node.children:
        layer = around.get(id(child))
        (kept if layer is None else layer.children).append(child)
    node.children = kept
    for layers in by_service.values():
        for layer in layers:
            layer.children.sort(key=lambda child: (child.span.start, -child.span.end))


def _below(roots: list[Node]) -> Iterable[Node]:
    # No recursion: a trace may be deeper than Python's stack. No circle hangs below a root.
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


def _earliest_of_circle(node: Node, by_id: dict[str, Node]) -> Node:
    """The first to start among the spans of the circle that ``node`` is in or hangs below."""
    seen: dict[int, Node] = {}
    while id(node) not in seen:
        seen[id(node)] = node
        node = by_id[node.span.parent_id]
    passed = list(seen.values())
    return min(passed[passed.index(node) :], key=lambda member: member.span.start)


def shallow(value: Any, depth: int = DEEPEST) -> Any:
    """``value`` with … for what lies deeper than ``depth`` lists and objects."""
    if not isinstance(value, (dict, list)):
        return value
    if not depth:
        return "…"
    if isinstance(value, dict):
        return {key: shallow(item, depth - 1) for key, item in value.items()}
    return [shallow(item, depth - 1) for item in value]


def _json(value: Any, depth: int = DEEPEST) -> Any:
    """``value`` without the NaN and infinities that JSON has no place for."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (dict, list)) and not depth:
        return "…"
    if isinstance(value, dict):
        return {key: _json(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item, depth - 1) for item in value]
    return value
