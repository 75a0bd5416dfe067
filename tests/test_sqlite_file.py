"""Test how many of this app's files a process holds open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import row

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")


def held(folder: Path) -> list[str]:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return [target for target in map(os.readlink, filter(os.path.islink, links)) if target.startswith(str(folder))]


def test_a_process_holds_a_bounded_number_of_files(tmp_path: Path) -> None:
    for number in range(100):
        store = LocalStore(tmp_path / f"{number}.sqlite3")
        store.write([row()])
        store.close()
        assert len(store.search()) == 1
    assert len(held(tmp_path)) <= 32
    for number in range(100):
        assert len(LocalStore(tmp_path / f"{number}.sqlite3").search()) == 1


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
