"""What ``TRACING["RESPONSE_HEADERS"]`` tells a response's reader of its trace: time by kind, and where it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind

from django_tracing.recording.span import RecordingSpan
from django_tracing.semconv.categories import category_of
from django_tracing.semconv.names import DB_QUERY_TEXT, DB_STATEMENT

__all__ = ["SERVER_TIMING", "TRACERESPONSE", "server_timing", "traceresponse"]

SERVER_TIMING: Final = "Server-Timing"
TRACERESPONSE: Final = "traceresponse"

_Kind = Literal["sql", "cache", "http"]
_KINDS: Final[tuple[tuple[_Kind, str, str], ...]] = (
    ("sql", "query", "queries"),
    ("cache", "call", "calls"),
    ("http", "call", "calls"),
)


class _Node:
    """As much of an ended span as counts."""

    __slots__ = ("counts", "end", "inner", "kind", "parent_id", "start")

    def __init__(self, span: ReadableSpan, parent_id: int) -> None:
        attributes = span.attributes or {}
        self.kind = kind = _kind_of(span.kind, attributes)
        #: Whether it is one of the calls that are counted: a transaction's end is no query.
        self.counts = kind != "sql" or DB_STATEMENT in attributes or DB_QUERY_TEXT in attributes
        self.parent_id = parent_id
        self.start = span.start_time or 0
        self.end = max(span.end_time or 0, self.start)
        #: What of its time belongs to calls that it is made of.
        self.inner: list[tuple[int, int]] = []


def _kind_of(kind: SpanKind, attributes: Mapping[str, Any]) -> _Kind | None:
    work = category_of(kind.name.lower(), attributes, {})
    return work if work == "sql" or work == "cache" or work == "http" else None


def server_timing(finished: Iterable[ReadableSpan], total: int) -> str:
    """The value of a ``Server-Timing`` header (https://www.w3.org/TR/server-timing/) for a request.

    ``finished`` are the spans that ended in it, ``total`` nanoseconds that it took so far. A call inside another (a
    query of a cache in the database, the client's span inside an announced call) counts as what it is, and no more
    as what is around it; calls at the same time count once.
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
    """The nearest call that ``node`` is inside of; None where it is the user's own."""
    passed = [node]
    above = nodes.get(node.parent_id)
    # As many steps as there are spans: an id generator of the user's own may give an id twice.
    while above is not None and above.kind is None and len(passed) <= len(nodes):
        passed.append(above)
        above = nodes.get(above.parent_id)
    # What comes by here next need not go this way again.
    for below in passed:
        below.parent_id = passed[-1].parent_id
    return None if above is node else above


def _left(node: _Node) -> list[tuple[int, int]]:
    """The pieces of its time that no call inside it covers."""
    pieces = []
    begin = node.start
    for start, end in sorted(node.inner):
        if start > begin:
            pieces.append((begin, min(start, node.end)))
        begin = max(begin, end)
    if begin < node.end:
        pieces.append((begin, node.end))
    return pieces


def _covered(pieces: list[tuple[int, int]]) -> int:
    """Nanoseconds that ``pieces`` cover, those at the same time once."""
    covered = reached = 0
    for start, end in sorted(pieces):
        begin = max(start, reached)
        if end > begin:
            covered += end - begin
            reached = end
    return covered


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.2f}"


def traceresponse(context: SpanContext) -> str:
    """The value of a ``traceresponse`` header for the request whose span has that context.

    Convention: https://w3c.github.io/trace-context/#traceresponse-header, a draft.
    """
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
