"""Query the tables of the local store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from django_tracing.exceptions import StoreError
from django_tracing.traces.model import (
    MOST_SPANS,
    Span,
)
from django_tracing.traces.query import trace_id_prefix
from django_tracing.traces.readers.sqlite.rows import (
    SPAN_COLUMNS,
    SUMMARY_COLUMNS,
    Resources,
    check_trace_id,
    check_types,
    dump_json,
    encodable,
    outline_of_row,
    span_of_row,
)
from django_tracing.traces.readers.sqlite.writing import RESERVE
from django_tracing.traces.times import to_nanoseconds
from django_tracing.traces.topmost import MOST_OUTLINED, Topmost, topmost_of
from django_tracing.traces.values import parse_json

__all__ = [
    "EARLIEST_FIRST",
    "JOIN_RESOURCE",
    "TraceRow",
    "distinct_values",
    "find_span",
    "find_topmost",
    "find_trace",
    "has_attribute",
    "missing_parents",
    "search_query",
]


class TraceRow(NamedTuple):
    """What is read of a trace's row to find its spans."""

    seq: int
    trace_id: str
    name: str
    start: int
    span_count: int
    left_out: int
    has_root: int


#: The order of spans in a trace, as ``Trace`` sorts them.
EARLIEST_FIRST: Final = "start, parent_id <> '', \"end\" DESC, rowid"
JOIN_RESOURCE: Final = "LEFT JOIN resources r ON r.trace = s.trace AND r.id = s.resource"


def find_trace(connection: sqlite3.Connection, trace_id: str) -> TraceRow | None:
    """Return the trace whose id starts with ``trace_id``. Raise StoreError if there are several."""
    prefix = trace_id_prefix(trace_id)
    found = connection.execute(
        "SELECT seq, trace_id, name, start, span_count, left_out, has_root FROM traces "
        "WHERE trace_id >= ? AND trace_id < ? LIMIT 2",
        (prefix, prefix + "g"),
    ).fetchall()
    if len(found) > 1:
        raise StoreError(f"Several traces start with {prefix}. Give more digits of the id.", "ambiguous")
    if not found:
        return None
    row = TraceRow(*found[0])
    check_trace_id(row.trace_id)
    check_types(row, int, str, str, int, int, int, int)
    topmost = None if row.has_root else find_topmost(connection, row.seq)
    return row if topmost is None else row._replace(name=topmost.name)


def find_span(connection: sqlite3.Connection, seq: int, span_id: str) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = connection.execute(
        f"SELECT {SPAN_COLUMNS} FROM spans s {JOIN_RESOURCE} WHERE s.trace = ? AND s.span_id = ?",  # noqa: S608 - our own names
        (seq, span_id),
    ).fetchone()
    return row


def find_topmost(connection: sqlite3.Connection, seq: int) -> Topmost | None:
    """Return the topmost span of a trace without a root, by its first spans; None if the trace has none."""
    rows = connection.execute(
        'SELECT span_id, parent_id, name, kind, service, start, "end", attributes FROM spans '  # noqa: S608 - our names
        f"WHERE trace = ? ORDER BY {EARLIEST_FIRST} LIMIT ?",
        (seq, MOST_OUTLINED + 1),
    ).fetchall()
    return topmost_of(map(outline_of_row, rows), whole=len(rows) <= MOST_OUTLINED) if rows else None


def missing_parents(
    connection: sqlite3.Connection, found: TraceRow, spans: Sequence[Span], resources: Resources
) -> list[Span]:
    """Return the parents of ``spans`` that are not among them.

    If the clocks of machines disagree, a parent may start later than its children.
    """
    known = {span.span_id for span in spans}
    wanted = list(dict.fromkeys(span.parent_id for span in spans if span.parent_id not in known))
    more: list[Span] = []
    while wanted and len(more) < MOST_SPANS * RESERVE:
        span_id = wanted.pop()
        row = find_span(connection, found.seq, span_id) if span_id and span_id not in known else None
        known.add(span_id)
        if row is not None:
            span = span_of_row(found.trace_id, row, resources)
            more.append(span)
            wanted.append(span.parent_id)
    return more


def has_attribute(attributes: str, key: str, text: str) -> bool:
    """Return a function for SQL: whether the JSON ``attributes`` has ``key`` with the value ``text``."""
    value = parse_json(attributes).get(key)
    return value is not None and (value if isinstance(value, str) else dump_json(value)) == text


def search_query(
    *,
    service: str | None,
    operation: str | None,
    min_duration: float | None,
    max_duration: float | None,
    errors: bool,
    attributes: dict[str, str] | None,
    start: float | None,
    end: float | None,
    before: tuple[int, str] | None,
) -> tuple[str, list[Any]]:
    """Return the SELECT of a search and its parameters except the limit. It calls the function ``has_attribute``."""
    where: list[str] = []
    values: list[Any] = []

    def ask(condition: str, *given: Any) -> None:
        where.append(condition)
        values.extend(given)

    if start is not None:
        ask("t.start >= ?", to_nanoseconds(start))
    if end is not None:
        ask("t.start <= ?", to_nanoseconds(end))
    if min_duration is not None:
        ask('t."end" - t.start >= ?', to_nanoseconds(min_duration))
    if max_duration is not None:
        ask('t."end" - t.start <= ?', to_nanoseconds(max_duration))
    if errors:
        ask("t.error_count > 0")
    if before is not None:
        # SQLite can't hold larger numbers. All traces are older.
        ask("(t.start, t.trace_id) < (?, ?)", min(before[0], 2**63 - 1), encodable(before[1]))
    of_one_span: list[str] = []
    if service is not None:
        of_one_span.append("s.service = ?")
        values.append(encodable(service))
    if operation is not None:
        of_one_span.append("s.name = ?")
        values.append(encodable(operation))
    for key, text in (attributes or {}).items():
        if (key, text) == ("error", "true"):
            of_one_span.append("s.status = 'error'")
            continue
        # Search the JSON text first, so that the JSON of most spans needs no parsing.
        of_one_span.append("(instr(s.attributes, ?) OR instr(s.attributes, ?)) AND has_attribute(s.attributes, ?, ?)")
        written, text = json.dumps(key), encodable(text)
        values.extend((f"{written}:{json.dumps(text)}", f"{written}:{text}", encodable(key), text))
    if of_one_span:
        conditions = " AND ".join(of_one_span)
        where.append(f"EXISTS (SELECT 1 FROM spans s WHERE s.trace = t.seq AND {conditions})")  # noqa: S608
    query = (
        f"SELECT {SUMMARY_COLUMNS} FROM traces t {'WHERE ' + ' AND '.join(where) if where else ''} "  # noqa: S608
        "ORDER BY t.start DESC, t.trace_id DESC LIMIT ?"
    )
    return query, values


def distinct_values(connection: sqlite3.Connection, column: str, condition: str, *values: str) -> list[str]:
    """Return the distinct values of ``column``, read by steps through its index: its rows are not scanned."""
    query = f"SELECT min({column}) FROM spans WHERE {condition}{column} > ?"  # noqa: S608 - our own names
    found: list[str] = []
    while True:
        (value,) = connection.execute(query, (*values, found[-1] if found else "")).fetchone()
        if value is None:
            return found
        check_types((value,), str)
        found.append(value)
