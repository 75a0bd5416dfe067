"""Undecided traces in a process that forks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, set_span_in_context

from django_tracing.recording import undecided as undecided_module
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.undecided import SamplingDecision, UndecidedTrace, undecided_traces

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


class Site(SpanProcessor):
    """A provider whose traces wait for a decision, which keeps them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(self)
        factory = SpanFactory.of(provider.get_tracer("shop"), lambda parent, trace_id: False)
        assert factory is not None
        factory.decide = lambda state, name, kind, parent, trace_id: SamplingDecision(
            False, UndecidedTrace(trace_id, lambda last: SamplingDecision(True))
        )
        self.factory = factory

    def on_end(self, span: Any) -> None:
        self.names.append(span.name)

    def start(self, name: str, parent: trace.Span | None = None) -> Any:
        context = Context() if parent is None else set_span_in_context(parent, Context())
        return self.factory.start(name, context, SpanKind.SERVER, (), None)


def in_child(work: Callable[[], list[Any]]) -> list[Any]:
    """What ``work`` returns in a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return list(json.loads(text))


def test_spans_that_wait_are_sent_by_the_parent_alone() -> None:
    site = Site()
    root = site.start("root")
    site.start("before", root).end()

    def work() -> list[Any]:
        site.start("in the child", root).end()
        undecided_traces[root.trace_id].reconsider()
        site.start("decided", root).end()
        return site.names

    token = attach(set_span_in_context(root, Context()))
    try:
        assert in_child(work) == ["in the child", "decided"]
    finally:
        detach(token)
    root.end()
    assert site.names == ["before", "root"]


def test_traces_of_the_parents_other_threads_take_no_place_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undecided_module, "_MOST_SPANS", 1)
    site = Site()
    other = site.start("of another thread")
    site.start("waits", other).end()

    def work() -> list[Any]:
        root = site.start("root")
        known = len(undecided_traces)
        site.start("child", root).end()
        root.end()
        return [known, *site.names]

    assert in_child(work) == [1, "child", "root"]
    other.end()
    assert site.names == ["waits", "of another thread"]


def test_as_many_spans_wait_in_the_child_as_in_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spans that wait in the parent take no place in the child, and no more than the limit wait there."""
    monkeypatch.setattr(undecided_module, "_MOST_SPANS", 3)
    # Other tests may have left traces open.
    monkeypatch.setattr(undecided_module, "_waiting", undecided_module._Waiting())

    def kept() -> list[Any]:
        site = Site()
        root = site.start("root")
        for number in range(5):
            site.start(f"{number}", root).end()
        root.end()
        return site.names

    assert kept() == ["0", "1", "2", "root"]
    site = Site()
    root = site.start("of the parent")
    site.start("waits", root).end()
    try:
        assert in_child(kept) == ["0", "1", "2", "root"]
    finally:
        root.end()
