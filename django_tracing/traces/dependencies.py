"""Who calls whom: found in traces, laid out, and written as text, Mermaid, Graphviz's DOT and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

from django_tracing.traces.model import Dependencies, Dependency, Trace
from django_tracing.traces.render import plain
from django_tracing.traces.work import breaker_state, target_of

__all__ = ["Box", "Line", "Map", "as_dot", "as_mermaid", "as_text", "layout", "links_of"]

NodeKind = Literal["service", "database", "cache", "breaker", "external"]


def links_of(traces: Iterable[Trace]) -> list[Dependency]:
    """Who calls whom in ``traces``."""
    calls: dict[tuple[str, str, NodeKind], list[int]] = {}
    states: dict[str, tuple[int, str]] = {}
    for trace in traces:
        by_id = {span.span_id: span for span in trace.spans}
        continued = set()
        for span in trace.spans:
            parent = by_id.get(span.parent_id)
            if parent is not None and parent.service != span.service:
                continued.add(parent.span_id)
                _count(calls, parent.service, span.service, "service", span.failed)
        for span in trace.spans:
            target = target_of(span.kind, span.attributes)
            if target is None or (target.kind == "external" and span.span_id in continued):
                continue
            _count(calls, span.service, target.name, target.kind, span.failed)
            if target.kind == "breaker" and span.start >= states.get(target.name, (0, ""))[0]:
                states[target.name] = span.start, breaker_state(span.attributes)
    return [
        Dependency(
            caller, callee, kind, count, errors, count, states.get(callee, (0, ""))[1] if kind == "breaker" else ""
        )
        for (caller, callee, kind), (count, errors) in sorted(calls.items())
    ]


def _count(
    calls: dict[tuple[str, str, NodeKind], list[int]], caller: str, callee: str, kind: NodeKind, failed: bool
) -> None:
    counted = calls.setdefault((caller, callee, kind), [0, 0])
    counted[0] += 1
    counted[1] += failed


# ----- The map

#: In pixels of the drawing.
BOX_WIDTH: Final = 170
BOX_HEIGHT: Final = 46
COLUMN_GAP: Final = 110
ROW_GAP: Final = 26
MARGIN: Final = 16
#: How often the boxes of each column are put in the order of their neighbours.
_SWEEPS: Final = 4


class Box(NamedTuple):
    """A service, database, cache or breaker on the map; ``x`` and ``y`` are its upper left corner."""

    name: str
    kind: NodeKind
    x: int
    y: int
    calls: int
    errors: int
    state: str


class Line(NamedTuple):
    """A dependency on the map: a curve as the ``d`` of an SVG path, and where its label stands."""

    link: Dependency
    path: str
    label_x: int
    label_y: int


class Map(NamedTuple):
    """A drawing of dependencies."""

    width: int
    height: int
    boxes: list[Box]
    lines: list[Line]


def layout(links: Sequence[Dependency]) -> Map:
    """Boxes in columns, callers left of what they call, as far as there are no circles."""
    nodes: dict[tuple[NodeKind, str], None] = {}
    edges: list[tuple[tuple[NodeKind, str], tuple[NodeKind, str], Dependency]] = []
    for link in links:
        caller: tuple[NodeKind, str] = ("service", link.caller)
        callee: tuple[NodeKind, str] = (link.kind, link.callee)
        nodes.setdefault(caller)
        nodes.setdefault(callee)
        edges.append((caller, callee, link))
    columns = _columns(list(nodes), [(caller, callee) for caller, callee, _ in edges])
    _untangle(columns, [(caller, callee) for caller, callee, _ in edges])
    tallest = max((len(column) for column in columns), default=0)
    corners: dict[tuple[NodeKind, str], tuple[int, int]] = {}
    for number, column in enumerate(columns):
        space = (tallest - len(column)) * (BOX_HEIGHT + ROW_GAP) // 2
        for row, node in enumerate(column):
            corners[node] = (
                MARGIN + number * (BOX_WIDTH + COLUMN_GAP),
                MARGIN + space + row * (BOX_HEIGHT + ROW_GAP),
            )
    boxes = []
    for node, (x, y) in corners.items():
        called = [link for _, callee, link in edges if callee == node]
        state = next((link.state for link in called if link.state), "")
        calls, errors = sum(link.calls for link in called), sum(link.errors for link in called)
        boxes.append(Box(node[1], node[0], x, y, calls, errors, state))
    lines = [_line(link, corners[caller], corners[callee]) for caller, callee, link in edges]
    width = 2 * MARGIN + max(len(columns) * (BOX_WIDTH + COLUMN_GAP) - COLUMN_GAP, 0)
    return Map(width, 2 * MARGIN + max(tallest * (BOX_HEIGHT + ROW_GAP) - ROW_GAP, 0), boxes, lines)


def _columns(
    nodes: list[tuple[NodeKind, str]], edges: list[tuple[tuple[NodeKind, str], tuple[NodeKind, str]]]
) -> list[list[tuple[NodeKind, str]]]:
    """Each node one column right of the rightmost that calls it; edges that close a circle don't count."""
    below: dict[tuple[NodeKind, str], list[tuple[NodeKind, str]]] = {node: [] for node in nodes}
    called = set()
    for caller, callee in edges:
        below[caller].append(callee)
        called.add(callee)
    order: list[tuple[NodeKind, str]] = []
    forward: list[tuple[tuple[NodeKind, str], tuple[NodeKind, str]]] = []
    state: dict[tuple[NodeKind, str], int] = {}
    # Depth first, from those that nobody calls; no recursion: chains may be long.
    for root in sorted(nodes, key=lambda node: node in called):
        waiting = [(root, iter(below[root]))] if root not in state else []
        state.setdefault(root, 1)
        while waiting:
            node, rest = waiting[-1]
            child = next(rest, None)
            if child is None:
                waiting.pop()
                state[node] = 2
                order.append(node)
            elif state.get(child) != 1:
                forward.append((node, child))
                if child not in state:
                    state[child] = 1
                    waiting.append((child, iter(below[child])))
    column = dict.fromkeys(nodes, 0)
    callees: dict[tuple[NodeKind, str], list[tuple[NodeKind, str]]] = {}
    for caller, callee in forward:
        callees.setdefault(caller, []).append(callee)
    for node in reversed(order):
        for callee in callees.get(node, ()):
            column[callee] = max(column[callee], column[node] + 1)
    columns: list[list[tuple[NodeKind, str]]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    for node in sorted(nodes, key=lambda node: (node[0] != "service", node)):
        columns[column[node]].append(node)
    return columns


def _untangle(
    columns: list[list[tuple[NodeKind, str]]], edges: list[tuple[tuple[NodeKind, str], tuple[NodeKind, str]]]
) -> None:
    """Orders each column by the mean place of its neighbours, from both sides in turn (the barycentre method)."""
    near: dict[tuple[NodeKind, str], list[tuple[NodeKind, str]]] = {}
    for caller, callee in edges:
        near.setdefault(caller, []).append(callee)
        near.setdefault(callee, []).append(caller)
    for sweep in range(_SWEEPS):
        place = {node: row - (len(column) - 1) / 2 for column in columns for row, node in enumerate(column)}
        for column in columns if sweep % 2 == 0 else reversed(columns):
            means = {
                node: sum(place[other] for other in near[node]) / len(near[node]) if near.get(node) else place[node]
                for node in column
            }
            column.sort(key=lambda node: means[node])
            place.update((node, row - (len(column) - 1) / 2) for row, node in enumerate(column))


def _line(link: Dependency, caller: tuple[int, int], callee: tuple[int, int]) -> Line:
    half = BOX_HEIGHT // 2
    start_x, start_y = caller[0] + BOX_WIDTH, caller[1] + half
    end_x, end_y = callee[0], callee[1] + half
    bend = COLUMN_GAP // 2
    if end_x <= start_x:
        # Backwards, or within a column: around the boxes.
        bend = COLUMN_GAP
    path = f"M{start_x},{start_y} C{start_x + bend},{start_y} {end_x - bend},{end_y} {end_x},{end_y}"
    # Near the callee, where lines have parted.
    return Line(link, path, end_x - COLUMN_GAP * 2 // 5, start_y + (end_y - start_y) * 4 // 5)


# ----- Texts

_WORDS: Final[dict[str, str]] = {
    "service": "service",
    "database": "database",
    "cache": "cache",
    "breaker": "circuit breaker",
    "external": "not traced",
}


def errors_of(link: Dependency) -> str:
    """How often calls failed, as far as is known."""
    if not link.examined:
        return "?"
    share = 100 * link.errors / link.examined
    return f"{share:.0f} %" if share >= 1 or not link.errors else "<1 %"


def as_text(dependencies: Dependencies) -> str:
    """A table for a terminal."""
    titles = ("caller", "calls", "what", "how often", "failed")
    rows = [
        (
            plain(link.caller),
            plain(link.callee) + (f" ({plain(link.state)})" if link.state else ""),
            _WORDS[link.kind],
            str(link.calls),
            errors_of(link),
        )
        for link in dependencies.links
    ]
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    lines = [
        "  ".join(
            cell.rjust(width) if column > 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (titles, *rows)
    ]
    if dependencies.sampled is not None:
        lines += ["", f"Failures, databases, caches and breakers: from the newest {dependencies.sampled} traces."]
    return "\n".join(lines)


def as_mermaid(dependencies: Dependencies) -> str:
    """A flowchart for https://mermaid.js.org, which GitHub draws in Markdown."""
    # Shapes: https://mermaid.js.org/syntax/flowchart.html
    shapes = {
        "service": '["{}"]',
        "database": '[("{}")]',
        "cache": '[/"{}"/]',
        "breaker": '{{{{"{}"}}}}',
        "external": '(["{}"])',
    }
    numbers, lines = _numbered(dependencies), ["flowchart LR"]
    for (kind, name), (number, label) in numbers.items():
        lines.append(f"    n{number}{shapes[kind].format(_mermaid(label or name))}")
    for link in dependencies.links:
        caller, callee = numbers["service", link.caller][0], numbers[link.kind, link.callee][0]
        lines.append(f'    n{caller} -->|"{_mermaid(_label(link))}"| n{callee}')
    return "\n".join(lines)


def as_dot(dependencies: Dependencies) -> str:
    """A graph for Graphviz (https://graphviz.org/doc/info/lang.html)."""
    shapes = {
        "service": "box",
        "database": "cylinder",
        "cache": "component",
        "breaker": "hexagon",
        "external": "ellipse",
    }
    numbers, lines = _numbered(dependencies), ["digraph dependencies {", "    rankdir=LR;"]
    for (kind, name), (number, label) in numbers.items():
        lines.append(f"    n{number} [label={_dot(label or name)}, shape={shapes[kind]}];")
    for link in dependencies.links:
        caller, callee = numbers["service", link.caller][0], numbers[link.kind, link.callee][0]
        lines.append(f"    n{caller} -> n{callee} [label={_dot(_label(link))}];")
    return "\n".join([*lines, "}"])


def _numbered(dependencies: Dependencies) -> dict[tuple[str, str], tuple[int, str]]:
    """Each node's number and label. Numbers, since names may hold anything."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    for link in dependencies.links:
        found.setdefault(("service", link.caller), (len(found), ""))
        label = f"{link.callee} ({link.state})" if link.state else ""
        found.setdefault((link.kind, link.callee), (len(found), label))
    return found


def _label(link: Dependency) -> str:
    calls = f"{link.calls} call" if link.calls == 1 else f"{link.calls} calls"
    return f"{calls}, {errors_of(link)} failed" if link.errors else calls


def _mermaid(text: Any) -> str:
    # Its own way to write a character: a number sign, the code, a semicolon.
    return "".join(
        character if character.isalnum() or character in " -_./:(),%" else f"#{ord(character)};"
        for character in str(text)
    )


def _dot(text: Any) -> str:
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain(escaped)}"'
