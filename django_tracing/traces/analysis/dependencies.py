"""Find which services call each other, and what else they call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from django_tracing.semconv.categories import breaker_state, target_of
from django_tracing.traces.analysis.routes import Part
from django_tracing.traces.model import Dependency, Trace

__all__ = ["NodeKind", "TraceLinks", "links_of", "merge_links", "trace_links"]

NodeKind = Literal["service", "database", "cache", "breaker", "external"]


class TraceLinks(NamedTuple):
    """The links of one trace, or of several traces with the same links."""

    #: The caller, the kind, the callee, the number of calls, and how many of these failed.
    links: Sequence[tuple[str, NodeKind, str, int, int]]
    #: The name, the start and the end of the latest call, and the state after it, of each circuit breaker.
    breakers: Sequence[tuple[str, int, int, str]] = ()
    traces: int = 1


_ENTRIES: Final = frozenset({"server", "consumer"})


def links_of(traces: Iterable[Trace]) -> list[Dependency]:
    """Return the calls in ``traces``."""
    return merge_links(trace_links(_calls_of(trace)) for trace in traces)


def merge_links(traces: Iterable[TraceLinks]) -> list[Dependency]:
    """Return the calls in traces: in what :func:`trace_links` returned for each."""
    calls: dict[tuple[str, str, NodeKind], list[int]] = {}
    latest: dict[str, tuple[int, int, str]] = {}
    for links, breakers, times in traces:
        for caller, kind, callee, made, failed in links:
            counted = calls.setdefault((caller, callee, kind), [0, 0])
            counted[0] += made * times
            counted[1] += failed * times
        for name, start, end, state in breakers:
            latest[name] = max(latest.get(name, (start, end, state)), (start, end, state))
    return [
        Dependency(caller, callee, kind, made, failed, made, latest[callee][2] if kind == "breaker" else "")
        for (caller, callee, kind), (made, failed) in sorted(calls.items())
    ]


def trace_links(parts: Sequence[Part]) -> TraceLinks:
    """Return the links of one trace, sorted."""
    services = {part[0]: part[2] for part in parts}
    links: dict[tuple[str, NodeKind, str], list[int]] = {}
    breakers: dict[str, tuple[int, int, str]] = {}
    # Calls that are continued by the span of another service, or of the same one that calls itself.
    continued = set()
    for _span_id, parent_id, service, _name, kind, _start, _end, failed, *_ in parts:
        caller = services.get(parent_id)
        if caller is None:
            continue
        if caller != service:
            continued.add(parent_id)
            _count(links, (caller, "service", service), failed)
        elif kind in _ENTRIES:
            continued.add(parent_id)
    for span_id, _parent_id, service, _name, _kind, start, end, failed, _work, target_kind, target, state in parts:
        if not target_kind or (target_kind == "external" and span_id in continued):
            continue
        _count(links, (service, target_kind, target), failed)  # type: ignore[arg-type]
        if target_kind == "breaker":
            latest = (start, end, state)
            breakers[target] = max(breakers.get(target, latest), latest)
    return TraceLinks(
        [(*link, made, failed) for link, (made, failed) in sorted(links.items())],
        [(name, *latest) for name, latest in sorted(breakers.items())],
    )


def _calls_of(trace: Trace) -> list[Part]:
    """Return the spans of a trace as parts, without the category of their time."""
    calls = []
    for span in trace.spans:
        target = target_of(span.kind, span.attributes)
        state = breaker_state(span.attributes) if target is not None and target.kind == "breaker" else ""
        kind, name = ("", "") if target is None else target
        calls.append(
            Part(
                *(span.span_id, span.parent_id, span.service, span.name, span.kind),
                *(span.start, max(span.end, span.start), span.failed),
                work="other",
                target_kind=kind,
                target=name,
                state=state,
            )
        )
    return calls


def _count(links: dict[tuple[str, NodeKind, str], list[int]], link: tuple[str, NodeKind, str], failed: bool) -> None:
    counted = links.get(link)
    if counted is None:
        counted = links[link] = [0, 0]
    counted[0] += 1
    counted[1] += failed
