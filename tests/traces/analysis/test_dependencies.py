"""Test the service map as a drawing and as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_tracing.traces.analysis.dependencies import links_of
from django_tracing.traces.analysis.layout import BOX_HEIGHT, BOX_WIDTH, LABEL_HEIGHT, LABEL_WIDTH, Line, Map, layout
from django_tracing.traces.diagrams import as_dot, as_mermaid, as_text, errors_of
from django_tracing.traces.model import Dependencies, Dependency, Trace, span_of
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import row


def link(
    caller: str, callee: str, kind: str = "service", calls: int = 1, errors: int = 0, state: str = ""
) -> Dependency:
    return Dependency(caller, callee, kind, calls, errors, calls, state)  # type: ignore[arg-type]


def places(drawing: Map) -> dict[str, tuple[int, int]]:
    return {box.name: (box.x, box.y) for box in drawing.boxes}


def test_callers_are_left_of_the_services_that_they_call() -> None:
    drawing = layout(
        [link("web", "shop"), link("shop", "billing"), link("web", "billing"), link("shop", "pg", "database")]
    )
    at = places(drawing)
    assert at["web"][0] < at["shop"][0] < at["billing"][0] == at["pg"][0]
    assert [(line.link.caller, line.link.callee) for line in drawing.lines] == [
        *(("web", "shop"), ("shop", "billing"), ("web", "billing"), ("shop", "pg")),
    ]


def test_a_line_goes_around_the_boxes_that_it_passes() -> None:
    drawing = layout([link("web", "shop"), link("shop", "billing"), link("web", "billing")])
    at = places(drawing)
    # The straight part of the long line, in the column of the shop.
    (bend,) = re.findall(r"L\d+,(\d+)", drawing.lines[2].path)
    assert not at["shop"][1] <= int(bend) <= at["shop"][1] + BOX_HEIGHT


@pytest.mark.parametrize(
    "links",
    [
        [],
        [link("a", "a")],
        [link("a", "b"), link("b", "a")],
        [link("a", "b"), link("b", "c"), link("c", "a"), link("x", "c")],
        [link(f"s{each}", f"s{each + 1}") for each in range(3000)],
        [link("a", f"s{each}") for each in range(300)],
    ],
    ids=["none", "itself", "each-other", "circle", "a-long-chain", "many"],
)
def test_any_shape_can_be_drawn(links: list[Dependency]) -> None:
    drawing = layout(links)
    assert len(drawing.lines) == len(links)
    assert {box.name for box in drawing.boxes} == {name for each in links for name in (each.caller, each.callee)}


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from("abcdefgh"),
            st.sampled_from(["service", "database", "breaker"]),
        ),
        max_size=25,
        unique=True,
    )
)
def test_boxes_and_labels_do_not_overlap(found: list[tuple[str, str, str]]) -> None:
    drawing = layout([link(*each) for each in found])
    for number, box in enumerate(drawing.boxes):
        assert 0 <= box.x <= drawing.width - BOX_WIDTH
        assert box.height >= BOX_HEIGHT
        assert 0 <= box.y <= drawing.height - box.height
        for other in drawing.boxes[number + 1 :]:
            assert abs(box.x - other.x) >= BOX_WIDTH or not overlap(box.y, box.height, other.y, other.height)
        for line in drawing.lines:
            left, top = line.label_x - LABEL_WIDTH, line.label_y - LABEL_HEIGHT + 4
            assert not (
                overlap(left, LABEL_WIDTH, box.x, BOX_WIDTH) and overlap(top, LABEL_HEIGHT, box.y, box.height)
            )
    for number, line in enumerate(drawing.lines):
        assert line.label_x - LABEL_WIDTH >= 0
        assert 0 <= line.label_y <= drawing.height
        for another in drawing.lines[number + 1 :]:
            # Lines to the same box may have a mark or not, which moves the label to the left.
            aside = abs(line.mark_x - another.mark_x) >= LABEL_WIDTH
            assert aside or abs(line.label_y - another.label_y) >= LABEL_HEIGHT


def overlap(start: int, length: int, other: int, other_length: int) -> bool:
    return start < other + other_length and other < start + length


def test_a_label_is_above_the_end_of_its_line() -> None:
    [line] = layout([link("a", "b", "service")]).lines
    _turn, level, end = map(int, re.findall(r"(\d+),(\d+) H(\d+)$", line.path)[0])
    assert line.label_y < level == line.mark_y
    assert line.label_x < end
    [line] = layout([link("a", "b", "breaker")]).lines
    assert line.label_x < line.mark_x < end


@pytest.mark.parametrize("links", [[link("a", "a")], [link("a", "b"), link("b", "a")]], ids=["itself", "back"])
def test_a_line_that_goes_back_is_within_the_drawing_and_below_the_boxes(links: list[Dependency]) -> None:
    drawing = layout(links)
    path = drawing.lines[-1].path
    across = [int(x) for x in re.findall(r"[HMQ ](\d+)", path)]
    assert min(across) >= 0
    assert max(across) <= drawing.width
    lowest = max(int(y) for y in re.findall(r"[V,](\d+)", path))
    assert max(box.y + box.height for box in drawing.boxes) < lowest <= drawing.height


def marks(links: list[Dependency]) -> list[tuple[str, str, list[str]]]:
    """Return the callee and the kind of each line, and the states of its breakers."""
    drawing = layout(links)
    names = {(box.name, box.kind) for box in drawing.boxes}

    def target(line: Line) -> str:
        return next(kind for name, kind in sorted(names) if name == line.link.callee)

    return [(line.link.callee, target(line), [each.state for each in line.breakers]) for line in drawing.lines]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (
            [link("shop", "Payment_Service", "breaker", state="open"), link("shop", "payment-service")],
            [("payment-service", "service", ["open"])],
        ),
        (
            [link("shop", "redis cache-1:6379", "cache"), link("shop", "redis", "breaker", state="closed")],
            [("redis cache-1:6379", "cache", ["closed"])],
        ),
        # All calls were rejected, so there are no other calls.
        ([link("shop", "mail", "breaker", state="open")], [("mail", "breaker", ["open"])]),
        (
            [link("web", "mail", "external"), link("shop", "mail", "breaker", state="open")],
            [("mail", "external", []), ("mail", "external", ["open"])],
        ),
        (
            [link("shop", "a-b"), link("shop", "ab", "breaker", state="open"), link("shop", "a b", "breaker")],
            [("a-b", "service", ["open", ""])],
        ),
        (
            [link("web", "pay"), link("shop", "pay"), link("shop", "pay", "breaker", state="closed")],
            [("pay", "service", []), ("pay", "service", ["closed"])],
        ),
    ],
    ids=["other separators", "first word", "rejected", "box of another caller", "two breakers", "of its caller only"],
)
def test_a_breaker_is_a_mark_on_the_line_to_what_it_protects(
    links: list[Dependency], expected: list[tuple[str, str, list[str]]]
) -> None:
    assert marks(links) == expected


def test_links_of_complete_traces() -> None:
    breaker = {"operation.type": "circuit_breaker", "circuit_breaker.name": "mail"}
    traces = [
        [
            row(1, 1, 0, kind="server"),
            row(1, 2, 1, kind="client", attributes={"http.method": "GET", "http.url": "http://billing/x"}),
            row(1, 3, 2, kind="server", service="billing", status="error"),
            # The service that answers this isn't traced.
            row(1, 4, 1, kind="client", attributes={"http.method": "GET", "http.url": "http://smtp.example:25/x"}),
            row(1, 5, 1, attributes={**breaker, "circuit_breaker.state": "closed"}),
            row(1, 6, 1, kind="client", attributes={"db.system": "redis", "operation.type": "cache"}),
        ],
        [
            row(2, 1, 0, kind="server", start=1000),
            row(2, 2, 1, start=1001, attributes={**breaker, "circuit_breaker.state": "open"}, status="error"),
        ],
    ]
    found = links_of(Trace(rows[0]["trace_id"], map(span_of, rows)) for rows in traces)
    assert [(each.callee, each.kind, each.calls, each.errors, each.state) for each in found] == [
        ("billing", "service", 1, 1, ""),
        ("mail", "breaker", 2, 1, "open"),
        ("redis", "cache", 1, 0, ""),
        ("smtp.example", "external", 1, 0, ""),
    ]


def test_a_service_that_calls_itself_is_not_called_untraced(tmp_path: Path) -> None:
    rows = [
        row(1, 1, 0, kind="server"),
        row(1, 2, 1, kind="client", attributes={"http.method": "GET", "http.url": "http://127.0.0.1/x"}),
        row(1, 3, 2, kind="server"),
    ]
    assert links_of([Trace(rows[0]["trace_id"], map(span_of, rows))]) == []
    store = LocalStore(tmp_path / "traces.sqlite3")
    store.write(rows)
    assert store.dependencies().links == []
    store.close()


def test_the_rate_of_errors() -> None:
    assert errors_of(link("a", "b", calls=3)) == "0 %"
    assert errors_of(link("a", "b", calls=3, errors=1)) == "33 %"
    assert errors_of(link("a", "b", calls=1000, errors=1)) == "<1 %"
    assert errors_of(Dependency("a", "b", "service", 12, 0, 0)) == "?", (
        "the calls were counted, but their errors were not"
    )


HOSTILE = ['a"b', "a]b", "a\\", "end", "a\nb", "<script>", "a-->b", "\x1b[31m", 'x"];evil["', "#35;", "日本"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_escaped(name: str) -> None:
    found = Dependencies([link(name, name + "2", "breaker", 7, 1, name)])
    mermaid = as_mermaid(found).splitlines()
    assert len(mermaid) == 4
    assert re.fullmatch(r'    n0\["[^"<>\[\]\\\n]+"\]', mermaid[1])
    assert re.fullmatch(r'    n1\{\{"[^"<>\[\]\\\n]+"\}\}', mermaid[2])
    dot = as_dot(found).splitlines()
    assert len(dot) == 6
    # A quoted string of DOT contains no unescaped quotation mark and no backslash that escapes the last one.
    quoted = r'"(?:[^"\\\n]|\\.)*"'
    assert re.fullmatch(rf"    n0 \[label={quoted}, shape=box\];", dot[2])
    assert re.fullmatch(rf"    n0 -> n1 \[label={quoted}\];", dot[4])
    assert all(line.isprintable() for line in as_text(found).splitlines())


def test_the_number_of_traces_read_is_shown() -> None:
    assert "from the newest 12 traces" in as_text(Dependencies([link("a", "b")], sampled=12))
