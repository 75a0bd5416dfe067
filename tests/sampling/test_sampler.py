"""Test which traces a rate keeps, and that services with different rates keep the same ones."""

from __future__ import annotations

import random
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from django_tracing import faults
from django_tracing.conf.loading import load
from django_tracing.sampling.rules import Rule, compile_rules
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


def made(**tracing: Any) -> RuleSampler:
    settings = load({"EXPORTER": "none", "SERVICE_NAME": "shop", **tracing}, {})
    assert settings.problems == ()
    return RuleSampler(settings.sample_rate, settings)


@pytest.mark.parametrize(
    ("tracing", "simple"),
    [
        ({}, True),
        ({"SAMPLE_RATE": 0.5}, True),
        ({"KEEP_ERRORS": True}, False),
        ({"KEEP_SLOWER_THAN": 0.0}, False),
        ({"DEBUG_HEADER": "X-Debug"}, False),
        ({"REMOTE_SAMPLING_URL": "http://127.0.0.1:1/sampling"}, False),
    ],
)
def test_only_a_rate_decides_without_the_request(tracing: dict[str, Any], simple: bool) -> None:
    sampler = made(**tracing)
    assert sampler.is_simple is simple
    sampler.use(compile_rules([Rule(1, "it")], "shop"))
    assert not sampler.is_simple
    sampler.use(compile_rules([], "shop"))
    assert sampler.is_simple is simple


def test_a_rate_by_trace_id_is_not_simple() -> None:
    variables = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    settings = load({"EXPORTER": "none"}, variables)
    assert settings.sample_by_trace_id
    assert not RuleSampler(settings.sample_rate, settings).is_simple


def test_what_the_status_page_shows() -> None:
    sampler = RuleSampler(0.25)
    expected = {"rate": 0.25, "remote": None, "rules": [], "keep_errors": False, "keep_slower_than": None}
    assert sampler.describe() == {**expected, "trust_parent": "always"}
    sampler = made(
        SAMPLE_RATE=0.5, KEEP_ERRORS=True, KEEP_SLOWER_THAN=2.5, TRUST_PARENT=["10.0.0.0/8", "192.0.2.0/24"]
    )
    sampler.use(compile_rules([Rule(number, f"r{number}") for number in range(150)], "shop"))
    described = sampler.describe()
    assert described["rules"] == [f"r{number}" for number in range(100)]
    del described["rules"]
    trusted = ["10.0.0.0/8", "192.0.2.0/24"]
    expected = {"rate": 0.5, "remote": None, "keep_errors": True, "keep_slower_than": 2.5, "trust_parent": trusted}
    assert described == expected
    assert made(TRUST_PARENT="never").describe()["trust_parent"] == "never"
    sampler = made(SAMPLE_RATE=0.5, REMOTE_SAMPLING_URL="http://127.0.0.1:1/sampling")
    assert sampler.describe()["remote"] == {"rate": 0.5, "per_second": None, "operations": {}, "lower_bound": 0.0}


def work_of(sampler: RuleSampler, count: int = 1) -> int:
    """Return how many of ``count`` traces that start outside of a request are kept."""
    return sum(sampler.decide(None, "task", SpanKind.INTERNAL, None, -1).kept for _ in range(count))


def test_a_number_a_second_is_divided_by_the_processes_and_kept_when_rules_change() -> None:
    rules = compile_rules([Rule(1, "ten", max_per_second=10.0), Rule(2, "all", max_per_second=None)], "shop")
    sampler = RuleSampler(1.0)
    sampler.use(rules, processes=5)
    assert work_of(sampler, 20) == 2
    # The same rule is not given a new second.
    sampler.use(rules, processes=5)
    assert work_of(sampler, 20) == 0
    sampler.use(compile_rules([], "shop"))
    sampler.use(rules, processes=0)
    assert work_of(sampler, 20) == 10
    assert sampler.drain() == {1: (12, 48)}


@pytest.mark.parametrize(
    ("rule", "tracing", "errors", "slower"),
    [
        ({}, {}, None, None),
        ({}, {"KEEP_ERRORS": True}, True, None),
        ({}, {"KEEP_SLOWER_THAN": 2.0}, False, 2.0),
        ({"keep_errors": True}, {}, True, None),
        ({"keep_slower_than": 0.5}, {}, False, 0.5),
        ({"keep_errors": False}, {"KEEP_ERRORS": True}, None, None),
        ({"keep_errors": False, "keep_slower_than": 3.0}, {"KEEP_ERRORS": True, "KEEP_SLOWER_THAN": 2.0}, False, 3.0),
    ],
)
def test_a_trace_that_is_not_kept_waits_for_its_end_if_that_may_keep_it(
    rule: dict[str, Any], tracing: dict[str, Any], errors: bool | None, slower: float | None
) -> None:
    sampler = made(**tracing)
    sampler.use(compile_rules([Rule(1, "none", rate=0.0, **rule)], "shop"))
    decision = sampler.decide(None, "task", SpanKind.INTERNAL, None, 5)
    assert not decision.kept
    undecided = decision.undecided
    if errors is None:
        assert undecided is None and decision.shared is None
        return
    assert undecided is not None and undecided.trace_id == 5
    assert undecided.keep_errors is errors
    assert undecided.deadline == (None if slower is None else slower * 1e9)
    assert decision.shared is not None
    assert decision.shared.attributes == {"sampling.rule": "none", "sampling.rate": 0.0}


def test_a_decision_that_raises_does_not_reach_the_code_that_starts_a_span(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_faults", faults._Faults())
    sampler = RuleSampler(1.0)

    def fail(*args: Any) -> bool:
        raise RuntimeError("broken")

    monkeypatch.setattr(sampler, "keep", fail)
    result = sampler.should_sample(None, 5, "GET", attributes={"a": 1})
    assert result.decision is Decision.RECORD_AND_SAMPLE
    assert dict(result.attributes) == {"a": 1}
    (record,) = caplog.records
    assert record.getMessage() == "The sampling of a span of another tracer could not be decided; it is sampled."


def test_if_the_rules_raise_the_rate_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("broken")

    for rate, decided in ((1.0, Decision.RECORD_AND_SAMPLE), (0.0, Decision.DROP)):
        sampler = RuleSampler(rate)
        sampler.use(compile_rules([Rule(1, "it")], "shop"))
        monkeypatch.setattr(sampler, "decide", fail)
        assert sampler.should_sample(None, 5, "GET").decision is decided
