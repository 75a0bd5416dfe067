"""Test that four times as many spans take about four times as much work for any shape of trace. Work is counted, not timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from django_tracing.pages.compare import differences, side_rows
from django_tracing.pages.heading import left_out_sentences
from django_tracing.pages.rows import Colors, rows_of
from django_tracing.traces import query as asked
from django_tracing.traces.analysis.dependencies import links_of
from django_tracing.traces.analysis.layout import layout
from django_tracing.traces.analysis.routes import parts_of, route_statistics
from django_tracing.traces.analysis.waterfall import short_statement, waterfall
from django_tracing.traces.diagrams import as_dot, as_mermaid, as_text
from django_tracing.traces.durations import parse_duration
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.model import Dependencies, Dependency, Span, Trace, span_of, summarize
from django_tracing.traces.readers.sqlite.store import LocalStore
from django_tracing.traces.text import render_list, render_trace
from django_tracing.traces.tree import innermost
from tests.traces.builders import exception, row
from tests.work_counter import growth, work

SIZES = (64, 256, 1024)
#: A sort makes n log n comparisons; four times as many items take up to five times as much work.
MOST = 5.0


def wide(number: int, size: int) -> dict[str, Any]:
    return row(1, number, 1 if number > 1 else 0, f"name {number}", start=number)


def deep(number: int, size: int) -> dict[str, Any]:
    return row(1, number, number - 1, start=number, took=2 * size - 2 * number + 1)


def same_name(number: int, size: int) -> dict[str, Any]:
    return row(1, number, 1 if number > 1 else 0, "the same", start=number)


def same_sql(number: int, size: int) -> dict[str, Any]:
    attributes = {"db.statement": "SELECT a FROM b WHERE c = ?", "db.operation": "select", "db.system": "sqlite"}
    return row(1, number, 1 if number > 1 else 0, "db.select.b", start=number, kind="client", attributes=attributes)


def all_failed(number: int, size: int) -> dict[str, Any]:
    return row(1, number, number // 2, start=number, status="error", events=[exception()] * 3)


def all_at_once(number: int, size: int) -> dict[str, Any]:
    return row(1, number, number // 2, start=0, took=9)


def roots(number: int, size: int) -> dict[str, Any]:
    return row(1, number, 0, start=number, kind="server")


def orphans(number: int, size: int) -> dict[str, Any]:
    return row(1, number, 10**6 + number, start=number)


def one_cycle(number: int, size: int) -> dict[str, Any]:
    return row(1, number, number + 1 if number < size else 1, start=number)


def cycles_of_two(number: int, size: int) -> dict[str, Any]:
    return row(1, number, number + 1 if number % 2 else number - 1, start=number)


def a_cycle_with_many_children(number: int, size: int) -> dict[str, Any]:
    return row(1, number, {1: 2, 2: 1}.get(number, 1 if number % 2 else 2), start=number)


def a_chain_below_a_cycle(number: int, size: int) -> dict[str, Any]:
    return row(1, number, 2 if number == 1 else number - 1, start=size - number)


def own_parents(number: int, size: int) -> dict[str, Any]:
    return row(1, number, number, start=number)


def the_same_id(number: int, size: int) -> dict[str, Any]:
    return row(1, 7, 7 if number % 2 else 3, start=number)


def layers_around_each_other(number: int, size: int) -> dict[str, Any]:
    """As with LAYERS = "slow": nested middleware, as siblings of the calls in them."""
    if number == 1:
        return row(1, 1, 0, "GET /", took=3 * size)
    if number % 2:
        return row(1, number, 1, f"middleware.m{number}", start=number, took=3 * size - 2 * number)
    return row(1, number, 1, f"db.select.t{number}", start=number, took=1, kind="client")


def layers_side_by_side(number: int, size: int) -> dict[str, Any]:
    if number == 1:
        return row(1, 1, 0, "GET /", took=3 * size)
    return row(1, number, 1, ("view.x", f"call {number}")[number % 2], start=number // 2 * 2, took=2 - number % 2)


def a_service_each(number: int, size: int) -> dict[str, Any]:
    return row(1, number, number - 1, start=number, service=f"service {number}", kind="server")


def targets(number: int, size: int) -> dict[str, Any]:
    attributes = {"http.url": f"http://host{number}/x", "peer.service": f"host{number}", "http.method": "GET"}
    return row(1, number, 1 if number > 1 else 0, "http.get.x", start=number, kind="client", attributes=attributes)


SHAPES: list[Callable[[int, int], dict[str, Any]]] = [
    *(wide, deep, same_name, same_sql, all_failed, all_at_once, roots, orphans, one_cycle, cycles_of_two),
    *(a_cycle_with_many_children, a_chain_below_a_cycle, own_parents, the_same_id, layers_around_each_other),
    *(layers_side_by_side, a_service_each, targets),
]


def spans_of(shape: Callable[[int, int], dict[str, Any]], size: int) -> list[Span]:
    return [span_of(shape(number, size)) for number in range(1, size + 1)]


def page(trace: Trace) -> None:
    fall = waterfall(trace)
    colors = Colors(trace.services)
    rows_of(fall, colors)
    side_rows(fall, trace.duration, colors)
    differences(trace, trace)
    left_out_sentences(trace)
    # The services of its header; the rest of the header are links.
    trace.spans_by_service()
    trace.summary().as_dict()


FUNCTIONS: dict[str, Callable[[Trace], object]] = {
    "tree": lambda trace: trace.tree(),
    "waterfall": waterfall,
    "text": render_trace,
    "page": page,
    "json": lambda trace: json.dumps(trace.as_dict()),
    "otlp": lambda trace: sum(map(len, otlp_json(trace.spans))),
    "jaeger": lambda trace: sum(map(len, jaeger_json(trace.trace_id, trace.spans))),
    "routes": lambda trace: route_statistics([(trace.trace_id, parts_of(trace))]),
    "links": lambda trace: links_of([trace]),
    "summaries": lambda trace: render_list(summarize(trace.spans)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_work_grows_with_the_trace(function: str, shape: Callable[[int, int], dict[str, Any]]) -> None:
    found = growth(FUNCTIONS[function], lambda size: Trace("1" * 32, spans_of(shape, size)), *SIZES)
    assert max(found) < MOST, found


@pytest.mark.parametrize("shape", [deep, one_cycle, a_chain_below_a_cycle])
def test_any_depth(shape: Callable[[int, int], dict[str, Any]]) -> None:
    trace = Trace("1" * 32, spans_of(shape, 5_000))
    for function in FUNCTIONS.values():
        function(trace)


def test_the_text_of_a_deep_trace_grows_with_its_lines() -> None:
    text = render_trace(Trace("1" * 32, spans_of(deep, 5000)), width=100)
    assert all(len(line) <= 100 for line in text.splitlines())


# ----- The service map


def links(shape: str, size: int) -> list[Dependency]:
    pairs = {
        "chain": lambda number: (f"s{number}", f"s{number + 1}"),
        "star": lambda number: ("s", f"t{number}"),
        "into one": lambda number: (f"s{number}", "t"),
        "circle": lambda number: (f"s{number}", f"s{(number + 1) % size}"),
        "ladder": lambda number: (f"s{number // 2}", f"s{number // 2 + 1 + number % 2}"),
        "from the first over a chain": lambda number: (
            ("s0", f"s{number // 2}") if number % 2 else (f"s{number // 2}", f"s{number // 2 + 1}")
        ),
    }[shape]
    return [Dependency(*pairs(number), "service", 1 + number, 0, 1) for number in range(size)]


@pytest.mark.parametrize("shape", ["chain", "star", "into one", "circle", "ladder", "from the first over a chain"])
def test_work_grows_with_the_map(shape: str) -> None:
    for function in (layout, as_text_of, as_mermaid_of, as_dot_of):
        found = growth(function, lambda size: links(shape, size), *SIZES)
        assert max(found) < MOST, (function, found)


def as_text_of(found: list[Dependency]) -> str:
    return as_text(Dependencies(found))


def as_mermaid_of(found: list[Dependency]) -> str:
    return as_mermaid(Dependencies(found))


def as_dot_of(found: list[Dependency]) -> str:
    return as_dot(Dependencies(found))


# ----- Stored data and user input


@pytest.mark.parametrize("shape", SHAPES)
def test_writing_and_reading_the_store(shape: Callable[[int, int], dict[str, Any]], tmp_path: Any) -> None:
    numbers = iter(range(100))

    def run(size: int) -> int:
        store = LocalStore(tmp_path / f"{next(numbers)}.sqlite3", max_trace_spans=size // 2)
        rows = [shape(number, size) for number in range(1, size + 1)]

        def use() -> None:
            for begin in range(0, size, 50):
                store.write(rows[begin : begin + 50])
            store.trace(f"{1:032x}")
            found = store.stream(f"{1:032x}")
            assert found is not None
            assert sum(1 for _ in found.spans)
            store.routes()
            store.dependencies()
            store.search()

        done = work(use)
        store.close()
        return done

    few, many = run(250), run(1000)
    assert many < MOST * few


@pytest.mark.parametrize(
    "text",
    [
        lambda size: "SELECT " * size,
        lambda size: "SELECT a, " * size + " FROM ",
        lambda size: "SELECT " + "x " * size,
        lambda size: " " * 8 * size,
        lambda size: 'a="b c" ' * size,
        lambda size: '"' * size,
        lambda size: "1" * size + "ms",
        lambda size: "\\" * size,
        lambda size: "=" * size,
    ],
)
def test_texts(text: Callable[[int], str]) -> None:
    def read(value: str) -> None:
        short_statement(value)
        for parse in (parse_duration, asked.attributes, asked.attribute):
            try:
                parse(value)
            except (ValueError, OverflowError):
                continue

    assert max(growth(read, text, *SIZES)) < MOST


def test_the_layer_around_each_is_the_shortest_that_there_is() -> None:
    """Compare the sweep with a search through all layers."""
    from random import Random

    random = Random(7)
    for _ in range(300):
        ends = [sorted(random.choices(range(12), k=2)) for _ in range(random.randint(0, 12))]
        members = [(start, end) for start, end in islice(ends, 6)]
        layers = [(start, end) for start, end in islice(ends, 4, None)]
        for strict in (False, True):
            found = innermost(members, layers, strict=strict)
            for (start, end), number in zip(members, found, strict=True):
                around = [
                    (layer[1] - layer[0], place)
                    for place, layer in enumerate(layers)
                    if layer[0] <= start and end <= layer[1] and not (strict and layer == (start, end))
                ]
                assert number == (min(around)[1] if around else None)
