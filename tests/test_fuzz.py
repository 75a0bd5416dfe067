"""Test a few hundred hostile inputs of each reader: the quick part of ``make fuzz``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz.mutation import mutated, pumped, smaller
from tests.fuzz.running import Result, Target, kept, run
from tests.fuzz.targets import TARGETS

#: How many inputs each target has here, less for slow ones: all of them together take four seconds.
CASES = 240


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Warnings are errors here, where they are not in production.
        warnings.simplefilter("ignore", FutureWarning)
        yield


def told(result: Result) -> str:
    return "\n".join(f"{crash.value!r}\n{crash.trace}" for crash in result.crashes.values())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_hostile_input_breaks_a_promise(target: Target) -> None:
    cases = max(CASES // target.weight, len(target.former) + 4)
    # To count the work takes longer than the work.
    quick = replace(target, examples=target.examples[:4], linear=target.linear and target.weight < 3)
    result = run(quick, cases, shrink=False)
    assert not result.crashes, told(result)
    assert result.cases >= cases


# ----- The runner


def ran(check: Any, examples: tuple[Any, ...] = ("abcdef",), **options: Any) -> Result:
    return run(Target("test", check, st.text(max_size=9), examples, **options), 200)


def test_an_exception_is_found_and_shrunk() -> None:
    def check(text: str) -> None:
        if "\x00" in text:
            raise LookupError(text)

    [crash] = ran(check, ("a\x00b",)).crashes.values()
    assert (crash.kind, crash.value) == ("LookupError", "\x00")


def test_a_fault_that_is_caught_is_found() -> None:
    from django_tracing.faults import fault_counts, log_once

    def check(text: str) -> None:
        try:
            raise ValueError
        except ValueError:
            log_once("test-fuzz", "It failed.")

    before = fault_counts()
    [crash] = ran(check).crashes.values()
    assert "test-fuzz" in crash.trace
    assert fault_counts() == before


def test_work_that_grows_with_the_square_is_found() -> None:
    def square(text: str) -> None:
        for _ in text:
            for _ in text:
                pass

    def linear(text: str) -> None:
        for _ in text:
            pass

    assert ran(linear).crashes == {}
    [crash] = ran(square).crashes.values()
    assert "not linear" in crash.trace


def test_what_the_modules_keep_is_counted() -> None:
    from django_tracing.context import outgoing

    before = kept()["django_tracing.context.outgoing._written"]
    outgoing._written[7] = None
    try:
        assert kept()["django_tracing.context.outgoing._written"] == before + 1
        assert "django_tracing.context.outgoing._is_listed" in kept()
    finally:
        del outgoing._written[7]


def test_the_inputs_of_one_number_are_the_same() -> None:
    def inputs() -> list[str]:
        found: list[str] = []
        ran(found.append)
        return found

    assert inputs() == inputs()
    assert len(set(inputs())) > 100


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": ["b", {"c": 1}]}, ("a", b"b", 1), [1, "b"]])
def test_changed_inputs_keep_their_kind(value: Any) -> None:
    random = Random(7)
    found = [mutated(value, random) for _ in range(300)]
    assert len({repr(each) for each in found}) > 100
    if isinstance(value, (str, bytes, tuple)):
        assert {type(each) for each in found} == {type(value)}
    longer = pumped(value, random)
    assert longer is None or len(repr(longer(1000))) > 1000


def test_inputs_become_as_small_as_they_can() -> None:
    assert smaller({"a": ["x", "yyyzyyy"], "b": 1}, lambda value: "z" in repr(value)) == {"a": ["z"]}
