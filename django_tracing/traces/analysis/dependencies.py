"""Find which services call each other, and what else they call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from django_tracing.semconv.categories import breaker_state, target_of
from django_tracing.traces.model import Dependency, Trace

__all__ = ["Call", "NodeKind", "TraceLinks", "links_of", "merge_links", "trace_links"]

NodeKind = Literal["service", "database", "cache", "breaker", "external"]


class Call(NamedTuple):
    """The fields of a span that the links need."""

    span_id: str
    parent_id: str
    service: str
    kind: str
    failed: bool
    #: What it calls, apart from services that are traced themselves; "" for nothing.
    target_kind: str
    target: str
    start: int = 0
    end: int = 0
    #: The state of the circuit breaker that it calls.
    state: str = ""


class TraceLinks(NamedTuple):
    """The links of one trace, or of several traces with the same links."""

    #: The caller, the kind, the callee, the number of calls, and how many of these failed.
    links: Sequence[tuple[str, NodeKind, str, int, int]]
    #: The name, the start and the end of the latest call, and the state after it, of each circuit breaker.
    breakers: Sequence[tuple[str, int, int, str]] = ()
    #: The number of traces.
    count: int = 1


_ENTRIES: Final = frozenset({"server", "consumer"})


def links_of(traces: Iterable[Trace]) -> list[Dependency]:
    """Return the calls in ``traces``."""
    return merge_links(trace_links(_calls_of(trace)) for trace in traces)


def merge_links(traces: Iterable[TraceLinks]) -> list[Dependency]:
    """Return the calls in traces: in what :func:`trace_links` returned for each."""
    calls: dict[tuple[str, str, NodeKind], list[int]] = {}
    latest: dict[str, tuple[int, int, str]] = {}
    for links, breakers, count in traces:
        for caller, kind, callee, made, failed in links:
            counted = calls.setdefault((caller, callee, kind), [0, 0])
            counted[0] += made * count
            counted[1] += failed * count
        for name, start, end, state in breakers:
            latest[name] = max(latest.get(name, (start, end, state)), (start, end, state))
    return [
        Dependency(caller, callee, kind, made, failed, made, latest[callee][2] if kind == "breaker" else "")
        for (caller, callee, kind), (made, failed) in sorted(calls.items())
    ]


def trace_links(calls: Sequence[Call]) -> TraceLinks:
    """Return the links of one trace, sorted."""
    services = {call.span_id: call.service for call in calls}
    links: dict[tuple[str, NodeKind, str], list[int]] = {}
    breakers: dict[str, tuple[int, int, str]] = {}
    # Calls that are continued by the span of another service, or of the same one that calls itself.
    continued = set()
    for call in calls:
        caller = services.get(call.parent_id)
        if caller is None:
            continue
        if caller != call.service:
            continued.add(call.parent_id)
            _count(links, caller, "service", call.service, call.failed)
        elif call.kind in _ENTRIES:
            continued.add(call.parent_id)
    for call in calls:
        kind = call.target_kind
        if not kind or (kind == "external" and call.span_id in continued):
            continue
        _count(links, call.service, kind, call.target, call.failed)  # type: ignore[arg-type]
        if kind == "breaker":
            state = (call.start, call.end, call.state)
            breakers[call.target] = max(breakers.get(call.target, state), state)
    return TraceLinks(
        [(*link, made, failed) for link, (made, failed) in sorted(links.items())],
        [(name, *state) for name, state in sorted(breakers.items())],
    )


def _calls_of(trace: Trace) -> list[Call]:
    calls = []
    for span in trace.spans:
        target = target_of(span.kind, span.attributes)
        state = breaker_state(span.attributes) if target is not None and target.kind == "breaker" else ""
        kind, name = ("", "") if target is None else target
        calls.append(
            Call(
                *(span.span_id, span.parent_id, span.service, span.kind, span.failed),
                *(kind, name, span.start, max(span.end, span.start), state),
            )
        )
    return calls


def _count(
    links: dict[tuple[str, NodeKind, str], list[int]], caller: str, kind: NodeKind, callee: str, failed: bool
) -> None:
    counted = links.get((caller, kind, callee))
    if counted is None:
        counted = links[caller, kind, callee] = [0, 0]
    counted[0] += 1
    counted[1] += failed
