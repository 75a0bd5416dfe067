"""Searches of windows of time, over storages that answer as Jaeger's do: each with some of the traces that match."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from django_tracing.exceptions import JaegerError
from django_tracing.traces.model import TraceSummary
from django_tracing.traces.readers.jaeger import windows
from django_tracing.traces.readers.jaeger.windows import Ask, WindowSearch


@dataclass
class Stored:
    """A trace: the starts of its spans that match, in microseconds, and how many spans it has beside those."""

    number: int
    starts: list[int]
    others: int = 0

    def summary(self) -> TraceSummary:
        first, last = min(self.starts), max(self.starts)
        return TraceSummary(
            trace_id=f"{self.number:032x}",
            name="GET /",
            service="shop",
            services=("shop",),
            start=first * 1000,
            duration=(last - first) * 1000,
            span_count=len(self.starts) + self.others,
            error_count=0,
        )


def by_newest_span(traces: list[Stored], lower: int, upper: int, depth: int) -> list[TraceSummary]:
    """Badger and OpenSearch: the traces whose newest span in the window is the newest."""
    newest = {trace.number: max((at for at in trace.starts if lower <= at <= upper), default=-1) for trace in traces}
    found = sorted((trace for trace in traces if newest[trace.number] >= 0), key=lambda trace: -newest[trace.number])
    return [trace.summary() for trace in found[:depth]]


def by_arrival(traces: list[Stored], lower: int, upper: int, depth: int) -> list[TraceSummary]:
    """Memory: the traces that arrived last, here in the order of their numbers."""
    found = [trace for trace in traces if any(lower <= at <= upper for at in trace.starts)]
    return [trace.summary() for trace in sorted(found, key=lambda trace: -trace.number)[:depth]]


def by_index_rows(traces: list[Stored], lower: int, upper: int, depth: int) -> list[TraceSummary]:
    """Cassandra: the traces of the newest rows; then any of them."""
    found = traces_of_rows(traces, lower, upper, depth)
    return [trace.summary() for trace in random.Random(depth).sample(list(found.values()), min(depth, len(found)))]


def traces_of_rows(traces: list[Stored], lower: int, upper: int, depth: int) -> dict[int, Stored]:
    """What Cassandra's index has in its newest rows, one for each span, without the ends of the window."""
    rows = [(at, trace) for trace in traces for at in trace.starts if lower < at < upper]
    rows.sort(key=lambda row: -row[0])
    return {trace.number: trace for _, trace in rows[: 3 * depth]}


STORAGES = [by_newest_span, by_arrival, by_index_rows]


def traces_of(seed: int) -> list[Stored]:
    """Traces of all lengths that overlap, stored in any order: now dense, now sparse."""
    chosen = random.Random(seed)
    at, traces = 10**12, []
    for number in range(200):
        at += chosen.choice([0, 1, 3, 1000, 20_000, 5_000_000])
        length = chosen.choice([1, 500, 100_000, 2_000_000])
        spans = chosen.choice([1, 4, 20, 60])
        starts = [at, *(at + chosen.randrange(length) for _ in range(spans - 1))]
        traces.append(Stored(number, starts, chosen.choice([0, 3, 50])))
    numbers = list(range(len(traces)))
    chosen.shuffle(numbers)
    return [Stored(number, trace.starts, trace.others) for number, trace in zip(numbers, traces, strict=True)]


@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.__name__)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [9, 51])
def test_pages_show_each_trace_once_and_in_order(
    storage: Callable[..., list[TraceSummary]], seed: int, limit: int
) -> None:
    traces = traces_of(seed)
    most = 0

    def ask(lower: int, upper: int, depth: int) -> list[TraceSummary]:
        nonlocal most
        most += 1
        return storage(traces, lower, upper, depth)

    found: list[tuple[int, str]] = []
    before: tuple[int, str] | None = None
    pages = 0
    while True:
        page = one_page(ask, limit, before)
        if not page:
            break
        pages += 1
        found += page
        before = page[-1]
    expected = sorted(((each.start, each.trace_id) for each in (trace.summary() for trace in traces)), reverse=True)
    assert found == expected
    # About three requests for a page, not the forty that a search may send.
    assert most / pages < 12


def one_page(ask: Ask, limit: int, before: tuple[int, str] | None) -> list[tuple[int, str]]:
    search = WindowSearch(lambda each: before is None or (each.start, each.trace_id) < before, limit)
    since, until = 0, 2 * 10**12 if before is None else before[0] // 1000 + 1
    reached = search.run(ask, since, until)
    found = sorted(((each.start, each.trace_id) for each in search.found.values()), reverse=True)
    return [key for key in found if key[0] >= reached * 1000][:limit]


def test_few_traces_take_few_requests() -> None:
    traces = [Stored(number, [10**12 + number * 1000]) for number in range(10)]
    asked: list[int] = []

    def ask(lower: int, upper: int, depth: int) -> list[TraceSummary]:
        asked.append(depth)
        return by_newest_span(traces, lower, upper, depth)

    assert len(one_page(ask, 51, None)) == 10
    assert len(asked) == 1


def test_conditions_that_cassandra_intersects() -> None:
    """Of two attributes, each in many rows, only a few old traces have both."""
    both = [Stored(number, [10**12 + number]) for number in range(3)]
    first = [Stored(1000 + number, [10**12 + 10**7 + number * 1000]) for number in range(9000)]
    second = [Stored(20_000 + number, [10**12 + 10**7 + number * 1000 + 500]) for number in range(9000)]

    def ask(lower: int, upper: int, depth: int) -> list[TraceSummary]:
        known = traces_of_rows(both + first, lower, upper, depth)
        found = traces_of_rows(both + second, lower, upper, depth)
        return [trace.summary() for number, trace in found.items() if number in known]

    search = WindowSearch(lambda each: True, 20, joint=True)
    search.run(ask, 10**12 - 10**7, 10**12 + 2 * 10**7)
    assert sorted(search.found) == [f"{number:032x}" for number in range(3)]


def test_a_storage_that_refuses_to_search_for_many() -> None:
    traces = [Stored(number, [10**12 + number * 1000], 100) for number in range(200)]

    def ask(lower: int, upper: int, depth: int) -> list[TraceSummary]:
        if depth > 60:
            raise JaegerError("search depth must be less than max traces", "failed")
        return by_newest_span(traces, lower, upper, depth)

    assert [int(key[1], 16) for key in one_page(ask, 20, None)] == list(range(199, 179, -1))


def test_a_search_ends_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is found matches: the search stops, and tells from where a later one goes on."""
    traces = [Stored(number, [10**12 + number * 1000]) for number in range(5000)]
    asked = 0

    def ask(lower: int, upper: int, depth: int) -> list[TraceSummary]:
        nonlocal asked
        asked += 1
        return by_newest_span(traces, lower, upper, depth)

    search = WindowSearch(lambda each: False, 20)
    reached = search.run(ask, 0, 2 * 10**12)
    assert windows.MOST_REQUESTS <= asked <= windows.MOST_REQUESTS + 3
    assert 10**12 < reached < 10**12 + 5_000_000
    again = WindowSearch(lambda each: False, 20).run(ask, 0, reached)
    assert again < reached


def test_what_is_known_when_the_time_is_up() -> None:
    traces = [Stored(number, [10**12 + number * 1000]) for number in range(5000)]
    asked = 0

    def ask(lower: int, upper: int, depth: int) -> list[TraceSummary]:
        nonlocal asked
        asked += 1
        if asked > 4:
            raise JaegerError("too slow", "timeout")
        return by_newest_span(traces, lower, upper, depth)

    search = WindowSearch(lambda each: each.span_count > 1, 20)
    assert 10**12 < search.run(ask, 0, 2 * 10**12) < 10**12 + 5_000_000
    asked = 4
    with pytest.raises(JaegerError, match="too slow"):
        WindowSearch(lambda each: True, 20).run(ask, 0, 2 * 10**12)
