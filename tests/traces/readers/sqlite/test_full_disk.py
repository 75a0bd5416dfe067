"""Test that the local store gives up its oldest traces if its disk is full."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from django_tracing.traces.readers.sqlite import store as store_module
from django_tracing.traces.readers.sqlite.file import StoreFile
from tests.traces.readers.sqlite.helpers import finished, integrity, run
from tests.traces.readers.sqlite.servers import Server, move_log_to_file, seen_by_others


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


FULL = """
    import logging, os, resource, sys
    sys.path.insert(0, ".")
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    from pathlib import Path
    from django_tracing.traces.readers.sqlite import store as module
    from tests.traces.builders import row
    module.STUCK_SECONDS = 0
    store = module.LocalStore(sys.argv[1])
    refused = 0
    def fill(first, last):
        global refused
        for number in range(first, last):
            try:
                store.write([row(number, span, attributes={"x": "y" * 1000}) for span in range(1, 21)])
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
