"""Test that the local store gives up its oldest traces if its disk is full."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from django_tracing.traces.readers.sqlite import store as store_module
from django_tracing.traces.readers.sqlite.file import StoreFile
from django_tracing.traces.readers.sqlite.room import load_newest, make_room
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import noise, row
from tests.traces.readers.sqlite.helpers import finished, integrity, run
from tests.traces.readers.sqlite.servers import Server, move_log_to_file, seen_by_others

MIB = 1024 * 1024


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes SQLite refuse to extend the file beyond so many pages, as on a full disk."""
    limit = [2**30]
    connect = StoreFile._connect

    def connect_limited(self: StoreFile) -> sqlite3.Connection:
        connection = connect(self)
        connection.execute(f"PRAGMA max_page_count = {limit[0]}")
        return connection

    monkeypatch.setattr(StoreFile, "_connect", connect_limited)
    return lambda pages: limit.__setitem__(0, pages)


def test_a_full_disk_costs_the_oldest_traces(
    server: Server, path: Path, small_disk: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    small_disk(60)
    for _ in range(40):
        assert server.serve()
    assert (server.exported, server.dropped) == (400, 0)
    seen = seen_by_others(path)
    # The newest of all that were stored.
    assert 20 < len(seen) < 300
    assert seen == set(server.ids[-len(seen) :])
    assert path.stat().st_size <= 60 * 4096
    assert integrity(path) == "ok"
    (line,) = [record.getMessage() for record in caplog.records]
    assert "is (almost) full" in line
    assert "oldest traces were deleted to store new ones" in line


def test_spans_that_do_not_fit_on_the_disk_are_kept_in_the_queue(
    server: Server, path: Path, small_disk: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    server.serve(1)
    server.store.close()
    small_disk(10)
    assert not server.serve(500)
    server.store.close()
    small_disk(1000)
    assert server.serve()
    server.check()
    assert server.dropped == 0
    assert ["The disk of the local store" in record.getMessage() for record in caplog.records] == [True, False]


def test_a_disk_that_is_almost_full(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The file does not grow any more: the oldest traces make room for new ones, before it is too late for that."""
    for _ in range(40):
        server.serve()
    move_log_to_file(path)
    size = path.stat().st_size
    monkeypatch.setattr(StoreFile, "_disk", lambda self: (10**12, store_module.DISK_RESERVE - 1))
    for _ in range(40):
        assert server.serve()
    move_log_to_file(path)
    assert path.stat().st_size < size * 1.3
    seen = seen_by_others(path)
    assert 200 < len(seen) < 500
    assert seen == set(server.ids[-len(seen) :])
    assert len(caplog.records) == 1
    monkeypatch.undo()
    for _ in range(40):
        server.serve()
    assert len(seen_by_others(path)) == len(seen) + 400


@pytest.mark.parametrize(
    ("total", "free", "is_short"),
    [
        (10**12, 16 * MIB - 1, True),
        (10**12, 16 * MIB, False),
        # An eighth of a small one.
        (80 * MIB, 10 * MIB - 1, True),
        (80 * MIB, 10 * MIB, False),
    ],
)
def test_what_is_kept_free(
    store: LocalStore, path: Path, monkeypatch: pytest.MonkeyPatch, total: int, free: int, is_short: bool
) -> None:
    monkeypatch.setattr(StoreFile, "_disk", lambda self: (total, free))
    for number in range(1, 41):
        store.write([row(number, attributes={"x": noise(2000)})])
    assert (len(store.search(limit=100)) < 40) is is_short


def test_the_deleted_traces_are_logged_once_an_hour(
    store: LocalStore, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(StoreFile, "_disk", lambda self: (10**12, 0))
    clock = time.monotonic
    written = 0

    def write_more(later: int, most: int) -> list[int]:
        """Write ``most`` traces at a later time, or up to a line in the log. Return the numbers in the log."""
        nonlocal written
        monkeypatch.setattr(time, "monotonic", lambda: clock() + later)
        before = len(caplog.records)
        while most and len(caplog.records) == before:
            most, written = most - 1, written + 1
            store.write([row(written, attributes={"x": noise(2000)})])
        lines = [record.getMessage() for record in caplog.records]
        return [int(re.findall(r"its (\d+) oldest traces were deleted", line)[0]) for line in lines]

    [first] = write_more(0, 100)
    assert write_more(3500, 20) == [first]
    assert sum(write_more(3610, 100)) == written - len(store.search(limit=1000)), "each one was counted, once"


def test_what_is_kept_in_memory_while_the_file_is_created_again(store: LocalStore, path: Path) -> None:
    """Traces of 5,000 spans together, at most, and no more than half of all."""
    for number in range(1, 11):
        store.write([row(number, 1), row(number, 2, 1)])
    store.close()
    with closing(sqlite3.connect(path)) as connection:

        def kept() -> int:
            connection.commit()
            loaded = load_newest(connection)
            columns, traces = loaded["traces"]
            numbers = sorted(trace[columns.index("seq")] for trace in traces)
            assert numbers == list(range(11 - len(numbers), 11))
            assert len(loaded["chunks"][1]) == len(loaded["operations"][1]) == len(numbers)
            return len(numbers)

        assert kept() == 5
        connection.execute("UPDATE traces SET span_count = 2000")
        assert kept() == 2
        connection.execute("UPDATE traces SET span_count = 2500")
        assert kept() == 2
        connection.execute("UPDATE traces SET span_count = 6000")
        assert kept() == 0
        connection.execute("DELETE FROM traces")
        assert load_newest(connection) == {}


@pytest.mark.parametrize(("share", "deleted"), [(0.1, 1), (0.3, 3), (0.9, 9), (1.0, 9)])
def test_how_many_traces_make_room(store: LocalStore, path: Path, share: float, deleted: int) -> None:
    """The newest one is always kept."""
    for number in range(1, 11):
        store.write([row(number)])
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert make_room(connection, 0.0) == 0
        assert make_room(connection, share) == deleted
    assert [int(found.trace_id, 16) for found in store.search()] == list(range(10, deleted, -1))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        make_room(connection, 1.0)
        assert make_room(connection, 1.0) is None
    assert len(store.search()) == 1


FULL = """
    import logging, os, resource, sys
    sys.path.insert(0, ".")
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    from pathlib import Path
    from django_tracing.traces.readers.sqlite import store as module
    from tests.traces.builders import noise, row
    module.STUCK_SECONDS = 0
    store = module.LocalStore(sys.argv[1])
    refused = 0
    def fill(first, last):
        global refused
        for number in range(first, last):
            try:
                store.write([row(number, span, attributes={"x": noise(1500)}) for span in range(1, 21)])
            except module.StoreError as error:
                refused += 1
    def show():
        found = store.search(limit=10_000)
        print(refused, int(found[0].trace_id, 16), int(found[-1].trace_id, 16), len(found))
"""


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)  # noqa: S607
    if done.returncode:
        pytest.skip("needs to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)  # noqa: S607


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")
def test_a_disk_that_other_programs_fill(tmp_path: Path) -> None:
    """A real one of 4 MiB: first the store fills it, then another program what is left, until it frees it again."""
    script = """
    fill(1, 200)
    show()
    with open(sys.argv[1] + ".hog", "wb", buffering=0) as hog:
        try:
            while True:
                hog.write(bytes(4096))
        except OSError:
            pass
    fill(200, 300)
    show()
    os.unlink(sys.argv[1] + ".hog")
    fill(300, 500)
    show()
    store.close()
    """
    with mounted(tmp_path / "disk", "4m"):
        path = tmp_path / "disk" / "traces.sqlite3"
        line, *counts = finished(run(FULL + script, path)).splitlines()
        assert "oldest traces were deleted" in line
        for (refused, newest, oldest, count), expected in zip(
            (map(int, each.split()) for each in counts), (199, 299, 499), strict=True
        ):
            assert (refused, newest) == (0, expected)
            assert 10 < count == newest - oldest + 1 < 150
        assert integrity(path) == "ok"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")
def test_a_disk_that_has_no_space_even_for_deleting(tmp_path: Path) -> None:
    """It is filled while the pages of the newest traces are in the log only: the file is created again with some."""
    script = """
    fill(1, 40)
    show()
    first = os.stat(sys.argv[1]).st_ino
    with open(sys.argv[1] + ".hog", "wb", buffering=0) as hog:
        try:
            while True:
                hog.write(bytes(4096))
        except OSError:
            pass
    module.STUCK_SECONDS = 3600
    fill(40, 80)
    print(refused > 0, os.stat(sys.argv[1]).st_ino == first)
    refused, module.STUCK_SECONDS = 0, 0
    fill(80, 120)
    show()
    print(os.stat(sys.argv[1]).st_ino == first)
    store.close()
    """
    with mounted(tmp_path / "disk", "4m"):
        path = tmp_path / "disk" / "traces.sqlite3"
        before, line, stuck, after, same = finished(run(FULL + script, path)).splitlines()
        assert before == "0 39 1 39"
        assert "oldest traces were deleted" in line
        assert (stuck, same) == ("True True", "False")
        refused, newest, oldest, count = map(int, after.split())
        assert (refused, newest) == (0, 119)
        assert 10 < count == newest - oldest + 1
        assert integrity(path) == "ok"
