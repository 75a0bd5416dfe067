"""Traces that wait for a decision."""

from __future__ import annotations

from typing import Any
from weakref import ref

from django_tracing.recording.undecided import SamplingDecision, UndecidedTrace
from tests.recording.test_undecided_fork import Site


class Referable(UndecidedTrace):
    """With a place for weak references."""


def test_a_span_that_was_kept_does_not_hold_the_decision() -> None:
    """It may wait in the queue for long, and what decides knows the request."""
    site = Site()
    traces: list[Any] = []

    def decide(state: Any, name: str, kind: Any, parent: Any, trace_id: int) -> SamplingDecision:
        undecided = Referable(trace_id, lambda last: SamplingDecision(True))
        traces.append(ref(undecided))
        return SamplingDecision(False, undecided)

    site.factory.decide = decide
    root = site.start("root")
    child = site.start("child", root)
    child.end()
    root.end()
    assert site.names == ["child", "root"]
    assert [trace() for trace in traces] == [None]
    assert child.context.trace_flags.sampled and root.context.trace_flags.sampled


def test_a_thread_that_drops_what_another_one_has_just_dropped() -> None:
    class Emptied(list[Any]):
        def pop(self, *place: Any) -> Any:
            self.clear()
            return super().pop()

    site = Site()
    site.factory.decide = lambda state, name, kind, parent, trace_id: SamplingDecision(
        False, UndecidedTrace(trace_id, lambda last: SamplingDecision(False))
    )
    root = site.start("root")
    root.undecided.ended = Emptied(["of another thread"])
    root.end()
    assert site.names == []
