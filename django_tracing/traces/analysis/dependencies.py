"""Find which services call each other, and what else they call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from django_tracing.semconv.categories import breaker_state, target_of
from django_tracing.traces.model import Dependency, Trace

__all__ = ["NodeKind", "links_of"]

NodeKind = Literal["service", "database", "cache", "breaker", "external"]


def links_of(traces: Iterable[Trace]) -> list[Dependency]:
    """Return the calls in ``traces``."""
    calls: dict[tuple[str, str, NodeKind], list[int]] = {}
    states: dict[str, tuple[int, str]] = {}
    for trace in traces:
        by_id = {span.span_id: span for span in trace.spans}
        continued = set()
        for span in trace.spans:
            parent = by_id.get(span.parent_id)
            if parent is None:
                continue
            if span.kind in ("server", "consumer"):
                # Even if a service calls itself.
                continued.add(parent.span_id)
            if parent.service != span.service:
                continued.add(parent.span_id)
                _count(calls, parent.service, span.service, "service", span.failed)
        for span in trace.spans:
            target = target_of(span.kind, span.attributes)
            if target is None or (target.kind == "external" and span.span_id in continued):
                continue
            _count(calls, span.service, target.name, target.kind, span.failed)
            if target.kind == "breaker" and span.start >= states.get(target.name, (0, ""))[0]:
                states[target.name] = span.start, breaker_state(span.attributes)
    return [
        Dependency(
            caller, callee, kind, count, errors, count, states.get(callee, (0, ""))[1] if kind == "breaker" else ""
        )
        for (caller, callee, kind), (count, errors) in sorted(calls.items())
    ]


def _count(
    calls: dict[tuple[str, str, NodeKind], list[int]], caller: str, callee: str, kind: NodeKind, failed: bool
) -> None:
    counted = calls.setdefault((caller, callee, kind), [0, 0])
    counted[0] += 1
    counted[1] += failed
