"""Lay out a map of services as boxes and lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, cast

from django_tracing.traces.analysis.dependencies import NodeKind
from django_tracing.traces.model import Dependency

__all__ = [
    *("BOX_HEIGHT", "BOX_WIDTH", "COLUMN_GAP", "LABEL_HEIGHT", "LABEL_WIDTH", "MARGIN", "MOST_BENDS", "ROW_GAP"),
    *("Box", "Line", "Map", "layout"),
]

#: In pixels. The height is that of a box with one or two lines to it.
BOX_WIDTH: Final = 150
BOX_HEIGHT: Final = 46
ROW_GAP: Final = 26
MARGIN: Final = 16
#: The room for the label of a line, before its arrow. There, lines are horizontal and one label's height apart, so no
#: label meets another label or another line.
LABEL_WIDTH: Final = 84
LABEL_HEIGHT: Final = 18
#: The room for the mark of a circuit breaker, between the label and the arrow.
_MARK_ROOM: Final = 36
#: Where lines are horizontal, and the rest of the gap, where they bend.
_STRAIGHT: Final = LABEL_WIDTH + _MARK_ROOM
_BENDING: Final = 56
COLUMN_GAP: Final = _STRAIGHT + _BENDING
#: The distance of lines that have no label where they are: those that pass a column or go back below all boxes.
_LANE_HEIGHT: Final = 14
#: The number of bends of all lines together, where lines pass columns. With more, lines run straight over boxes: the
#: number of bends may grow with the square of the number of lines.
MOST_BENDS: Final = 2000
#: How often the boxes of each column are sorted by their neighbors.
_SWEEPS: Final = 4


class Box(NamedTuple):
    """A box of the map; ``x`` and ``y`` are its upper left corner. It is as tall as the lines to it need."""

    name: str
    kind: NodeKind
    x: int
    y: int
    height: int


class Line(NamedTuple):
    """A line of the map: the ``d`` of an SVG path, and where its label ends and its mark is."""

    link: Dependency
    #: The circuit breakers that its calls pass. If no call passed them, ``link`` is the first of them.
    breakers: tuple[Dependency, ...]
    path: str
    label_x: int
    #: The baseline of the label.
    label_y: int
    mark_x: int
    mark_y: int


class Map(NamedTuple):
    """A drawing of dependencies."""

    width: int
    height: int
    boxes: list[Box]
    lines: list[Line]


#: Kind and name of a box, or a bend of a line that passes a column.
_Node = tuple[str, str]


#: The height of a bend in its column.
_BEND_HEIGHT: Final = _LANE_HEIGHT


class _Edge(NamedTuple):
    """A link to be drawn."""

    caller: _Node
    callee: _Node
    link: Dependency
    breakers: list[Dependency]


def layout(links: Sequence[Dependency]) -> Map:
    """Put boxes into columns: callers are left of what they call, unless there are circles.

    This is the layered drawing of Sugiyama and others (1981): a line that passes a column has its own place there.
    A circuit breaker is a mark on the line to what it protects.
    """
    edges = _edges(links)
    nodes = list(dict.fromkeys(node for edge in edges for node in (edge.caller, edge.callee)))
    column = _columns(nodes, [(edge.caller, edge.callee) for edge in edges])
    columns: list[list[_Node]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    for node in sorted(nodes, key=lambda node: (node[0] != "service", node)):
        columns[column[node]].append(node)
    ways: list[list[_Node]] = []
    room = MOST_BENDS
    for number, edge in enumerate(edges):
        between = range(column[edge.caller] + 1, column[edge.callee])
        if len(between) > room:
            between = range(0)
        room -= len(between)
        bends: list[_Node] = [("", f"{number}.{passed}") for passed in between]
        for bend, passed in zip(bends, between, strict=True):
            columns[passed].append(bend)
        ways.append([edge.caller, *bends, edge.callee])
    _untangle(columns, [step for way in ways for step in pairwise(way)])
    entering = Counter(edge.callee for edge in edges)
    heights = {node: max(BOX_HEIGHT, LABEL_HEIGHT * entering[node] + 10) for node in nodes}
    slots = [[heights[node] + ROW_GAP if node[0] else _BEND_HEIGHT for node in members] for members in columns]
    tallest = max(map(sum, slots), default=0)
    back = [column[edge.callee] <= column[edge.caller] for edge in edges]
    # Lines that go back pass the outer columns on their outer sides.
    left = MARGIN + (COLUMN_GAP if any(back) else 0)
    corners: dict[_Node, tuple[int, int]] = {}
    for number, (members, slot) in enumerate(zip(columns, slots, strict=True)):
        y = MARGIN + (tallest - sum(slot)) // 2
        for node, height in zip(members, slot, strict=True):
            corners[node] = left + number * (BOX_WIDTH + COLUMN_GAP), y
            y += height
    middles = {node: y + heights.get(node, _BEND_HEIGHT) // 2 for node, (_x, y) in corners.items()}
    ports = _ports(ways, middles, corners, heights)
    lines = []
    lane = MARGIN + tallest
    for way, edge, port, goes_back in zip(ways, edges, ports, back, strict=True):
        start, end = (corners[edge.caller][0] + BOX_WIDTH, middles[edge.caller]), (corners[edge.callee][0], port)
        if goes_back:
            path = _path_back(start, end, lane)
            lane += _LANE_HEIGHT
        else:
            path = _path(start, [(corners[bend][0], middles[bend]) for bend in way[1:-1]], end)
        mark_x = end[0] - 22
        label_x = end[0] - (_MARK_ROOM if edge.breakers else 14)
        lines.append(Line(edge.link, tuple(edge.breakers), path, label_x, port - 4, mark_x, port))
    boxes = [Box(node[1], cast(NodeKind, node[0]), *corners[node], heights[node]) for node in nodes]
    width = left + max(len(columns) * (BOX_WIDTH + COLUMN_GAP) - COLUMN_GAP, 0) + MARGIN
    return Map(width + (_BENDING if any(back) else 0), lane + MARGIN, boxes, lines)


def _edges(links: Sequence[Dependency]) -> list[_Edge]:
    """Return one edge for each link, and put the circuit breakers on the edges to what they protect.

    A breaker is usually named as what it protects. If the caller never reached that, the edge leads to the box of
    that name or, if there is none, to a box of the breaker's own.
    """
    edges = [_Edge(("service", link.caller), (link.kind, link.callee), link, []) for link in links]
    edges = [edge for edge in edges if edge.link.kind != "breaker"]
    by_name: dict[tuple[_Node, str], _Edge] = {}
    boxes: dict[str, _Node] = {}
    for edge in edges:
        boxes.setdefault(_plain(edge.caller[1]), edge.caller)
        boxes.setdefault(_plain(edge.callee[1]), edge.callee)
        by_name.setdefault((edge.caller, _plain(edge.callee[1])), edge)
    for edge in edges:
        if edge.link.kind in ("database", "cache"):
            # "redis" is the breaker of "redis cache-1:6379".
            by_name.setdefault((edge.caller, _plain(edge.callee[1].partition(" ")[0])), edge)
    for link in links:
        if link.kind == "breaker":
            caller, name = ("service", link.caller), _plain(link.callee)
            found = by_name.get((caller, name))
            if found is None:
                found = _Edge(caller, boxes.get(name, ("breaker", link.callee)), link, [])
                by_name[caller, name] = found
                edges.append(found)
            found.breakers.append(link)
    return edges


def _plain(name: str) -> str:
    """Return a name without case and separators: ``payment_service`` is ``Payment-Service``."""
    return "".join(filter(str.isalnum, name)).lower() or name


def _ports(
    ways: Sequence[Sequence[_Node]],
    middles: dict[_Node, int],
    corners: dict[_Node, tuple[int, int]],
    heights: dict[_Node, int],
) -> list[int]:
    """Return where each line ends at its box: one label's height apart, in the order in which the lines arrive."""
    arriving: dict[_Node, list[int]] = {}
    for number, way in enumerate(ways):
        arriving.setdefault(way[-1], []).append(number)
    ports = [0] * len(ways)
    for node, numbers in arriving.items():
        numbers.sort(key=lambda number: middles[ways[number][-2]])
        first = corners[node][1] + (heights[node] - LABEL_HEIGHT * (len(numbers) - 1)) // 2
        for place, number in enumerate(numbers):
            ports[number] = first + LABEL_HEIGHT * place
    return ports


def _path(start: tuple[int, int], bends: Sequence[tuple[int, int]], end: tuple[int, int]) -> str:
    """Draw a curve from a box to another one, straight through the bends and past the label."""
    x, y = start
    path = f"M{x},{y}"
    for left, next_y in (*bends, end):
        turn, half = left - _STRAIGHT, (left - _STRAIGHT - x) // 2
        path += f" C{x + half},{y} {turn - half},{next_y} {turn},{next_y}"
        if (left, next_y) != end:
            left += BOX_WIDTH
            path += f" L{left},{next_y}"
        x, y = left, next_y
    return f"{path} H{end[0]}"


def _path_back(start: tuple[int, int], end: tuple[int, int], lane: int) -> str:
    """Draw a line that goes back or stays in its column: below all boxes, in a lane of its own."""
    (x, y), (left, port) = start, end
    right, turn = x + _BENDING // 2, left - _STRAIGHT - _BENDING // 2
    return (
        f"M{x},{y} H{right - 8} Q{right},{y} {right},{y + 8} V{lane - 8} Q{right},{lane} {right - 8},{lane} "
        f"H{turn + 8} Q{turn},{lane} {turn},{lane - 8} V{port + 8} Q{turn},{port} {turn + 8},{port} H{left}"
    )


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
