"""Test how many of this app's files there are, and how many of them a process holds open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import row

needs_linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")


def held(folder: Path) -> list[str]:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return [target for target in map(os.readlink, filter(os.path.islink, links)) if target.startswith(str(folder))]


@needs_linux
def test_a_process_holds_a_bounded_number_of_files(tmp_path: Path) -> None:
    for number in range(100):
        store = LocalStore(tmp_path / f"{number}.sqlite3")
        store.write([row()])
        store.close()
        assert len(store.search()) == 1
    assert len(held(tmp_path)) <= 32
    for number in range(100):
        assert len(LocalStore(tmp_path / f"{number}.sqlite3").search()) == 1


@needs_linux
def test_deleting_frees_space_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite3"
    for _ in range(5):
        store = LocalStore(path)
        store.write([row()])
        store.close()
        assert len(store.search()) == 1
        path.unlink()
    store.write([row()])
    store.close()
    assert store.search()
    assert [target for target in held(tmp_path) if target.endswith("(deleted)")] == []


def test_a_bounded_number_of_damaged_files_is_kept(tmp_path: Path) -> None:
    """What damages the file once may damage it every minute."""
    path = tmp_path / "traces.sqlite3"
    for day in range(1, 6):
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"traces.sqlite3.corrupt-2026010{day}-000000-1{suffix}").touch()
    others = [tmp_path / name for name in ("traces.sqlite3.backup", "other.sqlite3.corrupt-20260101-000000-1")]
    for other in others:
        other.touch()
    path.write_bytes(b"damaged")
    store = LocalStore(path)
    store.write([row()])
    store.close()
    left = sorted(each.name for each in tmp_path.glob("traces.sqlite3.corrupt-*"))
    assert left[:-1] == [
        f"traces.sqlite3.corrupt-2026010{day}-000000-1{suffix}" for day in (4, 5) for suffix in ("", "-shm", "-wal")
    ]
    assert (tmp_path / left[-1]).read_bytes() == b"damaged"
    assert all(other.exists() for other in others)


def test_a_file_that_is_damaged_again_and_again_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "traces.sqlite3"
    store = LocalStore(path)
    for number in range(1, 6):
        path.write_bytes(b"damaged")
        store.write([row(number)])
        assert [int(summary.trace_id, 16) for summary in store.search()] == [number]
        store.close()
    assert len(caplog.records) == 1
