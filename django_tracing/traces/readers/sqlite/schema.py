"""Create the tables of the local store and migrate older files."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from django_tracing.sqlite_file import pragma, transaction
from django_tracing.traces.readers.sqlite.json_rows import encode_rows
from django_tracing.traces.readers.sqlite.writing import StoredIds, store_sections

__all__ = ["APPLICATION_ID", "COMPATIBLE_FROM", "SCHEMA", "VERSION", "create_tables", "is_too_new", "migrate"]

#: Marks the file as this app's ("DjTr"). Other programs' databases are never written to or moved.
APPLICATION_ID: Final = 0x446A5472
#: Incremented when the tables change. Older files are migrated. ``format`` has the version of a file.
VERSION: Final = 6
#: The oldest version whose writers and readers can go on with the tables of ``VERSION``, which is the file's
#: ``user_version``: during a rolling deploy, processes of two versions write one file. Raise it for a change that
#: they would not survive. They name the columns that they write and replace rows of ``traces`` as a whole: a new
#: column needs a default that means "not known".
COMPATIBLE_FROM: Final = 6
SCHEMA: Final = """
CREATE TABLE traces (
    seq INTEGER PRIMARY KEY,
    trace_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    service TEXT NOT NULL,
    services TEXT NOT NULL,
    has_root INTEGER NOT NULL,
    root_start INTEGER NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    span_count INTEGER NOT NULL,
    error_count INTEGER NOT NULL,
    left_out INTEGER NOT NULL DEFAULT 0,
    method TEXT NOT NULL DEFAULT '',
    path TEXT NOT NULL DEFAULT '',
    status_code INTEGER,
    user TEXT NOT NULL DEFAULT '',
    sql_count INTEGER NOT NULL DEFAULT 0,
    sql_time INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX traces_by_start ON traces (start);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    last_trace INTEGER NOT NULL,
    message BLOB NOT NULL
);
CREATE INDEX chunks_by_trace ON chunks (last_trace);
CREATE TABLE parts (
    trace INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    ids BLOB NOT NULL,
    PRIMARY KEY (trace, chunk)
) WITHOUT ROWID;
CREATE TABLE operations (
    service TEXT NOT NULL,
    name TEXT NOT NULL,
    chunk INTEGER NOT NULL,
    PRIMARY KEY (service, name, chunk)
) WITHOUT ROWID;
CREATE TABLE awaited (
    trace INTEGER NOT NULL,
    span_id TEXT NOT NULL,
    PRIMARY KEY (trace, span_id)
) WITHOUT ROWID;
CREATE TABLE figures (
    trace INTEGER PRIMARY KEY,
    span_count INTEGER NOT NULL,
    routes TEXT NOT NULL,
    links TEXT NOT NULL,
    breakers TEXT NOT NULL
);
CREATE TABLE format (
    version INTEGER NOT NULL
);
"""

#: Up to version 5, their names and columns.
_OLD_TABLES: Final = ("traces", "spans", "resources")
_OLD_COLUMNS: Final = (
    *("span_id", "parent_id", "name", "kind", "service", "start", "end", "status", "attributes", "more", "resource"),
)
#: So many spans are migrated at once.
_MOST_AT_ONCE: Final = 512


def is_too_new(connection: sqlite3.Connection) -> bool:
    """Return True if the file is of a newer version of this app, and this version can't read or write it."""
    return pragma(connection, "user_version") > VERSION


def create_tables(connection: sqlite3.Connection, foreign: Callable[[], Exception]) -> None:
    """Create the tables if there are none, and migrate older ones. Newer ones are not changed.

    ``foreign`` makes the exception for another program's database.
    """
    # This has an effect only before the first table is created.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if not pragma(connection, "application_id"):
        # If several processes start at once, one of them creates the tables. The file is not in WAL mode yet, so
        # that the application id is in the file itself.
        with transaction(connection, "EXCLUSIVE"):
            if not pragma(connection, "application_id"):
                if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise foreign()
                for statement in SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                _mark_version(connection)
    if is_too_new(connection):
        return
    if _version_of(connection) < VERSION:
        with transaction(connection, "IMMEDIATE"):
            if _version_of(connection) < VERSION:
                migrate(connection)
    # This fails while another process reads. Then the next process that opens the file does it.
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL")


def _version_of(connection: sqlite3.Connection) -> int:
    """Return the version whose tables the file has."""
    compatible_from = pragma(connection, "user_version")
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'format'").fetchone():
        return compatible_from
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM format").fetchone()
    if not isinstance(version, int):
        raise sqlite3.DatabaseError("malformed: the version is no number")
    return version


def _mark_version(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA user_version = {COMPATIBLE_FROM}")
    connection.execute("DELETE FROM format")
    connection.execute("INSERT INTO format (version) VALUES (?)", (VERSION,))


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate the tables from an older version."""
    if _version_of(connection) < 6:
        _store_spans_again(connection)
    _mark_version(connection)


def _store_spans_again(connection: sqlite3.Connection) -> None:
    """Store the spans of an older version as chunks. Each was a row."""
    for index in ("traces_by_start", "spans_by_trace", "spans_by_operation"):
        connection.execute(f"DROP INDEX IF EXISTS {index}")
    for table in ("awaited", "figures", "format"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    for table in _OLD_TABLES:
        connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for statement in SCHEMA.split(";"):
        connection.execute(statement)
    waiting: list[dict[str, Any]] = []
    ids = StoredIds()
    for seq, trace_id in connection.execute("SELECT seq, trace_id FROM old_traces ORDER BY seq").fetchall():
        waiting += _old_spans(connection, seq, trace_id)
        while len(waiting) >= _MOST_AT_ONCE:
            store_sections(connection, encode_rows(waiting[:_MOST_AT_ONCE]), sys.maxsize, ids)
            del waiting[:_MOST_AT_ONCE]
    store_sections(connection, encode_rows(waiting), sys.maxsize, ids)
    if "left_out" in {name for _, name, *_ in connection.execute("PRAGMA table_info(old_traces)")}:
        # Not stored, but counted.
        connection.execute(
            "UPDATE traces SET left_out = o.left_out, span_count = traces.span_count + o.left_out "
            "FROM old_traces o WHERE o.trace_id = traces.trace_id AND o.left_out > 0"
        )
    for table in _OLD_TABLES:
        connection.execute(f"DROP TABLE old_{table}")


def _old_spans(connection: sqlite3.Connection, seq: int, trace_id: str) -> Iterator[dict[str, Any]]:
    for row in connection.execute(
        'SELECT s.span_id, s.parent_id, s.name, s.kind, s.service, s.start, s."end", s.status, s.attributes, s.more, '
        "r.attributes FROM old_spans s LEFT JOIN old_resources r ON r.trace = s.trace AND r.id = s.resource "
        "WHERE s.trace = ? ORDER BY s.rowid",
        (seq,),
    ):
        span = dict(zip(_OLD_COLUMNS, row, strict=True))
        # What can't be read is left out.
        with suppress(RecursionError, TypeError, ValueError):
            more = json.loads(span.pop("more"))
            parsed = {name: json.loads(span[name] or "{}") for name in ("attributes", "resource")}
            yield {**span, **parsed, **more, "trace_id": trace_id}
