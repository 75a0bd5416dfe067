"""Test the rows of a trace: the tree, folded calls, the critical path and the time per category."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_tracing.traces.analysis.waterfall import Row, Waterfall, location_of, short_statement, waterfall
from django_tracing.traces.model import Trace, span_of
from tests.traces.builders import MS, NOON, row

SELECT = {"db.system": "postgresql", "db.operation": "select", "db.statement": "SELECT a FROM t WHERE id = %s"}


def fall_of(rows: list[dict[str, Any]]) -> Waterfall:
    return waterfall(Trace(rows[0]["trace_id"], map(span_of, rows)))


def named(fall: Waterfall) -> list[tuple[int, str]]:
    return [
        (found.depth, f"{found.count} x {found.span.name}" if found.folds else found.span.name) for found in fall.rows
    ]


def critical(fall: Waterfall) -> dict[str, list[tuple[float, float]]]:
    return {
        found.span.name: [(start / MS, end / MS) for start, end in found.critical]
        for found in fall.rows
        if found.critical
    }


def test_the_tree_from_top_to_bottom() -> None:
    fall = fall_of(
        [
            row(1, 1, 0, "request", took=100),
            row(1, 2, 1, "first", start=10, took=20),
            row(1, 3, 2, "inner", start=15, took=5),
            row(1, 4, 1, "second", start=40, took=50),
            row(1, 5, 99, "stray", start=60, took=1),
        ]
    )
    assert named(fall) == [(0, "request"), (1, "first"), (2, "inner"), (1, "second"), (0, "stray")]
    assert [found.parent for found in fall.rows] == [-1, 0, 1, 0, -1]
    assert [found.below for found in fall.rows] == [3, 1, 0, 0, 0]
    assert [found.orphan for found in fall.rows] == [False, False, False, False, True]
    assert [found.self_time / MS for found in fall.rows] == [30, 15, 5, 50, 1]
    assert fall.time_by_work == {"python": 101 * MS}


def test_a_view_with_its_own_span_contains_its_calls() -> None:
    """With LAYERS = "slow", spans of layers are made afterwards, as siblings of the calls in them."""
    fall = fall_of(
        [
            row(1, 1, 0, "request", took=100, kind="server"),
            row(1, 2, 1, "middleware.session", start=1, took=9),
            row(1, 3, 1, "view.books", start=20, took=60),
            row(1, 4, 1, "db.select.sessions", start=2, took=5, kind="client", attributes=SELECT),
            row(1, 5, 1, "db.select.books", start=30, took=10, kind="client", attributes=SELECT),
            row(1, 6, 1, "db.select.later", start=75, took=20, kind="client", attributes=SELECT),
            row(1, 7, 1, "elsewhere", start=40, took=5, service="billing"),
        ]
    )
    assert named(fall) == [
        (0, "request"),
        (1, "middleware.session"),
        (2, "db.select.sessions"),
        (1, "view.books"),
        (2, "db.select.books"),
        (1, "elsewhere"),
        (1, "db.select.later"),
    ]
    assert {found.span.name: found.self_time / MS for found in fall.rows}["view.books"] == 50
    assert fall.time_by_work["sql"] == 35 * MS


# ----- Folding


def test_calls_of_one_shape_are_folded_at_the_first_of_them() -> None:
    rows = [row(1, 1, 0, "request", took=100)]
    for number in range(6):
        # Alternating with others, as in a loop over a list.
        rows.append(row(1, 10 + number, 1, "db.select.a", start=number * 10, kind="client", attributes=SELECT))
        rows.append(row(1, 20 + number, 1, f"step.{number}", start=number * 10 + 5))
    fall = fall_of(rows)
    assert named(fall)[:4] == [(0, "request"), (1, "6 x db.select.a"), (2, "db.select.a"), (2, "db.select.a")]
    folded = fall.rows[1]
    assert (folded.count, folded.below, folded.duration, folded.failed) == (6, 6, 6 * MS, 0)
    assert folded.pieces == [(number * 10 * MS, (number * 10 + 1) * MS) for number in range(6)]
    assert folded.n_plus_one
    assert fall.repeated == [folded]
    assert fall.rows[0].below == 13
    # Their time is counted once.
    assert fall.time_by_work == {"python": 94 * MS, "sql": 6 * MS}


@pytest.mark.parametrize(
    ("count", "attributes", "folded", "n_plus_one"),
    [
        (2, SELECT, False, False),
        (3, SELECT, True, False),
        (5, SELECT, True, True),
        (5, {**SELECT, "db.operation": "update"}, True, False),
        (5, {"db.system.name": "postgresql", "db.query.text": "select 1", "db.operation.name": "SELECT"}, True, True),
        (5, {"db.system": "postgresql", "db.statement": "SELECT 1"}, True, True),
        (9, {"operation.type": "cache"}, True, False),
    ],
)
def test_when_calls_are_folded_and_reported(
    count: int, attributes: dict[str, Any], folded: bool, n_plus_one: bool
) -> None:
    rows = [row(1, 1, 0, "request", took=100)]
    rows += [row(1, 10 + each, 1, "call", start=each, kind="client", attributes=attributes) for each in range(count)]
    second = fall_of(rows).rows[1]
    assert (second.folds, second.n_plus_one) == (folded, n_plus_one)


def test_different_calls_are_not_folded() -> None:
    rows = [row(1, 1, 0, "request", took=100)]
    for number in range(4):
        other = {**SELECT, "db.statement": f"SELECT {'b' * number} FROM t"}
        rows.append(row(1, 10 + number, 1, "statement", start=number, attributes=other))
        rows.append(row(1, 20 + number, 1, "with children", start=10 + number))
        rows.append(row(1, 30 + number, 20 + number, "child", start=10 + number))
        rows.append(row(1, 40 + number, 1, "service", start=20 + number, service=f"shop-{number}"))
        rows.append(row(1, 50 + number, 1, "served", start=30 + number, kind="server"))
    assert not any(found.folds for found in fall_of(rows).rows)


def test_a_failed_call_among_many_is_not_folded() -> None:
    rows = [row(1, 1, 0, "request", took=100)]
    rows += [row(1, 10 + each, 1, "call", start=each, status="error" if each == 2 else "unset") for each in range(4)]
    assert fall_of(rows).rows[1].failed == 1


# ----- The critical path


def test_the_critical_path_of_calls_in_a_row() -> None:
    fall = fall_of(
        [
            row(1, 1, 0, "request", took=100),
            row(1, 2, 1, "first", start=10, took=20),
            row(1, 3, 1, "second", start=40, took=50),
            row(1, 4, 3, "inner", start=50, took=30),
        ]
    )
    assert critical(fall) == {
        "request": [(0, 10), (30, 40), (90, 100)],
        "first": [(10, 30)],
        "second": [(40, 50), (80, 90)],
        "inner": [(50, 80)],
    }


def test_the_critical_path_of_concurrent_calls() -> None:
    """The parent waits for the call that ends last, not for the calls beside it."""
    fall = fall_of(
        [
            row(1, 1, 0, "request", took=100),
            row(1, 2, 1, "short", start=10, took=30),
            row(1, 3, 1, "long", start=20, took=70),
        ]
    )
    assert critical(fall) == {"request": [(0, 20), (90, 100)], "long": [(20, 90)]}


def test_a_span_that_ends_after_its_parent_is_not_on_the_path() -> None:
    fall = fall_of([row(1, 1, 0, "request", took=100), row(1, 2, 1, "task", start=90, took=500)])
    assert critical(fall) == {"request": [(0, 90)], "task": [(90, 100)]}
    fall = fall_of([row(1, 1, 0, "request", took=100), row(1, 2, 1, "later", start=200, took=500)])
    assert critical(fall) == {"request": [(0, 100)]}


# ----- Any trace


@st.composite
def traces(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Generate spans in any order, with orphans, cycles and clocks that disagree."""
    count = draw(st.integers(1, 25))
    return [
        row(
            1,
            number,
            draw(st.integers(0, count + 2)),
            draw(st.sampled_from(["a", "b", "db.select.x"])),
            start=draw(st.integers(-20, 50)),
            took=draw(st.integers(0, 40)),
            kind=draw(st.sampled_from(["internal", "client", "server"])),
            service=draw(st.sampled_from(["shop", "billing"])),
            attributes=draw(st.sampled_from([{}, SELECT])),
        )
        for number in range(1, count + 1)
    ]


@given(traces())
def test_every_span_has_exactly_one_row(rows: list[dict[str, Any]]) -> None:
    fall = fall_of(rows)
    own = [found for found in fall.rows if not found.folds]
    assert sorted(found.span.span_id for found in own) == sorted(each["span_id"] for each in rows)
    for number, found in enumerate(fall.rows):
        assert -1 <= found.parent < number
        assert found.depth == (0 if found.parent < 0 else fall.rows[found.parent].depth + 1)
        inside = fall.rows[number + 1 : number + 1 + found.below]
        assert all(each.depth > found.depth for each in inside)
        assert found.below == sum(_is_below(fall.rows, other, number) for other in range(len(fall.rows)))
        if found.folds:
            assert found.below == found.count
    assert sum(fall.time_by_work.values()) == sum(found.self_time for found in own)
    assert all(0 <= found.self_time <= found.duration for found in own)


def _is_below(rows: list[Row], number: int, above: int) -> bool:
    while (number := rows[number].parent) >= 0:
        if number == above:
            return True
    return False


@given(traces())
def test_the_critical_path_covers_each_moment_once(rows: list[dict[str, Any]]) -> None:
    """Intervals don't overlap, lie within their span, and together cover the root."""
    fall = fall_of(rows)
    own = [found for found in fall.rows if not found.folds]
    parts = sorted(part for found in own for part in found.critical)
    for found in own:
        assert all(found.start <= start < end <= found.start + found.duration for start, end in found.critical)
    for (_, end), (start, _) in zip(parts, parts[1:], strict=False):
        assert end <= start
    root = next((found for found in fall.rows if found.span is fall.trace.root), None)
    if root is not None and root.parent < 0:
        assert sum(end - start for start, end in parts) == root.duration


def test_ten_thousand_spans_and_a_chain_of_five_thousand() -> None:
    chain = [row(1, each, each - 1, f"step.{each}", start=each, took=10_000 - 2 * each) for each in range(1, 5001)]
    wide = [row(1, each, 1, f"call.{each}", start=each, took=1) for each in range(5001, 10_001)]
    fall = fall_of(chain + wide)
    assert len(fall.rows) == 10_000
    assert fall.rows[0].below == 9_999
    assert max(found.depth for found in fall.rows) == 4_999


# ----- Text


@pytest.mark.parametrize(
    ("statement", "short"),
    [
        (
            "SELECT blueprints.id, blueprints.name, blueprints.owner_id\n FROM blueprints  WHERE id = %s",
            "SELECT … FROM blueprints WHERE id = %s",
        ),
        ("SELECT COUNT(*) FROM t", "SELECT COUNT(*) FROM t"),
        ("select a, b from t", "select a, b from t"),
        ("UPDATE t SET a = %s", "UPDATE t SET a = %s"),
        ("SELECT (SELECT max(id) FROM a), b, c, d FROM b", "SELECT (SELECT max(id) FROM a), b, c, d FROM b"),
        ("", ""),
    ],
)
def test_a_statement_without_its_columns(statement: str, short: str) -> None:
    assert short_statement(statement) == short


def test_the_line_that_made_a_call() -> None:
    assert location_of({}) == ""
    assert location_of({"code.filepath": "shop/views.py"}) == "shop/views.py"
    assert location_of({"code.filepath": "a.py", "code.lineno": 3, "code.function": "f"}) == "a.py:3 in f"
    stable = {"code.file.path": "a.py", "code.line.number": 3, "code.function.name": "f"}
    assert location_of(stable) == "a.py:3 in f"


def test_the_offset_of_rows_counts_from_the_traces_start() -> None:
    fall = fall_of([row(1, 1, 0, "request", base=NOON, took=10), row(1, 2, 1, "early", start=-5, took=3)])
    assert [(found.span.name, found.start / MS) for found in fall.rows] == [("request", 5.0), ("early", 0.0)]
