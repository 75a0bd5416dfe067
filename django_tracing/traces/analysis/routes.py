"""Compute statistics by route: count, durations, and the time by category."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from django_tracing.semconv.categories import Category, category_of
from django_tracing.traces.model import RouteStatistics, Trace
from django_tracing.traces.tree import innermost, is_layer

__all__ = ["Part", "parts_of", "route_statistics", "routes_of", "self_time"]


class Part(NamedTuple):
    """The fields of a span that statistics need."""

    span_id: str
    parent_id: str
    service: str
    name: str
    kind: str
    start: int
    end: int
    failed: bool
    work: Category


def parts_of(trace: Trace) -> list[Part]:
    """Return the spans of a trace as parts."""
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
    routes: dict[tuple[str, str], _Route] = {}
    for trace_id, parts in traces:
        _add(routes, trace_id, parts, service)
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
            time_by_work=dict(sorted(route.times.items(), key=lambda item: -item[1])),
            slowest_trace_id=route.slowest_trace_id,
            slowest=route.slowest,
        )
        for (owner, name), route in sorted(routes.items(), key=lambda item: item[0])
    ]


def routes_of(traces: Iterable[Trace], service: str | None = None) -> list[RouteStatistics]:
    """Return the statistics of whole traces, see :func:`route_statistics`."""
    return route_statistics(((trace.trace_id, parts_of(trace)) for trace in traces), service)


def _add(routes: dict[tuple[str, str], _Route], trace_id: str, parts: Sequence[Part], service: str | None) -> None:
    by_id = {part.span_id: part for part in parts}
    children: dict[str, list[tuple[int, int]]] = {}
    for part in parts:
        parent = by_id.get(part.parent_id)
        if parent is not None and parent.service == part.service and part.kind not in _ENTRIES:
            children.setdefault(part.parent_id, []).append((part.start, part.end))
    layers: dict[str, list[Part]] = {}
    for part in parts:
        if is_layer(part) and part.parent_id in children:
            layers.setdefault(part.parent_id, []).append(part)
    inside: dict[str, list[tuple[int, int]]] = {}
    for parent_id, beside in layers.items():
        # The layer's span was created afterwards, as a sibling of what it contains. As in Trace.tree, the time of
        # these siblings is not its own time.
        spent = children[parent_id]
        around = innermost(spent, [(layer.start, layer.end) for layer in beside], strict=True)
        for times, number in zip(spent, around, strict=True):
            if number is not None:
                inside.setdefault(beside[number].span_id, []).append(times)
    for span_id, more in inside.items():
        children.setdefault(span_id, []).extend(more)
    owners: dict[str, _Route | None] = {}
    for part in parts:
        route = _owner(part, by_id, owners, routes, service)
        if route is None:
            continue
        if owners[part.span_id] is route and _begins(part, by_id):
            duration = part.end - part.start
            route.durations.append(duration)
            route.errors += part.failed
            if duration > route.slowest:
                route.slowest, route.slowest_trace_id = duration, trace_id
        below = children.get(part.span_id)
        own = self_time(part.start, part.end, below) if below else part.end - part.start
        route.times[part.work] = route.times.get(part.work, 0) + own


def _begins(part: Part, by_id: dict[str, Part]) -> bool:
    if part.kind in _ENTRIES or not part.parent_id:
        return True
    parent = by_id.get(part.parent_id)
    return parent is not None and parent.service != part.service


def _owner(
    part: Part,
    by_id: dict[str, Part],
    owners: dict[str, _Route | None],
    routes: dict[tuple[str, str], _Route],
    service: str | None,
) -> _Route | None:
    """Return the route of a span: that of its nearest ancestor that starts one."""
    passed: list[str] = []
    current = part
    while current.span_id not in owners:
        passed.append(current.span_id)
        # Spans that are each other's ancestors have no route, and neither have those whose parent is not stored.
        owners[current.span_id] = None
        if _begins(current, by_id):
            if service is None or current.service == service:
                owners[current.span_id] = routes.setdefault((current.service, current.name), _Route())
            break
        above = by_id.get(current.parent_id)
        if above is None:
            break
        current = above
    found = owners[current.span_id]
    for span_id in passed:
        owners[span_id] = found
    return found


def _percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the percentile by the nearest-rank method."""
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
