"""Inject faults of the storage under a server that goes on, and account for every span.

Whatever happens to the file, ending a span raises nothing, the spans that count as exported are in the file that
everybody reads, the others are counted as dropped, and each change of state is one line in the log.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from django_tracing.exceptions import StoreError
from django_tracing.export.local import LocalExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.traces.readers.sqlite import file as file_module
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.export.builders import Recorder
from tests.export.queues import end
from tests.traces.builders import NOON, row
from tests.traces.readers.sqlite.helpers import finished, integrity, run, set_asides
from tests.traces.readers.sqlite.servers import Server, move_log_to_file, needs_posix

DAY = 86_400


def remove(*suffixes: str) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        for suffix in suffixes:
            os.unlink(f"{path}{suffix}")

    return act


def cut(suffix: str, share: float) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        cut_file = f"{path}{suffix}"
        os.truncate(cut_file, int(os.stat(cut_file).st_size * share))

    return act


# ----- Files that are deleted or cut while they are open


@needs_posix
@pytest.mark.parametrize(
    "act", [remove("-wal"), remove("-shm"), remove("-wal", "-shm")], ids=["log", "index", "both"]
)
def test_the_log_is_deleted_under_the_server(
    server: Server, path: Path, act: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost: what was only in the log is moved to the file."""
    server.serve()
    act(path)
    assert server.serve()
    server.check()
    # Somebody reads in between, so that there are new files when the server writes again.
    act(path)
    with suppress(StoreError):
        LocalStore(path).search()
    assert server.serve()
    server.check()
    assert server.dropped == 0
    assert not set_asides(path)
    assert not caplog.records


@needs_posix
@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")], ids=["log", "index", "both"])
def test_the_log_is_replaced_while_it_is_being_opened(
    path: Path, suffixes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody deletes it between SQLite's opening it and our looking at it, and another process creates it again."""
    LocalStore(path).write([row(1, 1)])
    looks = LocalStore._look
    others: list[subprocess.Popen[str]] = []
    script = """
        import contextlib, sqlite3, sys
        with contextlib.closing(sqlite3.connect(sys.argv[1])) as connection:
            # It may find the log shorter than the index of the old one says.
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("SELECT count(*) FROM traces").fetchall()
            print("open", flush=True)
            sys.stdin.readline()
            print(*connection.execute("SELECT count(*) FROM traces").fetchone())
    """

    def look(self: LocalStore) -> object:
        if not others:
            remove(*suffixes)(path)
            others.append(run(script, path, stdin=subprocess.PIPE))
            assert others[0].stdout is not None
            assert others[0].stdout.readline() == "open\n"
        return looks(self)

    store = LocalStore(path)
    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "_look", look)
        store.write([row(2, 1)])
    [other] = others
    # The store is still open: other processes see what was written.
    assert other.communicate("\n", timeout=60) == ("2\n", "")
    store.close()
    assert integrity(path) == "ok"


@needs_posix
def test_the_log_is_deleted_under_several_processes(path: Path) -> None:
    """A process that writes when another one has left the deleted log changes to the new one, too."""
    script = """
        import logging, sys, time
        logging.basicConfig(format="%(message)s")
        sys.path.insert(0, ".")
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.builders import noise, row
        store = LocalStore(sys.argv[1])
        for number in range(1, 101):
            store.write([row(int(sys.argv[2]) * 1000 + number, span) for span in range(1, 4)])
            if number % 25 == 0:
                print("written", flush=True)
                sys.stdin.readline()
            time.sleep(0.002)
        store.close()
    """
    processes = [run(script, path, number, stdin=subprocess.PIPE) for number in (1, 2, 3)]
    for act in (remove("-wal"), remove("-wal", "-shm"), remove("-shm"), remove("-wal")):
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
        act(path)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
    for process in processes:
        finished(process)
    found = LocalStore(path).search(limit=1000)
    assert len(found) == 300
    assert {summary.span_count for summary in found} == {3}
    assert integrity(path) == "ok"
    assert not set_asides(path)


@needs_posix
@pytest.mark.parametrize("act", [remove(""), remove("", "-wal", "-shm")], ids=["file", "all"])
def test_the_file_is_deleted_under_the_server(
    server: Server, path: Path, act: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    server.serve()
    act(path)
    assert server.serve()
    server.check(lost=10)
    assert not caplog.records


@needs_posix
@pytest.mark.parametrize(
    "act",
    [cut("", 0), cut("", 0.5), cut("", 0.9), cut("-wal", 0), cut("-wal", 0.5)],
    ids=["empty", "half", "most", "log-empty", "log-half"],
)
@pytest.mark.parametrize("moved", [False, True], ids=["in-the-log", "in-the-file"])
def test_the_file_is_cut_under_the_server(
    server: Server, path: Path, act: Callable[[Path], None], moved: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Either nothing is lost, or the file is set aside with what was stored before."""
    server.serve(50)
    if moved:
        move_log_to_file(path)
    server.serve()
    act(path)
    assert server.serve()
    assert server.serve()
    server.check(lost=60 if set_asides(path) else 0)
    assert len(caplog.records) == len(set_asides(path)) <= 1


@needs_posix
def test_a_log_that_was_used_up_is_no_fault(server: Server, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody runs ``PRAGMA wal_checkpoint(TRUNCATE)``: the log is shorter than before."""
    server.serve()
    move_log_to_file(path)
    assert server.serve()
    server.check()
    assert not set_asides(path)
    assert not caplog.records


@needs_posix
def test_a_file_that_was_extended_in_part(path: Path) -> None:
    """A process was killed, or had no space, while it moved pages from the log: the log still has what is missing."""
    script = """
        import resource, sqlite3, sys
        sys.path.insert(0, ".")
        from pathlib import Path
        from django_tracing.sqlite_file import looks_cut
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.builders import noise, row
        store = LocalStore(sys.argv[1])
        store.write([row(number, attributes={"x": noise(500)}) for number in range(1, 200)])
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        connection = sqlite3.connect(sys.argv[1])
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.OperationalError as error:
            print(error)
        connection.close()
        print(looks_cut(Path(sys.argv[1])))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        store.write([row(200)])
        print(len(store.search(limit=1000)))
        store.close()
    """
    assert finished(run(script, path)).splitlines() == ["disk I/O error", "True", "200"]
    assert integrity(path) == "ok"
    assert not set_asides(path)


# ----- A file that can't be written for a while


def test_the_file_is_locked_for_a_minute(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans wait, as many as the queue holds; one line when it begins, one when it ends."""
    server.serve()
    monkeypatch.setattr(file_module, "BUSY_TIMEOUT", 0.01)
    server.store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(5):
            assert not server.serve()
        assert server.queue.queued == 50
        other.execute("ROLLBACK")
    assert server.serve()
    server.check()
    assert (server.exported, server.dropped) == (70, 0)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Spans can't be sent",
        "Spans are sent again; 0 were dropped meanwhile.",
    ]
    assert "in use by others" in caplog.text


@needs_posix
def test_the_file_and_its_folder_are_read_only_for_a_while(without_coverage: None) -> None:
    script = """
        # Import before changing the user, who may not be able to read the modules.
        import logging, os, sys, tempfile
        sys.path.insert(0, ".")
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        from pathlib import Path
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.readers.sqlite.servers import Server
        if os.geteuid() == 0:
            os.setuid(65534)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "traces.sqlite3"
            server = Server(LocalStore(path))
            print(server.serve())
            server.store.close()
            os.chmod(path, 0o400)
            os.chmod(folder, 0o500)
            print([server.serve() for _ in range(3)])
            os.chmod(folder, 0o700)
            os.chmod(path, 0o600)
            print(server.serve())
            counted = server.queue.counters.snapshot()
            print(counted["exported"], counted["dropped"], len(server.ids), len(server.store.search(limit=100)))
            server.queue.shutdown()
            server.store.close()
        """
    out = finished(run(script)).splitlines()
    lines = [line for line in out if line.startswith("Spans")]
    assert [line for line in out if line not in lines] == ["True", "[False, False, False]", "True", "50 {} 50 50"]
    assert ["can't be written or opened" in line for line in lines] == [True, False]


def test_a_corrupt_file(server: Server, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server.serve(100)
    move_log_to_file(path)
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    server.store.close()
    path.write_bytes(content)
    assert server.serve()
    server.check(lost=100)
    assert len(set_asides(path)) == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE traces SET seq = 9223372036854775807 WHERE seq = 1",
        "DROP TABLE chunks",
        "DROP TABLE parts",
        "ALTER TABLE traces RENAME COLUMN user TO users",
    ],
)
def test_another_program_changes_the_tables(
    server: Server, path: Path, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    """So that this app can't write to them any more."""
    server.serve()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    assert server.serve()
    server.check(lost=10)
    assert len(set_asides(path)) == len(caplog.records) == 1


# ----- Clocks


@pytest.mark.parametrize("step", [DAY, -DAY, -20 * 365 * DAY], ids=["a-day-forwards", "a-day-backwards", "years"])
def test_a_clock_that_steps(
    path: Path, step: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Traces are deleted in the order in which they were stored. Nothing else depends on the clock."""
    store = LocalStore(path, max_traces=40)
    queue = QueueProcessor(LocalExporter(store.store), export_interval=60, shutdown_timeout=1)
    now = time.time()
    for number, offset in enumerate((0, step, 0)):
        monkeypatch.setattr(time, "time", lambda offset=offset: now + offset)
        monkeypatch.setattr(time, "time_ns", lambda offset=offset: int((now + offset) * 1e9))
        recorder = Recorder()
        start = int((now + offset) * 1e9) + number
        for _ in range(20):
            recorder.tracer.start_span("work", start_time=start).end(start + 10**6)
        end(queue, list(recorder.spans))
        assert queue.force_flush()
    assert (queue.counters.snapshot()["exported"], queue.counters.dropped_total(), queue.queued) == (60, 0, 0)
    found = store.search(limit=100)
    # The last 40, and in the list the newest first.
    assert sorted(round((summary.start / 1e9 - now) / DAY) for summary in found) == sorted(
        [0] * 20 + [step // DAY] * 20
    )
    assert [summary.start for summary in found] == sorted((summary.start for summary in found), reverse=True)
    assert len(store.search(start=now - 3600, end=now + 3600, limit=100)) == 20
    assert store.routes()[0].count == 40
    assert not caplog.records
    queue.shutdown()
    store.close()


def test_an_age_is_measured_by_the_clock_of_the_machine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day forwards, old traces are deleted. A day backwards, traces of the future are kept; the newest always is."""
    store = LocalStore(path, max_age=3600)
    now = NOON / 1e9
    kept = []
    for number, offset in enumerate((0, 0, DAY, 0, 0), 1):
        monkeypatch.setattr(time, "time", lambda offset=offset: now + offset)
        store.write([row(number, base=NOON + offset * 10**9)])
        kept.append(sorted(int(summary.trace_id, 16) for summary in store.search()))
    assert kept == [[1], [1, 2], [3], [3, 4], [3, 4, 5]]
    store.close()


def test_a_clock_that_steps_while_a_span_is_open(store: LocalStore) -> None:
    """The span ends before it starts."""
    store.write([row(1, start=10, took=-20), row(1, 2, 1, start=5)])
    (found,) = store.search()
    assert found.start == NOON + 5_000_000
    assert found.duration >= 0
    trace = store.trace(found.trace_id)
    assert trace is not None
    assert min(span.duration for span in trace.spans) == 0


# ----- A crash of the machine


def test_a_crash_of_the_machine_damages_no_file(store: LocalStore) -> None:
    """SQLite's setting for that, with the log: without it, the order in which pages reach the disk is not known.

    ``FULL`` would wait for the disk with each batch, and saves the last batches only.
    """
    store.write([row()])
    connection = store._open_writer()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    # https://www.sqlite.org/pragma.html#pragma_synchronous: 1 is NORMAL.
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
