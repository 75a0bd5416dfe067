"""Build the tree of a trace's spans."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from django_tracing.traces.model import Span

__all__ = ["Node", "build_tree", "innermost", "is_layer", "is_layer_name"]

#: How the names of templates' spans start.
_TEMPLATE: Final = "template.render."


@dataclass(slots=True, eq=False)
class Node:
    """A span in its tree. ``orphan`` means that its parent is not stored."""

    span: Span
    children: list[Node] = field(default_factory=list)
    orphan: bool = False


def build_tree(spans: Sequence[Span]) -> list[Node]:
    """Return the roots of a trace's ``spans``, see :meth:`django_tracing.traces.model.Trace.tree`."""
    nodes = [Node(span) for span in spans]
    by_id: dict[str, Node] = {}
    for node in nodes:
        by_id.setdefault(node.span.span_id, node)
    roots: list[Node] = []
    for node in nodes:
        parent = by_id.get(node.span.parent_id) if node.span.parent_id else None
        if parent is None or parent is node:
            node.orphan = bool(node.span.parent_id)
            roots.append(node)
        else:
            parent.children.append(node)
    reached = {id(node) for node in _below(roots)}
    for node in nodes:
        if id(node) not in reached:
            first = _earliest_of_circle(node, by_id)
            by_id[first.span.parent_id].children.remove(first)
            first.orphan = True
            roots.append(first)
            reached.update(id(other) for other in _below([first]))
    for node in nodes:
        _nest_in_layers(node)
    return roots


def is_layer(span: Span | Any) -> bool:
    """Return True if ``span``, or an object with its name and kind, is this app's span of a layer.

    Layers are views, middleware and templates.
    """
    return span.kind == "internal" and is_layer_name(span.name)


def is_layer_name(name: str) -> bool:
    """Return True for the names of spans of layers, if the span's kind is internal."""
    return name.startswith(("view.", "middleware.", _TEMPLATE))


def innermost(
    members: Sequence[tuple[int, int]], layers: Sequence[tuple[int, int]], *, strict: bool = False
) -> list[int | None]:
    """For each of ``members`` (start, end), find the number of the shortest of ``layers`` that contains it.

    None for members that no layer contains. If ``strict``, a layer with the same start and end does not contain it.
    The events are processed from the latest end to the earliest: n spans need n log n steps.
    """
    found: list[int | None] = [None] * len(members)
    by_start = sorted(range(len(layers)), key=lambda number: layers[number][0])
    starts = [layers[number][0] for number in by_start]
    places = {number: place for place, number in enumerate(by_start)}
    # Layers that may contain a span come before it.
    events = [(-end, start, strict, number) for number, (start, end) in enumerate(layers)]
    events += [(-end, start, not strict, -number - 1) for number, (start, end) in enumerate(members)]
    shortest = _Shortest(len(layers))
    for negative, start, _order, number in sorted(events):
        if number >= 0:
            shortest.add(places[number], max(-negative - start, 0), number)
        else:
            found[-number - 1] = shortest.up_to(bisect_right(starts, start))
    return found


class _Shortest:
    """Finds the shortest of the first layers, with a Fenwick tree of minima."""

    def __init__(self, size: int) -> None:
        self._least: list[tuple[int, int] | None] = [None] * (size + 1)

    def add(self, place: int, length: int, number: int) -> None:
        candidate = (length, number)
        place += 1
        while place < len(self._least):
            known = self._least[place]
            if known is None or candidate < known:
                self._least[place] = candidate
            place += place & -place

    def up_to(self, count: int) -> int | None:
        """Return the number of the shortest among the first ``count`` places."""
        best: tuple[int, int] | None = None
        while count:
            known = self._least[count]
            if known is not None and (best is None or known < best):
                best = known
            count -= count & -count
        return None if best is None else best[1]


def _nest_in_layers(node: Node) -> None:
    """Move children into the layers beside them that contain them."""
    by_service: dict[str, list[Node]] = {}
    for child in node.children:
        if is_layer(child.span):
            by_service.setdefault(child.span.service, []).append(child)
    if not by_service:
        return
    #: By service, and whether they are templates.
    members: dict[tuple[str, bool], list[Node]] = {}
    for child in node.children:
        if child.span.service not in by_service:
            continue
        if not is_layer(child.span):
            members.setdefault((child.span.service, False), []).append(child)
        elif child.span.name.startswith(_TEMPLATE):
            # In the view, or in the template that includes or extends it.
            members.setdefault((child.span.service, True), []).append(child)
    around: dict[int, Node] = {}
    for (service, strict), inside in members.items():
        layers = by_service[service]
        found = innermost(
            [(child.span.start, child.span.end) for child in inside],
            [(layer.span.start, layer.span.end) for layer in layers],
            strict=strict,
        )
        around.update(
            (id(child), layers[number]) for child, number in zip(inside, found, strict=True) if number is not None
        )
    if not around:
        return
    kept: list[Node] = []
    for child in node.children:
        layer = around.get(id(child))
        (kept if layer is None else layer.children).append(child)
    node.children = kept
    for layers in by_service.values():
        for layer in layers:
            layer.children.sort(key=lambda child: (child.span.start, -child.span.end))


def _below(roots: list[Node]) -> Iterable[Node]:
    # No recursion: a trace may be deeper than Python's stack. There are no circles below a root.
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children)


def _earliest_of_circle(node: Node, by_id: dict[str, Node]) -> Node:
    """Return the earliest span of the circle that ``node`` is in or below."""
    seen: dict[int, Node] = {}
    while id(node) not in seen:
        seen[id(node)] = node
        node = by_id[node.span.parent_id]
    passed = list(seen.values())
    return min(passed[passed.index(node) :], key=lambda member: member.span.start)
