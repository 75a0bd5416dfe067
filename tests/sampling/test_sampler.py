"""Which traces are kept: as the SDK's own sampler would, so that services of one rate keep the same ones."""

from __future__ import annotations

import random

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from django_tracing.sampling.sampler import RateSampler

RATES = [0.0, 1e-9, 0.1, 0.5, 1.0]


@pytest.mark.parametrize("rate", RATES)
def test_decides_as_the_sdk(rate: float) -> None:
    ours, theirs = RateSampler(rate), ParentBased(TraceIdRatioBased(rate))
    numbers = random.Random(0)
    for trace_id in [0, 1, 2**64 - 1, 2**64, 2**128 - 1, *(numbers.getrandbits(128) for _ in range(20_000))]:
        expected = theirs.should_sample(None, trace_id, "GET").decision
        assert ours.should_sample(None, trace_id, "GET").decision is expected
        assert ours.keep(None, trace_id) is expected.is_sampled()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("remote", [True, False])
def test_a_parent_decides(rate: float, sampled: bool, remote: bool) -> None:
    state = TraceState([("vendor", "1")])
    parent = SpanContext(1 << 100, 7, remote, TraceFlags(int(sampled)), state)
    context = trace.set_span_in_context(NonRecordingSpan(parent), Context())
    result = RateSampler(rate).should_sample(context, parent.trace_id, "GET", SpanKind.SERVER, {"a": 1})
    assert result.decision.is_sampled() is sampled
    assert result.trace_state == state
    assert dict(result.attributes) == ({"a": 1} if sampled else {})


def test_says_what_it_is() -> None:
    assert "0.25" in RateSampler(0.25).get_description()
