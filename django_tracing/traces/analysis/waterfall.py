"""Turn a trace into rows: its tree from top to bottom, with repeated calls folded, and its critical path.

The critical path is, at each moment, the span that the end of the trace waited for. It is found backwards from the
end, as in Jaeger's UI (https://www.jaegertracing.io/docs/latest/frontend-ui/).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django_tracing.semconv.categories import WORKS, Category, category_of
from django_tracing.traces.analysis.routes import self_time
from django_tracing.traces.model import Span, Trace
from django_tracing.traces.tree import Node

__all__ = [
    "FOLD_FROM",
    "N_PLUS_ONE_FROM",
    "Row",
    "Waterfall",
    "location_of",
    "short_statement",
    "statement_of",
    "waterfall",
]

#: From this many calls of one shape below one span on, they are one row.
FOLD_FROM: Final = 3
#: From this many queries of one shape below one span on, they are an N+1: a query for each item of a list.
N_PLUS_ONE_FROM: Final = 5
#: A list of columns that is longer than a count or an asterisk.
_COLUMNS: Final = re.compile(r"SELECT (?:(?! FROM ).){24,}? (?=FROM )", re.IGNORECASE)


@dataclass(slots=True)
class Row:
    """One span, or several folded spans. Times are nanoseconds, and starts are relative to the trace's start."""

    span: Span
    depth: int
    #: The number of the parent's row; -1 for roots.
    parent: int
    work: Category
    start: int
    duration: int
    self_time: int
    #: The parts of the span (start and end) on the critical path.
    critical: list[tuple[int, int]] = field(default_factory=list)
    #: Whether the span's parent is not stored.
    orphan: bool = False
    #: How many rows are below it in the tree.
    below: int = 0
    #: The number of spans of the row; more than 1 if it folds them.
    count: int = 1
    #: Start and end of the folded spans.
    pieces: list[tuple[int, int]] = field(default_factory=list)
    #: How many spans of the row failed.
    failed: int = 0
    n_plus_one: bool = False

    @property
    def folds(self) -> bool:
        """Return True if the row has several spans."""
        return self.count > 1


@dataclass(slots=True)
class Waterfall:
    """The rows of a trace and the sums of their times. Times are nanoseconds."""

    trace: Trace
    rows: list[Row]
    #: The sum of the spans' own times by category, the longest first. Parallel spans count separately.
    time_by_work: dict[Category, int]

    @property
    def repeated(self) -> list[Row]:
        """The rows with an N+1, that with the most queries first."""
        return sorted((row for row in self.rows if row.n_plus_one), key=lambda row: -row.count)


def statement_of(attributes: Mapping[str, Any]) -> str:
    """Return the SQL without values; empty if there is none."""
    text = attributes.get("db.statement") or attributes.get("db.query.text")
    return text if isinstance(text, str) else ""


def short_statement(text: str) -> str:
    """Return ``SELECT … FROM blueprints``: the SQL without its list of columns, on one line."""
    line = " ".join(text.split())
    found = _COLUMNS.match(line)
    return f"SELECT … {line[found.end() :]}" if found is not None else line


def location_of(attributes: Mapping[str, Any]) -> str:
    """Return the line of code of the call, ``shop/views.py:42 in checkout``; empty if it is unknown."""
    path = attributes.get("code.filepath") or attributes.get("code.file.path")
    if not path:
        return ""
    line = attributes.get("code.lineno") or attributes.get("code.line.number")
    function = attributes.get("code.function") or attributes.get("code.function.name")
    return f"{path}{f':{line}' if line else ''}{f' in {function}' if function else ''}"


def waterfall(trace: Trace) -> Waterfall:
    """Return the rows of ``trace``."""
    roots = trace.tree()
    critical = _critical_path(next((node for node in roots if node.span is trace.root), roots[0]), trace.start)
    rows: list[Row] = []
    times: dict[Category, int] = dict.fromkeys(WORKS, 0)
    # No recursion: a trace may be deeper than Python's stack.
    waiting: list[tuple[Sequence[Node], int, int]] = [([node], 0, -1) for node in reversed(roots)]
    above: list[int] = []
    while waiting:
        nodes, depth, parent = waiting.pop()
        number = len(rows)
        if len(nodes) > 1:
            rows.append(_folded(nodes, depth, parent, trace, critical))
            waiting.extend(([node], depth + 1, number) for node in reversed(nodes))
        else:
            (node,) = nodes
            row = _row(node, depth, parent, trace, critical)
            rows.append(row)
            times[row.work] += row.self_time
            waiting.extend((group, depth + 1, number) for group in reversed(_groups(node.children)))
        above.append(parent)
    for number in range(len(rows) - 1, -1, -1):
        if above[number] >= 0:
            rows[above[number]].below += rows[number].below + 1
    ordered = sorted(((work, time) for work, time in times.items() if time), key=lambda item: -item[1])
    return Waterfall(trace, rows, dict(ordered))


def _row(node: Node, depth: int, parent: int, trace: Trace, critical: Mapping[int, list[tuple[int, int]]]) -> Row:
    span = node.span
    children = [(child.span.start, child.span.end) for child in node.children]
    return Row(
        span=span,
        depth=depth,
        parent=parent,
        work=category_of(span.kind, span.attributes, span.resource),
        start=span.start - trace.start,
        duration=span.duration,
        self_time=self_time(span.start, span.start + span.duration, children),
        critical=critical.get(id(node), []),
        orphan=node.orphan,
        failed=int(span.failed),
    )


def _folded(
    nodes: Sequence[Node], depth: int, parent: int, trace: Trace, critical: Mapping[int, list[tuple[int, int]]]
) -> Row:
    first = nodes[0].span
    pieces = [(node.span.start - trace.start, node.span.start + node.span.duration - trace.start) for node in nodes]
    work = category_of(first.kind, first.attributes, first.resource)
    return Row(
        span=first,
        depth=depth,
        parent=parent,
        work=work,
        start=pieces[0][0],
        duration=sum(node.span.duration for node in nodes),
        self_time=sum(node.span.duration for node in nodes),
        critical=[part for node in nodes for part in critical.get(id(node), ())],
        count=len(nodes),
        pieces=pieces,
        failed=sum(node.span.failed for node in nodes),
        n_plus_one=work == "sql" and len(nodes) >= N_PLUS_ONE_FROM and _reads(first),
    )


def _reads(span: Span) -> bool:
    operation = span.attributes.get("db.operation") or span.attributes.get("db.operation.name")
    return str(operation or statement_of(span.attributes)[:6]).lower() == "select"


def _groups(children: Sequence[Node]) -> list[list[Node]]:
    """Return the children in their order. Many children of one shape become one group, at the place of the first."""
    shapes: dict[tuple[str, ...], list[Node]] = {}
    for node in children:
        span = node.span
        if not node.children and span.kind != "server":
            shapes.setdefault((span.service, span.name, statement_of(span.attributes)), []).append(node)
    folded = {id(node): group for group in shapes.values() if len(group) >= FOLD_FROM for node in group}
    groups: list[list[Node]] = []
    for node in children:
        group = folded.get(id(node))
        if group is None:
            groups.append([node])
        elif group[0] is node:
            groups.append(group)
    return groups


def _critical_path(root: Node, origin: int) -> dict[int, list[tuple[int, int]]]:
    """By the id of nodes: the parts of the time, relative to ``origin``, that the end of the root waited for."""
    parts: dict[int, list[tuple[int, int]]] = {}
    waiting: list[tuple[Node, int, int]] = [(root, root.span.start, root.span.start + root.span.duration)]
    while waiting:
        node, since, until = waiting.pop()
        # Clocks disagree, and children end after their parents: only the part within the parent counts.
        first = max(node.span.start, since)
        moment = limit = min(node.span.end, until)
        own = parts.setdefault(id(node), [])
        for child in sorted(node.children, key=lambda child: -child.span.end):
            begin, end = max(child.span.start, first), min(child.span.end, limit)
            if end > moment or begin >= end:
                continue
            if end < moment:
                own.append((end - origin, moment - origin))
            waiting.append((child, begin, end))
            moment = begin
        if moment > first:
            own.append((first - origin, moment - origin))
        own.reverse()
    return parts
