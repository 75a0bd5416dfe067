"""The guard of a sampler of another package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState

from django_tracing import faults
from django_tracing.sampling.registered import GuardedSampler

ASKED = (Context(), 7, "span", SpanKind.SERVER, {"a": 1}, (Link(SpanContext(1, 2, is_remote=True)),))


class Planted(Sampler):
    def __init__(self, answer: Callable[..., Any]) -> None:
        self.answer = answer

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer(*args, **kwargs)

    def get_description(self) -> Any:
        return self.answer()


def changed(**parts: Any) -> SamplingResult:
    result = SamplingResult(Decision.RECORD_AND_SAMPLE)
    vars(result).update(parts)
    return result


def leave(*args: Any) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("sampler", ["planted", "fallback"])
def test_a_sampler_is_asked_all_and_its_result_is_returned(sampler: str, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Any] = []
    result = SamplingResult(Decision.RECORD_ONLY, {"b": 2}, TraceState([("v", "1")]))

    def answer(*args: Any) -> SamplingResult:
        asked.append(args)
        return result

    planted = {"planted": Planted(answer), "fallback": Planted(leave)}[sampler]
    assert GuardedSampler(planted, Planted(answer)).should_sample(*ASKED) is result
    assert asked == [ASKED]


@pytest.mark.parametrize(
    "answer",
    [
        leave,
        lambda *args: None,
        lambda *args: "x",
        lambda *args: changed(decision=2),
        lambda *args: changed(attributes=["a"]),
        lambda *args: changed(trace_state="v=1"),
    ],
)
def test_without_a_usable_result_the_rate_decides(
    answer: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_faults", faults._Faults())
    guarded = GuardedSampler(Planted(answer), ALWAYS_OFF)
    for _ in range(3):
        assert guarded.should_sample(*ASKED).decision is Decision.DROP
    (record,) = caplog.records
    assert record.getMessage() == "The sampler of OTEL_TRACES_SAMPLER failed. SAMPLE_RATE decides instead."


def test_its_description() -> None:
    assert GuardedSampler(Planted(lambda: "mine"), ALWAYS_OFF).get_description() == "mine"
    assert GuardedSampler(Planted(leave), ALWAYS_OFF).get_description() == "Planted"
