"""Lay out a map of services as boxes and lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, cast

from django_tracing.traces.analysis.dependencies import NodeKind
from django_tracing.traces.model import Dependency

__all__ = ["BOX_HEIGHT", "BOX_WIDTH", "COLUMN_GAP", "MARGIN", "MOST_BENDS", "ROW_GAP", "Box", "Line", "Map", "layout"]

#: In pixels.
BOX_WIDTH: Final = 170
BOX_HEIGHT: Final = 46


COLUMN_GAP: Final = 110
ROW_GAP: Final = 26


MARGIN: Final = 16
#: The number of bends of all lines together, where lines pass columns. With more, lines run straight over boxes: the
#: number of bends may grow with the square of the number of lines.
MOST_BENDS: Final = 2000
#: How often the boxes of each column are sorted by their neighbors.
_SWEEPS: Final = 4


class Box(NamedTuple):
    """A box of the map; ``x`` and ``y`` are its upper left corner."""

    name: str
    kind: NodeKind
    x: int
    y: int
    state: str


class Line(NamedTuple):
    """A line of the map: the ``d`` of an SVG path, and the position of its label."""

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


#: Kind and name of a box, or a bend of a line that passes a column.
_Node = tuple[str, str]


#: The height of a bend in its column.
_BEND_HEIGHT: Final = 14


def layout(links: Sequence[Dependency]) -> Map:
    """Put boxes into columns: callers are left of what they call, unless there are circles.

    This is the layered drawing of Sugiyama and others (1981): a line that passes a column has its own place there.
    """
    edges: list[tuple[_Node, _Node, Dependency]] = [
        (("service", link.caller), (link.kind, link.callee), link) for link in links
    ]
    nodes = list(dict.fromkeys(node for caller, callee, _link in edges for node in (caller, callee)))
    column = _columns(nodes, [(caller, callee) for caller, callee, _link in edges])
    columns: list[list[_Node]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    for node in sorted(nodes, key=lambda node: (node[0] != "service", node)):
        columns[column[node]].append(node)
    ways: list[list[_Node]] = []
    room = MOST_BENDS
    for number, (caller, callee, _link) in enumerate(edges):
        between = range(column[caller] + 1, column[callee])
        if len(between) > room:
            between = range(0)
        room -= len(between)
        bends: list[_Node] = [("", f"{number}.{passed}") for passed in between]
        for bend, passed in zip(bends, between, strict=True):
            columns[passed].append(bend)
        ways.append([caller, *bends, callee])
    _untangle(columns, [step for way in ways for step in pairwise(way)])
    tallest = max((sum(map(_height, members)) for members in columns), default=0)
    corners: dict[_Node, tuple[int, int]] = {}
    for number, members in enumerate(columns):
        y = MARGIN + (tallest - sum(map(_height, members))) // 2
        for node in members:
            corners[node] = MARGIN + number * (BOX_WIDTH + COLUMN_GAP), y
            y += _height(node)
    states: dict[_Node, str] = {}
    for _caller, callee, link in edges:
        if link.state:
            states.setdefault(callee, link.state)
    boxes = [Box(node[1], cast(NodeKind, node[0]), *corners[node], states.get(node, "")) for node in nodes]
    lines, entering = [], dict.fromkeys(nodes, 0)
    for way, (_caller, callee, link) in zip(ways, edges, strict=True):
        lines.append(_line(link, [corners[node] for node in way], entering[callee]))
        entering[callee] += 1
    width = 2 * MARGIN + max(len(columns) * (BOX_WIDTH + COLUMN_GAP) - COLUMN_GAP, 0)
    return Map(width, 2 * MARGIN + tallest, boxes, lines)


def _height(node: _Node) -> int:
    return BOX_HEIGHT + ROW_GAP if node[0] else _BEND_HEIGHT


def _columns(nodes: list[_Node], edges: list[tuple[_Node, _Node]]) -> dict[_Node, int]:
    """Put each node one column right of its rightmost caller. Edges that close a circle don't count."""
    below: dict[_Node, list[_Node]] = {node: [] for node in nodes}
    called = set()
    for caller, callee in edges:
        below[caller].append(callee)
        called.add(callee)
    order: list[_Node] = []
    forward: dict[_Node, list[_Node]] = {}
    state: dict[_Node, int] = {}
    # Depth first, from nodes without callers. No recursion: chains may be long.
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
                forward.setdefault(node, []).append(child)
                if child not in state:
                    state[child] = 1
                    waiting.append((child, iter(below[child])))
    column = dict.fromkeys(nodes, 0)
    for node in reversed(order):
        for callee in forward.get(node, ()):
            column[callee] = max(column[callee], column[node] + 1)
    return column


def _untangle(columns: list[list[_Node]], edges: Iterable[tuple[_Node, _Node]]) -> None:
    """Sort each column by the mean position of its neighbors, from both sides in turn (the barycenter method)."""
    near: dict[_Node, list[_Node]] = {}
    for caller, callee in edges:
        near.setdefault(caller, []).append(callee)
        near.setdefault(callee, []).append(caller)
    place: dict[_Node, float] = {}
    for column in columns:
        _place(column, place)
    for sweep in range(_SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            means = {node: sum(place[other] for other in near[node]) / len(near[node]) for node in column}
            column.sort(key=lambda node: means[node])
            _place(column, place)


def _place(column: Sequence[_Node], place: dict[_Node, float]) -> None:
    place.update((node, row - (len(column) - 1) / 2) for row, node in enumerate(column))


def _line(link: Dependency, corners: Sequence[tuple[int, int]], neighbors: int) -> Line:
    """Draw a curve from the first box to the last, straight through the bends between them.

    ``neighbors`` is how many lines end at the same box already: their labels are at different positions.
    """
    label = 0, 0
    x, y = corners[0][0] + BOX_WIDTH, corners[0][1] + BOX_HEIGHT // 2
    path = f"M{x},{y}"
    for number, (left, top) in enumerate(corners[1:], start=1):
        last = number == len(corners) - 1
        next_y = top + (BOX_HEIGHT if last else _BEND_HEIGHT) // 2
        # Lines that go backwards or stay in a column go around the boxes.
        bend = COLUMN_GAP // 2 if left > x else COLUMN_GAP
        path += f" C{x + bend},{y} {left - bend},{next_y} {left},{next_y}"
        if last:
            at = 0.72 - 0.16 * (neighbors % 3)
            label = (
                _on_curve(at, x, x + bend, left - bend, left),
                # A horizontal line would run through its label.
                _on_curve(at, y, y, next_y, next_y) + (-5 if y == next_y else 4),
            )
        else:
            left += BOX_WIDTH
            path += f" L{left},{next_y}"
        x, y = left, next_y
    return Line(link, path, *label)


def _on_curve(at: float, *points: int) -> int:
    """Return a coordinate of the cubic Bezier curve through four points, ``at`` from 0 to 1."""
    first, second, third, fourth = points
    rest = 1 - at
    return round(rest**3 * first + 3 * rest**2 * at * second + 3 * rest * at**2 * third + at**3 * fourth)
