"""Test that processes of several versions of this app share a local store, as during a rolling deploy."""

from __future__ import annotations

import logging
import sqlite3
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from django_tracing.exceptions import StoreError
from django_tracing.export.local import LocalExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.export.builders import make_spans
from tests.export.queues import end
from tests.traces.builders import MS, row
from tests.traces.readers.sqlite.helpers import finished, integrity, run, set_asides
from tests.traces.readers.sqlite.test_figures import computed, shown

#: A later version of this app, which migrates the file when it opens it.
NEWER: Final = """
    import sys
    sys.path.insert(0, ".")
    from django_tracing.traces.readers.sqlite import schema, store as module
    from tests.traces.builders import row

    def newer(version, compatible_from, *statements):
        migrate = schema.migrate
        def migrate_further(connection):
            migrate(connection)
            for statement in statements:
                connection.execute(statement)
        schema.migrate = migrate_further
        schema.VERSION = module.VERSION = version
        schema.COMPATIBLE_FROM = module.COMPATIBLE_FROM = compatible_from
        return module.LocalStore(sys.argv[1])
"""


def test_a_newer_version_that_adds_columns_and_tables_shares_the_file(
    store: LocalStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.write([row(1)])
    script = """
        store = newer(
            7, 6,
            "ALTER TABLE traces ADD COLUMN tenant TEXT NOT NULL DEFAULT 'unknown'",
            "ALTER TABLE chunks ADD COLUMN cost INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE parts ADD COLUMN more TEXT",
            "ALTER TABLE operations ADD COLUMN more TEXT",
            "ALTER TABLE awaited ADD COLUMN more TEXT",
            "ALTER TABLE figures ADD COLUMN more TEXT",
            "ALTER TABLE format ADD COLUMN more TEXT",
            "CREATE TABLE extra (trace INTEGER PRIMARY KEY)",
        )
        for number in range(100, 130):
            store.write([row(number), row(2, number, 1)])
            assert store.trace(f"{1:032x}") is not None
        store.close()
    """
    process = run(textwrap.dedent(NEWER) + textwrap.dedent(script), path)
    number = 0
    while process.poll() is None or number < 30:
        number += 1
        # Also a process of this version that starts now.
        for writer in (store, LocalStore(path, max_trace_spans=20)):
            writer.write([row(1000 + number, 1), row(1000 + number, 2 + number, 1), row(2, 1000 + number, 1)])
        assert shown(store)[0]
    finished(process)
    assert shown(store) == computed(store)
    found = {int(summary.trace_id, 16): summary.span_count for summary in store.search(limit=1000)}
    assert set(found) == {1, 2, *range(100, 130), *range(1001, 1001 + number)}
    assert found[2] == 30 + number
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT DISTINCT tenant FROM traces").fetchall() == [("unknown",)]
        assert connection.execute("SELECT version FROM format").fetchall() == [(7,)]
    assert integrity(path) == "ok"
    assert not set_asides(path)
    assert not caplog.records


def test_a_file_that_only_a_newer_version_can_use_is_left_to_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not set aside, none of it is lost, the spans of the older process are counted, and one line is logged."""
    store = LocalStore(path)
    queue = QueueProcessor(LocalExporter(store.store), export_interval=60)
    end(queue, make_spans(3))
    assert queue.force_flush()
    script = """
        store = newer(7, 7, "ALTER TABLE traces RENAME COLUMN services TO all_services")
        store._open_writer().execute("INSERT INTO traces (trace_id, name, service, all_services, has_root, "
            "root_start, start, end, span_count, error_count) VALUES ('f', 'new', '', '', 1, 1, 1, 1, 1, 0)")
        store.close()
    """
    finished(run(textwrap.dedent(NEWER) + textwrap.dedent(script), path))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            end(queue, make_spans(2))
            assert not queue.force_flush()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "was changed by a newer version of this app" in line
    assert "They are dropped" in line
    counted = queue.counters.snapshot()
    assert (counted["exported"], counted["dropped"]) == (3, {"rejected": 6})
    for read in (store.search, store.services, store.routes, store.dependencies, lambda: store.trace("a" * 32)):
        with pytest.raises(StoreError, match="newer version of this app") as caught:
            read()
        assert caught.value.reason == "newer"
    assert not set_asides(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*), sum(name = 'new') FROM traces").fetchone() == (4, 1)
    # Without the file, this version makes one of its own.
    for each in path.parent.iterdir():
        each.unlink()
    end(queue, make_spans(2))
    assert queue.force_flush()
    assert sum(summary.span_count for summary in store.search()) == 2
    queue.shutdown()
    store.close()


def test_a_newer_version_that_starts_while_this_one_writes(store: LocalStore, path: Path) -> None:
    """The file is migrated while this process has it open: it does not write to tables that it does not know."""
    store.write([row(1)])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer version of this app"):
        store.write([row(2)])
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM parts").fetchone() == (1,)
        connection.execute("PRAGMA user_version = 6")
    store.write([row(2, took=2)])
    assert [summary.duration for summary in store.search()] == [2 * MS, 1 * MS]
