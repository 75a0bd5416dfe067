"""Write the spans of a trace to the local store."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from typing import Any, Final

from django_tracing.semconv.categories import is_statement
from django_tracing.sqlite_file import pragma
from django_tracing.traces.readers.sqlite.figures import store_figures
from django_tracing.traces.readers.sqlite.rows import check_types, describe_request, dump_json

__all__ = [
    "FREE_SHARE",
    "RESERVE",
    "delete_before",
    "first_younger",
    "has_space",
    "prune",
    "shrink_file",
    "store_trace",
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
    *(("spans", "trace"), ("resources", "trace"), ("awaited", "trace"), ("figures", "trace"), ("traces", "seq")),
)
#: The largest integer of SQLite. Spans of other machines may take any time, and so does their sum.
_LARGEST: Final = 2**63 - 1
#: The types of what is read of a trace's row before it is written again: without its request.
_TRACE_TYPES: Final = (int, str, str, str, *(int,) * 7, str, int, int)
#: A trace's list of services has at most this many names.
_MOST_SERVICES: Final = 100

# The columns are named, so that they still fit after a newer version of this app has added some.
_STORE_TRACE: Final = (
    'INSERT OR REPLACE INTO traces (seq, trace_id, name, service, services, has_root, root_start, start, "end", '
    "span_count, error_count, left_out, method, path, status_code, user, sql_count, sql_time) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_STORE_SPAN: Final = (
    'INSERT OR IGNORE INTO spans (trace, span_id, parent_id, name, kind, service, start, "end", status, attributes, '
    "resource, more, work, target_kind, target) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def prune(
    connection: sqlite3.Connection, max_traces: int, max_bytes: int, max_age: float | None, *, grow: bool = True
) -> int:
    """Delete the oldest traces that exceed a limit; return how many. If ``grow`` is false, the file must not grow."""
    # Traces are deleted in the order in which they were stored, so their numbers have no gaps and are counted without
    # a scan. The order of starts would delete the traces of a machine at once whose clock is behind.
    first, last = connection.execute("SELECT (SELECT min(seq) FROM traces), (SELECT max(seq) FROM traces)").fetchone()
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
    for table, column in _TRACE_COLUMNS:
        connection.execute(f"DELETE FROM {table} WHERE {column} < ?", (seq,))  # noqa: S608 - our own names


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


def store_trace(connection: sqlite3.Connection, trace_id: str, rows: list[dict[str, Any]], most: int) -> int:
    """Store spans of one trace and update its row, without reading its stored spans. Return its number."""
    known = connection.execute(
        'SELECT seq, name, service, services, has_root, root_start, start, "end", span_count, error_count, left_out, '
        "method, path, status_code, user, sql_count, sql_time FROM traces WHERE trace_id = ?",
        (trace_id,),
    ).fetchone()
    if known is None:
        seq = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM traces").fetchone()[0]
        name, service, has_root, root_start, count, errors, left_out = "", "", 0, None, 0, 0, 0
        written, sql_count, sql_time = ["", "", None, ""], 0, 0
        start, end = rows[0]["start"], rows[0]["end"]
        services: dict[str, None] = {}
    else:
        seq, name, service, listed, has_root, root_start, start, end, count, errors, left_out, *more = known
        *written, sql_count, sql_time = more
        services = dict.fromkeys(_listed_services(known))
    # Many spans share few resources.
    resources: dict[str, int] = {}
    added = []
    named_by: dict[str, Any] | None = None
    for row in rows:
        stored = count - left_out
        if stored < most or (
            stored < most + max(int(most * RESERVE), 1)
            and _holds_together(connection, seq, row, stored == most and not left_out)
        ):
            resource = resources.get(row["resource"])
            if resource is None:
                digest = hashlib.blake2b(row["resource"].encode(), digest_size=8).digest()
                resource = resources[row["resource"]] = int.from_bytes(digest, "big", signed=True)
                connection.execute(
                    "INSERT OR IGNORE INTO resources (trace, id, attributes) VALUES (?, ?, ?)",
                    (seq, resource, row["resource"]),
                )
            if not _store_span(connection, seq, row, resource):
                continue
            added.append(row)
        elif _is_stored(connection, seq, row["span_id"]):
            continue
        else:
            left_out += 1
        count += 1
        # The span in which an exception was raised ends first, unless it is lost.
        errors += row["status"] == "error" and (not row["propagated"] or not errors)
        if row["described"][0] == "sql":
            sql_count += is_statement(row["facts"][1])
            sql_time += row["end"] - row["start"]
        start, end = min(start, row["start"]), max(end, row["end"])
        if len(services) < _MOST_SERVICES:
            services[row["service"]] = None
        # The span without a parent ends last. Until it arrives, the earliest span gives the trace its name.
        is_root = not row["parent_id"]
        if root_start is None or (is_root, -row["start"]) > (bool(has_root), -root_start):
            name, service, has_root, root_start = row["name"], row["service"], int(is_root), row["start"]
            named_by = row
    request = written if named_by is None else describe_request(*named_by["facts"])
    connection.execute(
        _STORE_TRACE,
        (
            *(seq, trace_id, name, service, dump_json(list(services)), has_root, root_start, start, end),
            *(count, errors, left_out, *request, sql_count, min(sql_time, _LARGEST)),
        ),
    )
    if known is None:
        # If a parent is missing, the trace will grow.
        ids = {"", *(row["span_id"] for row in added)}
        if all(row["parent_id"] in ids for row in added):
            store_figures(connection, seq, count, added)
    return int(seq)


def _listed_services(known: tuple[Any, ...]) -> list[str]:
    """Return the services of a stored trace. Raise DatabaseError if its row is damaged, as SQLite would."""
    try:
        check_types((*known[:11], *known[14:]), *_TRACE_TYPES)
        services = json.loads(known[3])
        check_types(services, *[str] * len(services))
    except (RecursionError, TypeError, ValueError) as error:
        raise sqlite3.DatabaseError("malformed: a trace has a value of the wrong type") from error
    return list(services)


def _store_span(connection: sqlite3.Connection, seq: int, row: dict[str, Any], resource: int) -> bool:
    """Store a span; return False if it is stored already."""
    return bool(
        connection.execute(
            _STORE_SPAN,
            (
                seq,
                row["span_id"],
                row["parent_id"],
                row["name"],
                row["kind"],
                row["service"],
                row["start"],
                row["end"],
                row["status"],
                row["attributes"],
                resource,
                row["more"],
                *row["described"],
            ),
        ).rowcount
    )


def _is_stored(connection: sqlite3.Connection, seq: int, span_id: str) -> bool:
    found = connection.execute("SELECT 1 FROM spans WHERE trace = ? AND span_id = ?", (seq, span_id)).fetchone()
    return found is not None


def _holds_together(connection: sqlite3.Connection, seq: int, row: dict[str, Any], first: bool) -> bool:
    """Return True if the span is a root or the parent of stored spans, which end and are stored before it.

    ``first``: the trace has just reached its limit. Then the missing parents are looked up, once.
    """
    if first:
        connection.execute(
            "INSERT OR IGNORE INTO awaited (trace, span_id) SELECT DISTINCT s.trace, s.parent_id FROM spans s "
            "WHERE s.trace = ? AND s.parent_id <> '' AND NOT EXISTS "
            "(SELECT 1 FROM spans p WHERE p.trace = s.trace AND p.span_id = s.parent_id)",
            (seq,),
        )
    awaited = connection.execute(
        "DELETE FROM awaited WHERE trace = ? AND span_id = ?", (seq, row["span_id"])
    ).rowcount
    if awaited and row["parent_id"] and not _is_stored(connection, seq, row["parent_id"]):
        connection.execute("INSERT OR IGNORE INTO awaited (trace, span_id) VALUES (?, ?)", (seq, row["parent_id"]))
    return bool(awaited) or not row["parent_id"]
