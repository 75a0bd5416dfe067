"""Write spans to the local store.

The spans of one write are one chunk: compressed, in the encoding in which they came. Beside it are a row for each
trace, with what lists show of it, and where its spans are. All else is computed from the chunks when somebody reads,
or in idle times: a process that is busy has better things to do.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import time
import zlib
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from django_tracing.protobuf import field, read_fields
from django_tracing.semconv.facts import EncodedSection, SpanFacts
from django_tracing.sqlite_file import pragma
from django_tracing.traces.readers.sqlite.chunks import MOST_BYTES, ChunkReader
from django_tracing.traces.readers.sqlite.rows import check_types, dump_json, encodable
from django_tracing.traces.times import FARTHEST

__all__ = [
    "FREE_SHARE",
    "RESERVE",
    "StoredIds",
    "delete_before",
    "first_and_last",
    "first_younger",
    "has_space",
    "prune",
    "shrink_file",
    "split_sections",
    "store_sections",
    "used_bytes",
]

#: Unused pages are returned to the disk if they are more than this share of the file. Otherwise they are reused.
FREE_SHARE: Final = 0.25
#: If the file must not grow, at least one page of so many is unused.
_SPACE_SHARE: Final = 20
#: When a trace has reached its limit, this share of it is still stored of spans that connect the others: roots and
#: parents of stored spans.
RESERVE: Final = 0.1
#: Of each table, the column with the number of the trace. Its own row is the last.
_TRACE_COLUMNS: Final = (
    *(("parts", "trace"), ("awaited", "trace"), ("figures", "trace"), ("chunks", "last_trace"), ("traces", "seq")),
)
#: When one in so many traces was deleted, the names of operations in deleted chunks are: that takes a scan.
_NAMES_SHARE: Final = 10
#: The fastest: it takes a fifth of the time of the default, and the file is an eighth larger.
_COMPRESSION: Final = 1
#: The largest integer of SQLite. Spans of other machines may take any time, and so does their sum.
_LARGEST: Final = 2**63 - 1
#: The types of what is read of a trace's row before it is written again: without its request.
_TRACE_TYPES: Final = (int, str, str, str, *(int,) * 7, str, int, int)
#: A trace's list of services has at most this many names.
_MOST_SERVICES: Final = 100

# The columns are named, so that they still fit after a newer version of this app has added some.
_TRACES: Final = (
    'REPLACE INTO traces (seq, trace_id, name, service, services, has_root, root_start, start, "end", span_count, '
    "error_count, left_out, method, path, status_code, user, sql_count, sql_time)"
)
_PARTS: Final = "INSERT INTO parts (trace, chunk, ids)"
_OPERATIONS: Final = "INSERT INTO operations (service, name, chunk)"
_KNOWN: Final = (
    'SELECT trace_id, seq, name, service, services, has_root, root_start, start, "end", span_count, error_count, '
    "left_out, method, path, status_code, user, sql_count, sql_time FROM traces WHERE trace_id IN "
)
#: A chunk has at most this many spans.
_CHUNK_SPANS: Final = 512
#: So many values have a place in one statement, in every version of SQLite.
_MOST_VALUES: Final = 900
#: Requests wait while this thread works without a pause: there is one after so many spans.
_SPANS_AT_ONCE: Final = 32


def first_and_last(connection: sqlite3.Connection) -> tuple[Any, Any]:
    """Return the numbers of the oldest and the newest trace; None for both if there is none."""
    return connection.execute(  # type: ignore[no-any-return]
        "SELECT (SELECT min(seq) FROM traces), (SELECT max(seq) FROM traces)"
    ).fetchone()


def prune(
    connection: sqlite3.Connection, max_traces: int, max_bytes: int, max_age: float | None, *, grow: bool = True
) -> int:
    """Delete the oldest traces that exceed a limit; return how many. If ``grow`` is false, the file must not grow."""
    # Traces are deleted in the order in which they were stored, so their numbers have no gaps and are counted without
    # a scan. The order of starts would delete the traces of a machine at once whose clock is behind.
    first, last = first_and_last(connection)
    if last is None:
        raise sqlite3.DatabaseError("malformed: no trace is there just after one was written")
    keep_from = last - max_traces + 1
    if used_bytes(connection) > max_bytes or not (grow or has_space(connection)):
        keep_from = max(keep_from, first + max(1, (last - first) // 10))
    if max_age is not None:
        keep_from = max(keep_from, first_younger(connection, int((time.time() - max_age) * 1e9), last))
    if keep_from <= first:
        return 0
    delete_before(connection, keep_from)
    return int(keep_from - first)


def delete_before(connection: sqlite3.Connection, seq: int) -> None:
    """Delete the traces that were stored before the trace with the number ``seq``."""
    first, last = first_and_last(connection)
    for table, column in _TRACE_COLUMNS:
        connection.execute(f"DELETE FROM {table} WHERE {column} < ?", (seq,))  # noqa: S608 - our own names
    if last is None or last < seq:
        connection.execute("DELETE FROM operations")
        return
    step = max((last - first) // _NAMES_SHARE, 1)
    if seq // step != first // step:
        connection.execute("DELETE FROM operations WHERE chunk < (SELECT min(id) FROM chunks)")


def first_younger(connection: sqlite3.Connection, since: int, last: int) -> int:
    """Return the number of the first trace that ended after ``since``: at most the newest, at most 500 ahead."""
    number = 0
    # In a damaged file, an end may be a text, which must not be an error of every write.
    ends = connection.execute('SELECT seq, CAST("end" AS INTEGER) FROM traces ORDER BY seq LIMIT 500')
    for number, end in ends:  # noqa: B007
        if (end or 0) >= since:
            break
    return min(number, last)


def has_space(connection: sqlite3.Connection) -> bool:
    """Return whether the file has enough unused pages for the next spans."""
    return pragma(connection, "freelist_count") * _SPACE_SHARE > pragma(connection, "page_count")


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of the file without its unused pages."""
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * pragma(connection, "page_size")


def shrink_file(connection: sqlite3.Connection) -> None:
    """Return half of the unused pages to the disk if there are many."""
    free = pragma(connection, "freelist_count")
    if free > FREE_SHARE * pragma(connection, "page_count"):
        # In early versions of Python 3.11, execute() makes only one step, and each step frees one page.
        connection.executescript(f"PRAGMA incremental_vacuum({free // 2})")


#: A span of a trace that is being stored: its place among all spans of the write, its service, and its facts.
_Member = tuple[int, str, SpanFacts]


class _Stored(NamedTuple):
    """What is to be written of a trace."""

    seq: int
    row: tuple[Any, ...]
    ids: list[int]
    operations: set[tuple[str, str]]


def split_sections(sections: Sequence[EncodedSection]) -> list[list[EncodedSection]]:
    """Return ``sections`` in parts, each for one chunk: whoever reads one span decompresses its whole chunk."""
    if sum(len(section.facts) for section in sections) <= _CHUNK_SPANS:
        return [list(sections)]
    parts: list[list[EncodedSection]] = [[]]
    room = _CHUNK_SPANS
    for section in sections:
        ends = _ends(section.spans)
        first = 0
        while first < len(section.facts):
            if not room:
                parts.append([])
                room = _CHUNK_SPANS
            last = min(first + room, len(section.facts))
            facts = section.facts[first:last]
            parts[-1].append(section._replace(spans=section.spans[ends[first] : ends[last]], facts=facts))
            room -= len(facts)
            first = last
    return parts


def _ends(spans: bytes | bytearray) -> list[int]:
    """Return 0, and where each of the encoded spans ends."""
    return [0, *(end for _tag, _content, end in read_fields(bytes(spans), 0, len(spans)))]


def store_sections(
    connection: sqlite3.Connection, sections: Sequence[EncodedSection], most: int, stored_ids: StoredIds
) -> set[int]:
    """Store spans, at most ``most`` of each trace and some that connect them. Return the numbers of their traces.

    Spans that are stored already are not changed.
    """
    by_trace: dict[str, list[_Member]] = {}
    left_out: set[int] = set()
    number = 0
    for section in sections:
        service = encodable(section.service)
        for facts in section.facts:
            if 0 <= facts.start <= facts.end < FARTHEST:
                by_trace.setdefault(f"{facts.trace_id:032x}", []).append((number, service, facts))
            else:
                left_out.add(number)
            number += 1
    if not by_trace:
        return set()
    known = _known(connection, list(by_trace))
    (seq,) = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM traces").fetchone()
    traces = []
    spans = 0
    for trace_id, members in by_trace.items():
        if len(sections) > 1:
            # In the order in which they ended, as those of one section are.
            members.sort(key=lambda member: member[2].end)
        stored = _store_trace(connection, trace_id, members, most, known.get(trace_id), seq, left_out, stored_ids)
        seq += stored.seq == seq
        traces.append(stored)
        spans += len(members)
        if spans >= _SPANS_AT_ONCE:
            time.sleep(0)
            spans = 0
    _insert(connection, _TRACES, [stored.row for stored in traces])
    numbers = {stored.seq for stored in traces}
    if number > len(left_out):
        chunk = connection.execute(
            "INSERT INTO chunks (last_trace, message) VALUES (?, ?)",
            (max(numbers), zlib.compress(_message(sections, left_out), _COMPRESSION)),
        ).lastrowid
        ids = [
            (stored.seq, chunk, struct.pack(f"<{len(stored.ids)}Q", *stored.ids)) for stored in traces if stored.ids
        ]
        _insert(connection, _PARTS, ids)
        _insert(
            connection,
            _OPERATIONS,
            [(*operation, chunk) for operation in sorted({each for stored in traces for each in stored.operations})],
        )
    return numbers


def _known(connection: sqlite3.Connection, trace_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Return the rows of the traces that are stored already, by their ids."""
    found = {}
    for begin in range(0, len(trace_ids), _MOST_VALUES):
        asked = trace_ids[begin : begin + _MOST_VALUES]
        for trace_id, *row in connection.execute(f"{_KNOWN} ({', '.join('?' * len(asked))})", asked):  # noqa: S608
            found[trace_id] = tuple(row)
    return found


def _insert(connection: sqlite3.Connection, head: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert ``rows``, many with one statement: each time, this thread may have to wait for its turn."""
    if not rows:
        return
    width = len(rows[0])
    marks = f"({', '.join('?' * width)})"
    most = _MOST_VALUES // width
    for begin in range(0, len(rows), most):
        part = rows[begin : begin + most]
        connection.execute(f"{head} VALUES {', '.join([marks] * len(part))}", [each for row in part for each in row])


def _message(sections: Iterable[EncodedSection], left_out: Collection[int]) -> bytes:
    """Return the ExportTraceServiceRequest with all spans but those with the numbers in ``left_out``."""
    parts = []
    number = 0
    for section in sections:
        spans = section.spans
        if left_out:
            spans = bytearray()
            for begin, end in pairwise(_ends(section.spans)):
                if number not in left_out:
                    spans += section.spans[begin:end]
                number += 1
        if spans:
            parts.append(field(0x0A, section.resource + field(0x12, section.scope + spans)))
    message = b"".join(parts)
    if len(message) > MOST_BYTES:
        raise ValueError(f"{len(message)} bytes at once")
    return message


class StoredIds:
    """Remembers the ids of the spans of traces that grow, so that each write reads only what is new."""

    #: So many ids are kept, of the traces that grew last.
    MOST: Final = 10_000

    def __init__(self) -> None:
        #: By trace, the latest chunk that was read, and the ids.
        self._known: dict[int, tuple[int, set[int]]] = {}

    def of(self, connection: sqlite3.Connection, seq: int) -> set[int]:
        """Return the ids of the stored spans of a trace. Whoever stores more of them adds their ids."""
        latest, ids = self._known.pop(seq, (0, set()))
        for chunk, found in connection.execute(
            "SELECT chunk, ids FROM parts WHERE trace = ? AND chunk > ? ORDER BY chunk", (seq, latest)
        ):
            latest = chunk
            if not isinstance(found, bytes) or len(found) % 8:
                raise sqlite3.DatabaseError("malformed: the ids of a trace's spans have a wrong type")
            ids.update(struct.unpack(f"<{len(found) // 8}Q", found))
        self._known[seq] = latest, ids
        kept = sum(len(each) for _chunk, each in self._known.values())
        while kept > self.MOST and len(self._known) > 1:
            kept -= len(self._known.pop(next(iter(self._known)))[1])
        return ids

    def forget(self) -> None:
        """Forget all: what was added is not stored, or the file is another one."""
        self._known.clear()


def _store_trace(
    connection: sqlite3.Connection,
    trace_id: str,
    members: Sequence[_Member],
    most: int,
    known: tuple[Any, ...] | None,
    new_seq: int,
    unwritten: set[int],
    stored_ids: StoredIds,
) -> _Stored:
    """Add spans to a trace, of which ``known`` is stored. Those that are not to be written go to ``unwritten``."""
    if known is None:
        seq, name, service, has_root, root_start, count, errors, left_out = new_seq, "", "", 0, None, 0, 0, 0
        request: list[Any] = ["", "", None, ""]
        sql_count, sql_time = 0, 0
        start, end = members[0][2].start, members[0][2].end
        services: dict[str, None] = {}
        ids: set[int] = set()
    else:
        seq, name, service, listed, has_root, root_start, start, end, count, errors, left_out, *more = known
        *request, sql_count, sql_time = more
        services = dict.fromkeys(_listed_services(known))
        ids = stored_ids.of(connection, seq)
    added: list[SpanFacts] = []
    operations: set[tuple[str, str]] = set()
    named_by: SpanFacts | None = None
    for number, of_service, facts in members:
        if facts.span_id in ids:
            unwritten.add(number)
            continue
        stored = count - left_out
        first = stored == most and not left_out
        if stored < most or (
            stored < most + max(int(most * RESERVE), 1)
            and _holds_together(connection, seq, trace_id, facts, ids, added if first else None)
        ):
            ids.add(facts.span_id)
            added.append(facts)
            operations.add((of_service, facts.name))
        else:
            unwritten.add(number)
            left_out += 1
        count += 1
        # The span in which an exception was raised ends first, unless it is lost.
        errors += facts.failed and (not facts.propagated or not errors)
        if facts.is_sql:
            sql_count += facts.is_statement
            sql_time += facts.end - facts.start
        start, end = min(start, facts.start), max(end, facts.end)
        if len(services) < _MOST_SERVICES:
            services[of_service] = None
        # The span without a parent ends last. Until it arrives, the earliest span gives the trace its name.
        is_root = not facts.parent_id
        if root_start is None or (is_root, -facts.start) > (bool(has_root), -root_start):
            name, service, has_root, root_start = facts.name, of_service, int(is_root), facts.start
            named_by = facts
    if named_by is not None:
        method, path, status, user = named_by.request
        name, request = encodable(name), [encodable(method), encodable(path), status, encodable(user)]
    row = (
        *(seq, trace_id, name, service, dump_json(list(services)), has_root, root_start, start, end),
        *(count, errors, left_out, *request, sql_count, min(sql_time, _LARGEST)),
    )
    return _Stored(
        seq,
        row,
        [facts.span_id for facts in added],
        {(service, encodable(name)) for service, name in operations},
    )


def _listed_services(known: tuple[Any, ...]) -> list[str]:
    """Return the services of a stored trace. Raise DatabaseError if its row is damaged, as SQLite would."""
    try:
        check_types((*known[:11], *known[14:]), *_TRACE_TYPES)
        services = json.loads(known[3])
        check_types(services, *[str] * len(services))
    except (RecursionError, TypeError, ValueError) as error:
        raise sqlite3.DatabaseError("malformed: a trace has a value of the wrong type") from error
    return list(services)


def _holds_together(
    connection: sqlite3.Connection,
    seq: int,
    trace_id: str,
    facts: SpanFacts,
    ids: set[int],
    unstored: Iterable[SpanFacts] | None,
) -> bool:
    """Return True if the span is a root or the parent of stored spans, which end and are stored before it.

    Once, when the trace has just reached its limit, the missing parents are looked up: of its stored spans, and of
    those that are ``unstored`` as yet.
    """
    if unstored is not None:
        connection.executemany(
            "INSERT OR IGNORE INTO awaited (trace, span_id) VALUES (?, ?)",
            [(seq, f"{parent:016x}") for parent in _parents(connection, seq, trace_id, unstored) - ids],
        )
    awaited = connection.execute(
        "DELETE FROM awaited WHERE trace = ? AND span_id = ?", (seq, f"{facts.span_id:016x}")
    ).rowcount
    if awaited and facts.parent_id and facts.parent_id not in ids:
        connection.execute(
            "INSERT OR IGNORE INTO awaited (trace, span_id) VALUES (?, ?)", (seq, f"{facts.parent_id:016x}")
        )
    return bool(awaited) or not facts.parent_id


def _parents(connection: sqlite3.Connection, seq: int, trace_id: str, unstored: Iterable[SpanFacts]) -> set[int]:
    """Return the ids of the parents of a trace's spans."""
    reader = ChunkReader(connection)
    try:
        parents = {int(reader.ids(place)[1] or "0", 16) for place in reader.places(seq, trace_id)}
    except (LookupError, ValueError) as error:
        raise sqlite3.DatabaseError("malformed: a trace can't be read") from error
    parents.update(facts.parent_id for facts in unstored)
    parents.discard(0)
    return parents
