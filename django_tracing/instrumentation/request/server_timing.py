"""Compute the value of a ``Server-Timing`` header from the spans of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from django_tracing.recording.span import RecordingSpan
from django_tracing.semconv.categories import category_of
from django_tracing.semconv.names import DB_QUERY_TEXT, DB_STATEMENT

__all__ = ["server_timing"]

_Kind = Literal["sql", "cache", "http"]
_KINDS: Final[tuple[tuple[_Kind, str, str], ...]] = (
    ("sql", "query", "queries"),
    ("cache", "call", "calls"),
    ("http", "call", "calls"),
)


class _Node:
    """The part of an ended span that the header needs."""

    __slots__ = ("counts", "end", "inner", "kind", "parent_id", "start")

    def __init__(self, span: ReadableSpan, parent_id: int) -> None:
        attributes = span.attributes or {}
        self.kind = kind = _kind_of(span.kind, attributes)
        #: Whether it is one of the calls that are counted. The end of a transaction is not a query.
        self.counts = kind != "sql" or DB_STATEMENT in attributes or DB_QUERY_TEXT in attributes
        self.parent_id = parent_id
        self.start = span.start_time or 0
        self.end = max(span.end_time or 0, self.start)
        #: The parts of its time that belong to calls inside it.
        self.inner: list[tuple[int, int]] = []


def _kind_of(kind: SpanKind, attributes: Mapping[str, Any]) -> _Kind | None:
    category = category_of(kind.name.lower(), attributes, {})
    return category if category == "sql" or category == "cache" or category == "http" else None


def server_timing(finished: Iterable[ReadableSpan], total: int) -> str:
    """Return the value of a ``Server-Timing`` header (https://www.w3.org/TR/server-timing/) for a request.

    ``finished`` are the spans that ended in it, ``total`` the nanoseconds it has taken so far. The time of a call
    inside another call (a query of a cache in the database, the client's span inside an announced call) counts only
    as the inner one's. Time of concurrent calls of one kind counts once.
    """
    nodes: dict[int, _Node] = {}
    for span in finished:
        if span.__class__ is RecordingSpan:
            nodes[span.span_id] = _Node(span, span.parent_id)
        elif span.context is not None:
            nodes[span.context.span_id] = _Node(span, 0 if span.parent is None else span.parent.span_id)
    for node in nodes.values():
        if node.kind is not None:
            around = _around(node, nodes)
            if around is not None:
                around.inner.append((node.start, node.end))
                if around.kind == node.kind:
                    around.counts = False
    metrics = [f"total;dur={_milliseconds(max(total, 0))}"]
    for kind, one, many in _KINDS:
        of_kind = [node for node in nodes.values() if node.kind == kind]
        if of_kind:
            count = sum(node.counts for node in of_kind)
            time = _covered([piece for node in of_kind for piece in _left(node)])
            description = f';desc="{count} {one if count == 1 else many}"'
            metrics.append(f"{kind};dur={_milliseconds(time)}{description}")
    return ", ".join(metrics)


def _around(node: _Node, nodes: Mapping[int, _Node]) -> _Node | None:
    """Return the nearest call around ``node``; None if there is none."""
    passed = [node]
    above = nodes.get(node.parent_id)
    # At most as many steps as there are spans: an id generator of the user's may give an id twice.
    while above is not None and above.kind is None and len(passed) <= len(nodes):
        passed.append(above)
        above = nodes.get(above.parent_id)
    # Shorten the way for the spans that are looked at next.
    for below in passed:
        below.parent_id = passed[-1].parent_id
    return None if above is node else above


def _left(node: _Node) -> list[tuple[int, int]]:
    """Return the pieces of its time that no call inside it covers."""
    pieces = []
    position = node.start
    for start, end in sorted(node.inner):
        if start > position:
            pieces.append((position, min(start, node.end)))
        position = max(position, end)
    if position < node.end:
        pieces.append((position, node.end))
    return pieces


def _covered(pieces: list[tuple[int, int]]) -> int:
    """Return how many nanoseconds ``pieces`` cover; where they overlap, once."""
    covered = reached = 0
    for start, end in sorted(pieces):
        first = max(start, reached)
        if end > first:
            covered += end - first
            reached = end
    return covered


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.2f}"
