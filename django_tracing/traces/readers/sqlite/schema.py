"""Create the tables of the local store and migrate older files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from django_tracing.sqlite_file import pragma, transaction
from django_tracing.traces.readers.sqlite.rows import describe, describe_request

__all__ = ["APPLICATION_ID", "COMPATIBLE_FROM", "SCHEMA", "VERSION", "create_tables", "is_too_new", "migrate"]

#: Marks the file as this app's ("DjTr"). Other programs' databases are never written to or moved.
APPLICATION_ID: Final = 0x446A5472
#: Incremented when the tables change. Older files are migrated. ``format`` has the version of a file.
VERSION: Final = 5
#: The oldest version whose writers and readers can go on with the tables of ``VERSION``, which is the file's
#: ``user_version``: during a rolling deploy, processes of two versions write one file. Raise it for a change that
#: they would not survive. They name the columns that they write (version 4 does not, so it survives only new tables)
#: and replace rows of ``traces`` as a whole: a new column needs a default that means "not known".
COMPATIBLE_FROM: Final = 4
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
CREATE TABLE spans (
    trace INTEGER NOT NULL,
    span_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    service TEXT NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    status TEXT NOT NULL,
    attributes TEXT NOT NULL,
    resource INTEGER NOT NULL,
    more TEXT NOT NULL,
    work TEXT NOT NULL DEFAULT 'other',
    target_kind TEXT NOT NULL DEFAULT '',
    target TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX spans_by_trace ON spans (trace, span_id);
CREATE INDEX spans_by_operation ON spans (service, name, trace);
CREATE TABLE resources (
    trace INTEGER NOT NULL,
    id INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    PRIMARY KEY (trace, id)
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


#: Version 2 adds what pages would otherwise have to compute from the attributes of each span.
_TO_VERSION_2: Final = (
    "ALTER TABLE spans ADD COLUMN work TEXT NOT NULL DEFAULT 'other'",
    "ALTER TABLE spans ADD COLUMN target_kind TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE spans ADD COLUMN target TEXT NOT NULL DEFAULT ''",
)


#: Version 3 adds how many spans were not stored, and which missing spans have stored children.
_TO_VERSION_3: Final = (
    "ALTER TABLE traces ADD COLUMN left_out INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE awaited "
    "(trace INTEGER NOT NULL, span_id TEXT NOT NULL, PRIMARY KEY (trace, span_id)) WITHOUT ROWID",
)


#: Version 4 adds what the list shows of a trace: its request, its user, and its SQL.
_TO_VERSION_4: Final = (
    "ALTER TABLE traces ADD COLUMN method TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE traces ADD COLUMN path TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE traces ADD COLUMN status_code INTEGER",
    "ALTER TABLE traces ADD COLUMN user TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE traces ADD COLUMN sql_count INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE traces ADD COLUMN sql_time INTEGER NOT NULL DEFAULT 0",
)


#: Version 5 adds figures of each trace, which are computed when others are written or when somebody reads them.
_TO_VERSION_5: Final = (
    "CREATE TABLE figures (trace INTEGER PRIMARY KEY, span_count INTEGER NOT NULL, routes TEXT NOT NULL, "
    "links TEXT NOT NULL, breakers TEXT NOT NULL)",
    "CREATE TABLE format (version INTEGER NOT NULL)",
)


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
    version = _version_of(connection)
    if version < 2:
        for statement in _TO_VERSION_2:
            connection.execute(statement)
        connection.create_function("described", 3, _describe_again, deterministic=True)
        connection.execute(
            "UPDATE spans SET work = described(kind, attributes, 0), "
            "target_kind = described(kind, attributes, 1), target = described(kind, attributes, 2)"
        )
    if version < 3:
        for statement in _TO_VERSION_3:
            connection.execute(statement)
    if version < 4:
        for statement in _TO_VERSION_4:
            connection.execute(statement)
        _summarize_again(connection)
    if version < 5:
        for statement in _TO_VERSION_5:
            connection.execute(statement)
    _mark_version(connection)


def _summarize_again(connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE traces SET sql_count = (SELECT count(*) FROM spans WHERE trace = seq AND work = 'sql' "
        "AND spans.name NOT IN ('db.connect', 'db.pool.wait')), "
        # As a float: a sum of integers that is too large is an error.
        'sql_time = (SELECT CAST(min(total("end" - start), 9e18) AS INTEGER) FROM spans '
        "WHERE trace = seq AND work = 'sql')"
    )
    # The span that gave the trace its name: one without a parent if there is one, or else the earliest.
    for seq, kind, attributes in connection.execute(
        "SELECT t.seq, s.kind, s.attributes FROM traces t JOIN spans s ON s.rowid = "
        "(SELECT rowid FROM spans WHERE trace = t.seq ORDER BY parent_id <> '', start LIMIT 1)"
    ).fetchall():
        connection.execute(
            "UPDATE traces SET method = ?, path = ?, status_code = ?, user = ? WHERE seq = ?",
            (*describe_request(kind, json.loads(attributes)), seq),
        )


def _describe_again(kind: str, attributes: str, number: int) -> str:
    return describe(kind, json.loads(attributes), {})[number]
