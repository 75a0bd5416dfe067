"""Provide a local store in an empty folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.readers.sqlite.servers import Server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".tracing" / "traces.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[LocalStore]:
    store = LocalStore(path)
    yield store
    store.close()


@pytest.fixture
def server(store: LocalStore) -> Iterator[Server]:
    server = Server(store)
    yield server
    server.queue.shutdown()
