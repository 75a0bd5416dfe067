"""Make room in the local store when its disk is full."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any, Final

from django_tracing.sqlite_file import pragma, transaction
from django_tracing.traces.readers.sqlite.writing import delete_before, first_and_last

__all__ = ["SHARES", "load_newest", "make_room", "store_loaded"]

#: After each failure to write the same spans, this share of the traces is deleted.
SHARES: Final = (0.0, 0.1, 0.3, 0.9)
#: So many pages are returned to the disk at once, which needs space in the log.
_STEP: Final = 256
#: At most this many spans are kept in memory while the file is created again.
_MOST_LOADED: Final = 5000
#: With the column of the number of the trace.
_TABLES: Final = {
    **{"traces": "seq", "chunks": "last_trace", "parts": "trace", "awaited": "trace"},
}

Loaded = dict[str, tuple[list[str], list[tuple[Any, ...]]]]


def make_room(connection: sqlite3.Connection, share: float) -> int | None:
    """Delete ``share`` of the traces, the oldest; return how many. None: that is not possible.

    On a full disk, deleting needs space, too: in the log. So the log is used again from its beginning, and if it has
    no space for the deletion of many traces, fewer are deleted. The newest trace is kept.
    """
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
    if not share:
        return 0
    first, last = first_and_last(connection)
    if first is None or first == last:
        return None
    count = int(min(max((last - first + 1) * share, 1), last - first))
    while True:
        try:
            with transaction(connection):
                delete_before(connection, first + count)
            break
        except sqlite3.OperationalError:
            if count == 1:
                return None
            count //= 2
    # Half of the space is for the file itself, the other half for its log.
    with suppress(sqlite3.OperationalError):
        for _ in range(pragma(connection, "freelist_count") // 2 // _STEP + 1):
            connection.executescript(f"PRAGMA incremental_vacuum({_STEP})")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return count


def load_newest(connection: sqlite3.Connection) -> Loaded:
    """Return the rows of the newest traces, at most half of all."""
    (half,) = connection.execute("SELECT (min(seq) + max(seq)) / 2 FROM traces").fetchone()
    if half is None:
        return {}
    keep_from, spans = half + 1, 0
    for seq, span_count in connection.execute(
        "SELECT seq, span_count FROM traces WHERE seq > ? ORDER BY seq DESC", (half,)
    ):
        spans += span_count
        if spans > _MOST_LOADED:
            keep_from = seq + 1
            break
    loaded: Loaded = {}
    for table, column in _TABLES.items():
        found = connection.execute(f"SELECT * FROM {table} WHERE {column} >= ?", (keep_from,))  # noqa: S608 - our own names
        loaded[table] = [name for name, *_ in found.description], found.fetchall()
    names = connection.execute(
        "SELECT o.service, o.name, o.chunk FROM operations o JOIN chunks c ON c.id = o.chunk WHERE c.last_trace >= ?",
        (keep_from,),
    )
    loaded["operations"] = ["service", "name", "chunk"], names.fetchall()
    return loaded


def store_loaded(connection: sqlite3.Connection, loaded: Loaded) -> None:
    """Store rows in a new file, if there is room for them."""
    with suppress(sqlite3.OperationalError), transaction(connection):
        for table, (columns, rows) in loaded.items():
            names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)  # noqa: S608
