"""Write files as older versions of this app did, whose spans were rows of a table."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

#: As version 5 was released, so don't change it.
TABLES = """
CREATE TABLE traces (seq INTEGER PRIMARY KEY, trace_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, service TEXT NOT NULL,
    services TEXT NOT NULL, has_root INTEGER NOT NULL, root_start INTEGER NOT NULL, start INTEGER NOT NULL,
    "end" INTEGER NOT NULL, span_count INTEGER NOT NULL, error_count INTEGER NOT NULL,
    left_out INTEGER NOT NULL DEFAULT 0, method TEXT NOT NULL DEFAULT '', path TEXT NOT NULL DEFAULT '',
    status_code INTEGER, user TEXT NOT NULL DEFAULT '', sql_count INTEGER NOT NULL DEFAULT 0,
    sql_time INTEGER NOT NULL DEFAULT 0);
CREATE INDEX traces_by_start ON traces (start);
CREATE TABLE spans (trace INTEGER NOT NULL, span_id TEXT NOT NULL, parent_id TEXT NOT NULL, name TEXT NOT NULL,
    kind TEXT NOT NULL, service TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, status TEXT NOT NULL,
    attributes TEXT NOT NULL, resource INTEGER NOT NULL, more TEXT NOT NULL, work TEXT NOT NULL DEFAULT 'other',
    target_kind TEXT NOT NULL DEFAULT '', target TEXT NOT NULL DEFAULT '');
CREATE UNIQUE INDEX spans_by_trace ON spans (trace, span_id);
CREATE INDEX spans_by_operation ON spans (service, name, trace);
CREATE TABLE resources (trace INTEGER NOT NULL, id INTEGER NOT NULL, attributes TEXT NOT NULL,
    PRIMARY KEY (trace, id)) WITHOUT ROWID;
CREATE TABLE awaited (trace INTEGER NOT NULL, span_id TEXT NOT NULL, PRIMARY KEY (trace, span_id)) WITHOUT ROWID;
CREATE TABLE figures (trace INTEGER PRIMARY KEY, span_count INTEGER NOT NULL, routes TEXT NOT NULL,
    links TEXT NOT NULL, breakers TEXT NOT NULL);
CREATE TABLE format (version INTEGER NOT NULL);
PRAGMA application_id = 0x446A5472;
"""
#: What each version added: version 2 columns of spans, 3 a limit, 4 columns of traces, and 5 figures.
ADDED = {
    5: ["DROP TABLE figures", "DROP TABLE format"],
    4: [
        f"ALTER TABLE traces DROP COLUMN {column}"
        for column in ("method", "path", "status_code", "user", "sql_count", "sql_time")
    ],
    3: ["ALTER TABLE traces DROP COLUMN left_out", "DROP TABLE awaited"],
    2: [f"ALTER TABLE spans DROP COLUMN {column}" for column in ("work", "target_kind", "target")],
}


def write_old_file(path: Path, version: int, rows: Sequence[dict[str, Any]], *, left_out: int = 0) -> None:
    """Write the spans ``rows``, each trace with ``left_out`` spans more that were only counted."""
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("PRAGMA auto_vacuum = INCREMENTAL;" + TABLES)
        traces = list(dict.fromkeys(span["trace_id"] for span in rows))
        for seq, trace_id in enumerate(traces, 5):
            members = [span for span in rows if span["trace_id"] == trace_id]
            connection.execute(
                'INSERT INTO traces (seq, trace_id, name, service, services, has_root, root_start, start, "end", '
                "span_count, error_count, left_out) VALUES (?, ?, 'x', 'x', '[\"x\"]', 1, 1, 1, 2, ?, 0, ?)",
                (seq, trace_id, len(members) + left_out, left_out),
            )
            for span in members:
                more = ("status_message", "events", "links", "scope", "trace_state")
                connection.execute(
                    'INSERT INTO spans (trace, span_id, parent_id, name, kind, service, start, "end", status, '
                    "attributes, resource, more) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)",
                    (
                        *(seq, span["span_id"], span["parent_id"], span["name"], span["kind"], span["service"]),
                        *(span["start"], span["end"], span["status"], json.dumps(span["attributes"])),
                        json.dumps({key: span[key] for key in more if span[key]}),
                    ),
                )
            connection.execute("INSERT INTO resources VALUES (?, 1, ?)", (seq, json.dumps(members[0]["resource"])))
        connection.execute("INSERT INTO format VALUES (5)")
        for number in range(5, version, -1):
            for statement in ADDED[number]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {min(version, 4)}")
        connection.execute("PRAGMA journal_mode = WAL")
