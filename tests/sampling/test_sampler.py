"""Test which traces a rate keeps, and that services with different rates keep the same ones."""

from __future__ import annotations

import random

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from django_tracing.sampling.sampler import RuleSampler

RATES = [0.0, 1e-9, 0.1, 0.5, 1.0]


@pytest.mark.parametrize("rate", RATES)
def test_keeps_its_share_consistently(rate: float) -> None:
    sampler = RuleSampler(rate)
    numbers = random.Random(0)
    ids = [numbers.getrandbits(128) for _ in range(20_000)]
    kept = [sampler.keep(None, trace_id) for trace_id in ids]
    assert sum(kept) / len(kept) == pytest.approx(rate, abs=0.015)
    assert kept == [sampler.should_sample(None, trace_id, "GET").decision.is_sampled() for trace_id in ids]
    # A service with a higher rate keeps all of them.
    higher = RuleSampler(min(rate * 2, 1.0))
    assert all(higher.keep(None, trace_id) for trace_id, was in zip(ids, kept, strict=True) if was)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("remote", [True, False])
def test_a_parent_decides(rate: float, sampled: bool, remote: bool) -> None:
    state = TraceState([("vendor", "1")])
    parent = SpanContext(1 << 100, 7, remote, TraceFlags(int(sampled)), state)
    context = trace.set_span_in_context(NonRecordingSpan(parent), Context())
    result = RuleSampler(rate).should_sample(context, parent.trace_id, "GET", SpanKind.SERVER, {"a": 1})
    assert result.decision.is_sampled() is sampled
    assert result.trace_state == state
    if sampled:
        assert dict(result.attributes) == {"a": 1}


def test_description() -> None:
    assert "0.25" in RuleSampler(0.25).get_description()


@pytest.mark.parametrize(("rate", "state"), [(1.0, None), (0.5, "th:8"), (0.25, "th:c"), (0.75, "th:4")])
def test_the_rate_is_passed_on_to_other_services_unless_it_keeps_all(rate: float, state: str | None) -> None:
    """They compute how many traces each one stands for (OpenTelemetry's probability sampling)."""
    sampler = RuleSampler(rate)
    decision = sampler.decide(None, "task", SpanKind.INTERNAL, None, (1 << 128) - 1)
    assert decision.kept
    assert decision.trace_state == (None if state is None else TraceState([("ot", state)]))


def test_each_decision_is_counted_once_and_a_forked_child_counts_its_own() -> None:
    sampler = RuleSampler(0.5)
    decide = [lambda bits=bits: sampler.decide(None, "task", SpanKind.INTERNAL, None, bits) for bits in (0, -1)]
    assert [one().kept for one in (*decide, decide[1])] == [False, True, True]
    assert sampler.drain() == {None: (2, 1)}
    assert sampler.drain() == {}
    decide[1]()
    sampler.reset_after_fork()
    assert [one().kept for one in decide] == [False, True]
    assert sampler.drain() == {None: (1, 1)}
