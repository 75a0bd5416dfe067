"""Query the tables of the local store."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from django_tracing.exceptions import StoreError
from django_tracing.protobuf import encode_key_value, field, utf8
from django_tracing.traces.model import MOST_SPANS, Span
from django_tracing.traces.query import trace_id_prefix
from django_tracing.traces.readers.sqlite.chunks import ChunkReader, Head, Place
from django_tracing.traces.readers.sqlite.rows import (
    SUMMARY_COLUMNS,
    check_trace_id,
    check_types,
    dump_json,
    encodable,
)
from django_tracing.traces.readers.sqlite.writing import RESERVE
from django_tracing.traces.times import to_nanoseconds
from django_tracing.traces.topmost import MOST_OUTLINED, Topmost, outline_of, topmost_of

__all__ = [
    "SpanCondition",
    "TraceRow",
    "distinct_operations",
    "distinct_services",
    "find_span",
    "find_topmost",
    "find_trace",
    "missing_parents",
    "search_query",
]


_HEXADECIMAL: Final = frozenset("0123456789abcdef")
#: A shorter list of services, as JSON, is a whole one.
_MOST_LISTED: Final = 300


class TraceRow(NamedTuple):
    """What is read of a trace's row to find its spans."""

    seq: int
    trace_id: str
    name: str
    start: int
    span_count: int
    left_out: int
    has_root: int


def find_trace(reader: ChunkReader, trace_id: str) -> TraceRow | None:
    """Return the trace whose id starts with ``trace_id``. Raise StoreError if there are several."""
    prefix = trace_id_prefix(trace_id)
    found = reader.connection.execute(
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
    topmost = None if row.has_root else find_topmost(reader, row.seq, row.trace_id)
    return row if topmost is None else row._replace(name=topmost.name)


def find_span(reader: ChunkReader, found: TraceRow, span_id: str) -> Span | None:
    """Return a span of a trace. Only the chunk that it is in is read."""
    try:
        wanted = bytes.fromhex(span_id)
    except ValueError:
        return None
    # The ids of a part are little-endian numbers.
    number = wanted[::-1]
    parts = reader.connection.execute(
        "SELECT chunk FROM parts WHERE trace = ? AND instr(ids, ?) ORDER BY chunk", (found.seq, number)
    ).fetchall()
    for (chunk,) in parts:
        for place in reader.places_in(chunk, found.trace_id):
            if reader.ids(place)[0] == span_id:
                return reader.span(found.trace_id, place)
    return None


def find_topmost(reader: ChunkReader, seq: int, trace_id: str) -> Topmost | None:
    """Return the topmost span of a trace without a root, by its first spans; None if the trace has none."""
    heads = reader.heads(seq, trace_id)
    outlines = [outline_of(reader.span(trace_id, head.place)) for head in heads[: MOST_OUTLINED + 1]]
    return topmost_of(outlines, whole=len(heads) <= MOST_OUTLINED) if outlines else None


def missing_parents(reader: ChunkReader, trace_id: str, spans: Sequence[Span], others: Sequence[Head]) -> list[Span]:
    """Return the parents of ``spans`` that are among ``others``.

    If the clocks of machines disagree, a parent may start later than its children.
    """
    places: dict[str, Place] = {reader.ids(head.place)[0]: head.place for head in others}
    known = {span.span_id for span in spans}
    wanted = list(dict.fromkeys(span.parent_id for span in spans if span.parent_id not in known))
    more: list[Span] = []
    while wanted and len(more) < MOST_SPANS * RESERVE:
        place = places.pop(wanted.pop(), None)
        if place is not None:
            span = reader.span(trace_id, place)
            more.append(span)
            wanted.append(span.parent_id)
    return more


class SpanCondition:
    """Whether a trace has a span with given values: a function for SQL. Call :meth:`check` after the query."""

    def __init__(
        self,
        reader: ChunkReader,
        service: str | None,
        operation: str | None,
        attributes: Mapping[str, str],
        deadline: float,
    ) -> None:
        self._reader = reader
        self._service = service
        self._operation = operation
        self._errors = attributes.get("error") == "true"
        self._attributes = {key: text for key, text in attributes.items() if (key, text) != ("error", "true")}
        self._deadline = deadline
        #: What the name and each attribute may be encoded as.
        self._encoded = [_encodings(key, text) for key, text in self._attributes.items()]
        if operation is not None:
            self._encoded.append([field(0x2A, utf8(operation))])
        #: Whether a chunk may have such spans.
        self._chunks: dict[int, bool] = {}
        self._error: Exception | None = None

    def __call__(self, seq: int, trace_id: str) -> bool:
        try:
            if time.monotonic() > self._deadline:
                # As if SQLite's progress handler had stopped the query.
                raise sqlite3.OperationalError("interrupted")
            check_trace_id(trace_id)
            return any(
                self._matches(trace_id, place)
                for number in self._reader.chunks_of(seq)
                if self._may_match(number)
                for place in self._reader.places_in(number, trace_id)
            )
        except Exception as error:
            # SQLite tells only that there was one.
            self._error = error
            raise

    def check(self) -> None:
        """Raise the exception that ended the query, if there is one."""
        if self._error is not None:
            raise self._error

    def _may_match(self, number: int) -> bool:
        """Return whether a chunk contains what such a span does. The next trace is mostly in the same one."""
        known = self._chunks.get(number)
        if known is None:
            data = self._reader.chunk(number).data
            known = all(any(each in data for each in encodings) for encodings in self._encoded)
            self._chunks[number] = known
        return known

    def _matches(self, trace_id: str, place: Place) -> bool:
        data = self._reader.chunk(place.chunk).data
        for encodings in self._encoded:
            if not any(data.find(each, place.start, place.end) >= 0 for each in encodings):
                return False
        span = self._reader.span(trace_id, place)
        return (
            self._service in (None, span.service)
            and self._operation in (None, span.name)
            and (span.status == "error" or not self._errors)
            and all(_has(span.attributes, key, text) for key, text in self._attributes.items())
        )


def _has(attributes: Mapping[str, Any], key: str, text: str) -> bool:
    value = attributes.get(key)
    return value is not None and (value if isinstance(value, str) else dump_json(value)) == text


def _encodings(key: str, text: str) -> list[bytes]:
    """Return what a span contains that has the attribute, so that most spans need not be decoded."""
    found = [encode_key_value(key, text)]
    try:
        value = json.loads(text)
    except (RecursionError, ValueError):
        value = None
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        found.append(encode_key_value(key, value))
    elif value is not None or text in ("nan", "inf", "-inf"):
        # Other numbers, lists and objects may be encoded in several ways: only the key is looked for.
        return [encode_key_value(key, None)[:-2]]
    if not len(text) % 2 and set(text) <= _HEXADECIMAL:
        # Bytes are shown as digits.
        found.append(encode_key_value(key, bytes.fromhex(text)))
    return found


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
    """Return the SELECT of a search and its parameters except the limit.

    It calls the function ``has_span``, a :class:`SpanCondition`.
    """
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
    if (attributes or {}).get("error") == "true":
        ask("t.error_count > 0")
    chunks = "SELECT p.trace FROM parts p JOIN operations o ON o.chunk = p.chunk WHERE"
    if operation is not None:
        # These traces have spans in the same chunks.
        of_service = "" if service is None else " AND o.service = ?"
        names = [encodable(value) for value in (operation, service) if value is not None]
        ask(f"t.seq IN ({chunks} o.name = ?{of_service})", *names)
    if attributes or operation is not None:
        ask("has_span(t.seq, t.trace_id)")
    elif service is not None:
        # Not all services of a trace with very many are listed.
        listed = f"instr(t.services, ?) OR (length(t.services) > ? AND t.seq IN ({chunks} o.service = ?)"
        ask(f"({listed} AND has_span(t.seq, t.trace_id)))", dump_json(name := encodable(service)), _MOST_LISTED, name)
    query = (
        f"SELECT {SUMMARY_COLUMNS} FROM traces t {'WHERE ' + ' AND '.join(where) if where else ''} "  # noqa: S608
        "ORDER BY t.start DESC, t.trace_id DESC LIMIT ?"
    )
    return query, values


def distinct_services(connection: sqlite3.Connection) -> list[str]:
    return _distinct(connection, "service", "")


def distinct_operations(connection: sqlite3.Connection, service: str) -> list[str]:
    return _distinct(connection, "name", "service = ? AND ", service)


def _distinct(connection: sqlite3.Connection, column: str, condition: str, *values: str) -> list[str]:
    """Return the distinct values of ``column``, read by steps through its index: its rows are not scanned."""
    (first,) = connection.execute("SELECT min(id) FROM chunks").fetchone()
    query = (
        f"SELECT {column} FROM operations WHERE {condition}{column} > ? AND chunk >= ? "  # noqa: S608 - our own names
        f"ORDER BY {column} LIMIT 1"
    )
    found: list[str] = []
    while True:
        row = connection.execute(query, (*values, found[-1] if found else "", first)).fetchone()
        if row is None:
            return found
        check_types(row, str)
        found.append(row[0])
