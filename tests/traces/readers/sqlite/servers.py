"""Write spans as a server does, and count them: those that were made, stored and dropped."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from django_tracing.export.local import LocalExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.export.builders import make_spans
from tests.export.queues import end
from tests.traces.builders import noise
from tests.traces.readers.sqlite.helpers import finished, integrity, run

needs_posix = pytest.mark.skipif(os.name != "posix", reason="open files can't be deleted, nor processes limited")


class Server:
    """A process that writes spans through the queue, and what it counts."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store
        self.queue = QueueProcessor(LocalExporter(store.store), export_interval=60, shutdown_timeout=1)
        self.ids: list[str] = []

    def serve(self, count: int = 10) -> bool:
        """End spans, each in a trace of its own. Return whether they were exported."""
        spans = [span for _ in range(count) for span in make_spans(text=noise(500))]
        self.ids += [f"{span.context.trace_id:032x}" for span in spans if span.context]
        end(self.queue, spans)
        return self.queue.force_flush(30_000)

    @property
    def dropped(self) -> int:
        return self.queue.counters.dropped_total()

    @property
    def exported(self) -> int:
        return int(self.queue.counters.snapshot()["exported"])

    def check(self, *, lost: int = 0) -> None:
        """Check that every span is accounted for: ``lost`` were stored, and then taken away with the file."""
        assert self.exported + self.dropped + self.queue.queued == len(self.ids)
        assert len(seen_by_others(self.store.path) & set(self.ids)) == self.exported - lost
        assert integrity(self.store.path) == "ok"


def seen_by_others(path: Path) -> set[str]:
    """Return the ids of the traces that another process reads."""
    script = """
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1])
        for trace_id, spans, stored in connection.execute(
            "SELECT trace_id, span_count, (SELECT sum(length(ids)) / 8 FROM parts WHERE trace = seq) FROM traces"
        ).fetchall():
            assert spans == stored
            print(trace_id)
        connection.close()
        """
    return set(finished(run(script, path)).split())


def move_log_to_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
