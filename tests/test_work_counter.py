"""Test that the counter of work distinguishes linear from quadratic code, in any style."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.work_counter import growth, work


def _loop(items: list[int]) -> int:
    total = 0
    for item in items:
        total += item
    return total


def _nested_loop(items: list[int]) -> int:
    total = 0
    for _ in items:
        for item in items:
            total += item
    return total


def _drained(items: list[int]) -> None:
    while items:
        items.remove(items[-1])


def _stripped(items: list[int]) -> None:
    text = "a" * len(items)
    for _ in items:
        text.replace("b", "c")


LINEAR: list[Callable[[list[int]], object]] = [
    _loop,
    lambda items: [item + 1 for item in items],
    lambda items: sum(item + 1 for item in items),
    lambda items: sorted(items, key=lambda item: -item),
    lambda items: dict(map(lambda item: (item, item), items)),  # noqa: C417
]
QUADRATIC: list[Callable[[list[int]], object]] = [
    _nested_loop,
    lambda items: [other for _ in items for other in items],
    lambda items: [sum(1 for _ in items) for _ in items],
    _drained,
    _stripped,
]


def _items(size: int) -> list[int]:
    return list(range(size))


@pytest.mark.parametrize("function", LINEAR)
def test_linear_work_grows_by_four_with_four_times_the_input(function: Callable[[list[int]], object]) -> None:
    for ratio in growth(function, _items, 300, 1200, 4800):
        assert 3.5 <= ratio <= 4.5


@pytest.mark.parametrize("function", QUADRATIC)
def test_quadratic_work_grows_by_more(function: Callable[[list[int]], object]) -> None:
    assert growth(function, _items, 250, 1000)[0] > 8


def test_the_same_call_counts_the_same() -> None:
    assert work(_loop, _items(100)) == work(_loop, _items(100)) > 100


def test_exceptions_propagate_and_tracing_is_restored() -> None:
    before = sys.gettrace(), sys.getprofile()

    with pytest.raises(ZeroDivisionError):
        work(lambda: 1 // 0)

    assert (sys.gettrace(), sys.getprofile()) == before
