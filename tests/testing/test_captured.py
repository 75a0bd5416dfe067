"""Test finding spans, and the tree."""

from __future__ import annotations

import textwrap

import pytest
from django.test import (
    Client,
)

from django_tracing.api.spans import create_span
from django_tracing.testing import CapturedSpans, capture_spans

client = Client(raise_request_exception=False)

# ----- Finding


def orders(spans: CapturedSpans) -> None:
    with create_span("order", {"order.items": 1, "order.tags": ["new", "vip"]}):
        pass
    with create_span("order", {"order.items": 2}):
        pass


def test_find_by_name_and_attributes() -> None:
    with capture_spans() as spans:
        orders(spans)
    first, second = spans
    assert spans.find("order", order__items=1) is first
    assert spans.find(name="order", **{"order.items": 2}) is second
    assert spans.find(order__tags=["new", "vip"]) is first
    assert spans.find("order", order__tags=None) is second
    assert spans.find_all("order") == [first, second]
    assert spans.find_all("order", order__items=3) == []


def test_a_failed_find_shows_all_spans() -> None:
    with capture_spans() as spans:
        orders(spans)
        client.get("/missing/")
    with pytest.raises(AssertionError) as none:
        spans.find("order", order__items=3)
    assert str(none.value) == textwrap.dedent(
        """\
        No span with the name 'order' and order.items = 3 among 3.
        There are:
          order with order.items = 1
          order with order.items = 2

        order
        order
        GET /missing/  http.status_code=404"""
    )
    with pytest.raises(AssertionError, match=r"^2 spans with the name 'order', not just one\.\n\norder\norder\n"):
        spans.find("order")
    with pytest.raises(AssertionError, match=r"^No span with the name 'nobody' among 3\."):
        spans.find("nobody")
    with capture_spans() as empty:
        pass
    with pytest.raises(AssertionError, match=r"\(no spans\)"):
        empty.find()
    assert not empty
    assert repr(empty) == "<no spans>"


def test_the_tree() -> None:
    with capture_spans() as spans:
        with create_span("root"):
            with create_span("left"), create_span("leaf"):
                pass
            with pytest.raises(ValueError, match="wrong"), create_span("right"):
                raise ValueError("it is\nwrong")
        create_span("other").end()
    assert spans.tree() == textwrap.dedent(
        """\
        root
        ├─ left
        │  └─ leaf
        └─ ✗ right
             ValueError: it is\\nwrong
        other"""
    )
    assert repr(spans) == "<5 spans: root [left [leaf], ✗ right], other>"


def test_a_deep_trace_has_a_tree() -> None:
    with capture_spans() as spans:
        opened = []
        for depth in range(1200):
            opened.append(create_span(f"level.{depth}").__enter__())
        for span in reversed(opened):
            span.__exit__(None, None, None)
    assert len(spans.tree().splitlines()) == 1200
    assert repr(spans).count("]") == 1199


def test_spans_open_at_the_end_are_left_out_and_named() -> None:
    with capture_spans() as spans:
        late = create_span("late")
        with late, create_span("child"):
            pass
        still = create_span("still")
    still.end()
    assert spans.names == ["late", "child"]
    assert spans.tree() == "late\n└─ child\n(not ended in the block: still)"
    assert "not ended in the block: still" in repr(spans)


def test_a_span_opened_before_the_block_is_not_a_parent() -> None:
    with create_span("before"), capture_spans() as spans:
        client.get("/empty/")
    assert spans.names == ["GET /empty/"]
    assert spans[0].parent is None
