"""Compute statistics by route: count, durations, and the time by category."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from django_tracing.semconv.categories import Category, category_of
from django_tracing.traces.model import RouteStatistics, Trace
from django_tracing.traces.tree import innermost, is_layer_name

__all__ = [
    "Part",
    "TraceRoute",
    "merge_routes",
    "parts_of",
    "route_statistics",
    "routes_of",
    "self_time",
    "trace_routes",
]


class Part(NamedTuple):
    """The fields of a span that statistics and links need."""

    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    start: int
    end: int
    failed: bool
    work: Category
    #: What it calls, apart from services that are traced themselves; "" for nothing. Statistics don't need it.
    target_kind: str = ""
    target: str = ""
    #: The state of the circuit breaker that it calls.
    state: str = ""


def parts_of(trace: Trace) -> list[Part]:
    """Return the spans of a trace as parts, without what they call."""
    return [
        Part(
            *(span.span_id, span.parent_id, span.service, span.name, span.kind),
            *(span.start, max(span.end, span.start), span.failed),
            category_of(span.kind, span.attributes, span.resource),
        )
        for span in trace.spans
    ]


def self_time(start: int, end: int, children: Iterable[tuple[int, int]]) -> int:
    """Return the part of the time from ``start`` to ``end`` that ``children`` do not cover."""
    left = end - start
    covered = start
    for child_start, child_end in sorted(children):
        begin = max(child_start, covered)
        finish = min(child_end, end)
        if finish > begin:
            left -= finish - begin
            covered = finish
    return max(left, 0)


#: The kinds of spans with which a service starts to work on a request.
_ENTRIES: Final = frozenset({"server", "consumer"})


class TraceRoute(NamedTuple):
    """What one trace adds to the statistics of a route."""

    service: str
    name: str
    #: How many of its entries failed.
    errors: int
    #: The durations of the spans with which the service started its work.
    durations: list[int]
    #: The sums of own times.
    times: dict[Category, int]


class _Route:
    __slots__ = ("durations", "errors", "slowest", "slowest_trace_id", "times")

    def __init__(self) -> None:
        self.durations: list[int] = []
        self.errors = 0
        self.slowest = -1
        self.slowest_trace_id = ""
        self.times: dict[Category, int] = {}


def route_statistics(
    traces: Iterable[tuple[str, Sequence[Part]]], service: str | None = None
) -> list[RouteStatistics]:
    """Return the statistics of ``traces`` (ids and parts), sorted by service and name; of ``service`` only, if given.

    A route is a span with which a service starts its work: a server's, a consumer's, or one without a parent. Its
    time is divided among its spans of the same service; a call to another service counts as HTTP, as a whole.
    """
    return merge_routes(((trace_id, trace_routes(parts)) for trace_id, parts in traces), service)


def routes_of(traces: Iterable[Trace], service: str | None = None) -> list[RouteStatistics]:
    """Return the statistics of whole traces, see :func:`route_statistics`."""
    return route_statistics(((trace.trace_id, parts_of(trace)) for trace in traces), service)


def merge_routes(
    traces: Iterable[tuple[str, Iterable[TraceRoute]]], service: str | None = None
) -> list[RouteStatistics]:
    """Return the statistics of traces (ids and what :func:`trace_routes` returned for each)."""
    routes: dict[tuple[str, str], _Route] = {}
    for trace_id, found in traces:
        for owner, name, errors, durations, times in found:
            if service is not None and owner != service:
                continue
            route = routes.get((owner, name))
            if route is None:
                route = routes[owner, name] = _Route()
            route.durations += durations
            route.errors += errors
            longest = durations[0] if len(durations) == 1 else max(durations)
            if longest > route.slowest:
                route.slowest, route.slowest_trace_id = longest, trace_id
            known = route.times
            for work, spent in times.items():
                known[work] = known.get(work, 0) + spent
    for route in routes.values():
        route.durations.sort()
    return [
        RouteStatistics(
            service=owner,
            name=name,
            count=len(route.durations),
            error_count=route.errors,
            p50=_percentile(route.durations, 50),
            p95=_percentile(route.durations, 95),
            p99=_percentile(route.durations, 99),
            time_by_work=dict(sorted(route.times.items(), key=lambda item: (-item[1], item[0]))),
            slowest_trace_id=route.slowest_trace_id,
            slowest=route.slowest,
        )
        for (owner, name), route in sorted(routes.items(), key=lambda item: item[0])
    ]


def trace_routes(parts: Sequence[Part]) -> list[TraceRoute]:
    """Return what one trace adds to the statistics of its routes."""
    # This runs for each trace that is stored: parts are unpacked, which takes half the time of their attributes.
    by_id = {part[0]: part for part in parts}
    #: The numbers of the routes that spans belong to; -1 for spans without a route.
    owners: dict[str, int] = {}
    numbers: dict[tuple[str, str], int] = {}
    durations: list[list[int]] = []
    errors: list[int] = []
    #: The times of the calls that each span waits for, by its id.
    children: dict[str, list[tuple[int, int]]] = {}
    layers: dict[str, list[tuple[str, int, int]]] = {}
    for span_id, parent_id, service, name, kind, start, end, failed, *_ in parts:
        parent = by_id.get(parent_id)
        if kind in _ENTRIES or not parent_id or (parent is not None and parent[2] != service):
            number = numbers.setdefault((service, name), len(durations))
            if number == len(durations):
                durations.append([])
                errors.append(0)
            owners[span_id] = number
            durations[number].append(end - start)
            errors[number] += failed
        elif parent is not None:
            children.setdefault(parent_id, []).append((start, end))
        if kind == "internal" and parent is not None and is_layer_name(name):
            layers.setdefault(parent_id, []).append((span_id, start, end))
    if layers:
        _nest(children, layers)
    times: list[dict[Category, int]] = [{} for _ in durations]
    for span_id, parent_id, _service, _name, _kind, start, end, _failed, work, *_ in parts:
        number = owners.get(span_id, -2)
        if number == -2:
            number = owners.get(parent_id, -2)
            if number == -2:
                number = _find_owner(span_id, by_id, owners)
            else:
                owners[span_id] = number
        if number >= 0:
            below = children.get(span_id)
            own = self_time(start, end, below) if below else end - start
            spent = times[number]
            spent[work] = spent.get(work, 0) + own
    return [
        TraceRoute(service, name, errors[number], durations[number], times[number])
        for (service, name), number in numbers.items()
    ]


def _nest(children: dict[str, list[tuple[int, int]]], layers: dict[str, list[tuple[str, int, int]]]) -> None:
    """Add to the calls of layers those of their siblings that lie within them.

    A layer's span was created afterwards, as a sibling of what it contains. As in Trace.tree, the time of these
    siblings is not its own time.
    """
    inside: dict[str, list[tuple[int, int]]] = {}
    for parent_id, beside in layers.items():
        spent = children.get(parent_id)
        if spent is None:
            continue
        around = innermost(spent, [(start, end) for _span_id, start, end in beside], strict=True)
        for times, number in zip(spent, around, strict=True):
            if number is not None:
                inside.setdefault(beside[number][0], []).append(times)
    for span_id, more in inside.items():
        children.setdefault(span_id, []).extend(more)


def _find_owner(span_id: str, by_id: dict[str, Part], owners: dict[str, int]) -> int:
    """Return the route of a span: that of its nearest ancestor that starts one."""
    passed: list[str] = []
    while span_id in by_id and span_id not in owners:
        passed.append(span_id)
        # Spans that are each other's ancestors have no route, and neither have those whose parent is not stored.
        owners[span_id] = -1
        span_id = by_id[span_id].parent_id
    found = owners.get(span_id, -1)
    for each in passed:
        owners[each] = found
    return found


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the percentile by the nearest-rank method."""
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
