"""Test the tree and the summary of traces: incomplete, late, with clocks that disagree."""

from __future__ import annotations

import json
from typing import Any

import pytest

from django_tracing.exceptions import ReadError
from django_tracing.traces.model import Span, Trace, summarize
from django_tracing.traces.query import trace_id_prefix
from django_tracing.traces.times import iso_time
from django_tracing.traces.tree import Node

TRACE_ID = "a" * 32


def span(span_id: str, parent_id: str = "", start: int = 0, end: int = 10, **changes: Any) -> Span:
    values = {"name": span_id, "kind": "internal", "service": "shop", **changes}
    return Span(trace_id=TRACE_ID, span_id=span_id, parent_id=parent_id, start=start, end=end, **values)


def shape(nodes: list[Node]) -> Any:
    """Return the tree as nested lists of names, with a question mark after orphans."""
    return [[node.span.name + ("?" if node.orphan else ""), *shape(node.children)] for node in nodes]


def test_tree_orders_children_by_start() -> None:
    trace = Trace(
        TRACE_ID, [span("late", "root", 5), span("early", "root", 2), span("root"), span("deep", "late", 6)]
    )
    assert shape(trace.tree()) == [["root", ["early"], ["late", ["deep"]]]]


def test_tree_keeps_spans_whose_parent_is_not_stored() -> None:
    trace = Trace(
        TRACE_ID, [span("root"), span("child", "root", 1), span("lost", "gone", 2), span("below", "lost", 3)]
    )
    assert shape(trace.tree()) == [["root", ["child"]], ["lost?", ["below"]]]


def test_tree_places_slow_templates_in_each_other_and_in_the_view() -> None:
    # With LAYERS = "slow", they are all siblings.
    below = {"view.page": (10, 90), "template.render.list": (20, 80), "template.render.base": (21, 79)}
    below |= {"db.select": (30, 40), "db.insert": (12, 14), "template.render.mail": (92, 95)}
    spans = [span(name, "root", start, end) for name, (start, end) in below.items()]
    trace = Trace(TRACE_ID, [span("root", end=100), *spans, span("template.render.base2", "root", 21, 79)])
    templates = ["template.render.list", ["template.render.base", ["db.select"]], ["template.render.base2"]]
    assert shape(trace.tree()) == [["root", ["view.page", ["db.insert"], templates], ["template.render.mail"]]]


def test_tree_of_several_roots() -> None:
    assert shape(Trace(TRACE_ID, [span("b", start=2), span("a", start=1)]).tree()) == [["a"], ["b"]]


def test_a_child_that_starts_before_its_parent_remains_its_child() -> None:
    trace = Trace(TRACE_ID, [span("child", "root", -5), span("root", start=0)])
    assert shape(trace.tree()) == [["root", ["child"]]]
    assert trace.root.name == "root"
    assert trace.start == -5


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([span("own", "own")], [["own?"]]),
        ([span("a", "b", 1), span("b", "a", 2)], [["a?", ["b"]]]),
        # A span below a cycle keeps its place, even if it started first.
        (
            [span("leaf", "b", 0), span("a", "b", 1), span("b", "a", 2), span("root", "", 0)],
            [["root"], ["a?", ["b", ["leaf"]]]],
        ),
        (
            [span("a", "b", 1), span("b", "a", 2), span("c", "d", 3), span("d", "c", 4)],
            [["a?", ["b"]], ["c?", ["d"]]],
        ),
    ],
)
def test_cycles_are_broken(spans: list[Span], expected: Any) -> None:
    assert shape(Trace(TRACE_ID, spans).tree()) == expected


def test_spans_with_the_same_id_are_both_in_the_tree() -> None:
    trace = Trace(
        TRACE_ID, [span("root"), span("twin", "root", 1), span("twin", "root", 2), span("child", "twin", 3)]
    )
    assert shape(trace.tree()) == [["root", ["twin", ["child"]], ["twin"]]]


def test_a_trace_deeper_than_the_stack() -> None:
    spans = [span(f"{number:016x}", f"{number - 1:016x}" if number else "", number) for number in range(20_000)]
    node = Trace(TRACE_ID, spans).tree()[0]
    depth = 1
    while node.children:
        (node,) = node.children
        depth += 1
    assert depth == 20_000


def test_summary() -> None:
    trace = Trace(
        TRACE_ID,
        [
            span("child", "root", 3_000_000, 9_000_000, service="billing", status="error"),
            span("root", "", 2_000_000, 6_000_000, service="shop"),
        ],
    )
    assert trace.summary().as_dict() == {
        "trace_id": TRACE_ID,
        "name": "root",
        "service": "shop",
        "services": ["shop", "billing"],
        "start": "1970-01-01T00:00:00.002000Z",
        "duration_ms": 7.0,
        "span_count": 2,
        "error_count": 1,
        "left_out": 0,
        "state": "finished",
        "method": "",
        "path": "",
        "status_code": None,
        "user": "",
        "sql_count": 0,
        "sql_ms": 0.0,
    }


def test_the_earliest_span_is_the_root_where_the_caller_is_not_stored() -> None:
    assert Trace(TRACE_ID, [span("b", "gone", 5), span("a", "gone", 1)]).root.name == "a"


def test_a_span_without_an_end_has_no_duration() -> None:
    unfinished = Trace(TRACE_ID, [span("open", start=5_000, end=0)])
    assert unfinished.duration == 0
    assert unfinished.spans[0].duration == 0


def test_summarize_groups_by_trace_newest_first() -> None:
    def of(trace_id: str, start: int) -> Span:
        return Span(trace_id, "1" * 16, "", "x", "internal", "shop", start, start + 1)

    found = summarize([of("a", 1), of("b", 5), of("a", 3)])
    assert [(each.trace_id, each.span_count) for each in found] == [("b", 1), ("a", 2)]


def test_as_dict_is_json() -> None:
    trace = Trace(TRACE_ID, [span("root", attributes={"ratio": float("nan"), "list": [float("inf")], "text": "x"})])
    shown = json.loads(json.dumps(trace.as_dict(), allow_nan=False))
    assert shown["spans"][0]["attributes"] == {"ratio": "nan", "list": ["inf"], "text": "x"}
    assert shown["spans"][0]["parent_id"] is None


def test_a_trace_has_spans() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Trace(TRACE_ID, [])


@pytest.mark.parametrize("text", ["", "abc", "xyzxyzxyz", "a" * 33, "é" * 8, "../../etc/passwd", "1' OR 1=1 --"])
def test_an_invalid_trace_id(text: str) -> None:
    with pytest.raises(ReadError, match="not a trace id"):
        trace_id_prefix(text)


def test_trace_ids_are_accepted_in_any_case() -> None:
    assert trace_id_prefix(" ABCDEF12 ") == "abcdef12"


def test_times_beyond_the_range_of_datetime() -> None:
    assert iso_time(10**30) == "1970-01-01T00:00:00.000000Z"
