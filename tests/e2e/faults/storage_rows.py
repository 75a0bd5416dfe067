"""List the faults of the local store's disk and file, and of PostgreSQL and Redis."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.e2e.faults.accounts import account, given_up
from tests.e2e.faults.rows import Row, Stage
from tests.jaegers import wait_until
from tests.traces.readers.sqlite.helpers import span_ids

__all__ = ["STORAGE_ROWS"]


def _store(stage: Stage) -> Path:
    return stage.folder / "store" / "traces.sqlite3"


def _local(stage: Stage) -> Mapping[str, Any]:
    path = _store(stage)
    path.parent.mkdir()

    def read() -> set[str]:
        # What can't be read now is read later, or has not arrived.
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)) as connection,
        ):
            return span_ids(connection)[0]
        return set()

    stage.read = read
    return {"EXPORTER": "local", "LOCAL_STORE": str(path)}


def _mount(options: str) -> Callable[[Stage], Mapping[str, Any]]:
    """A file system of its own for the store. Only root may mount it."""

    def prepare(stage: Stage) -> Mapping[str, Any]:
        tracing = _local(stage)
        folder = str(_store(stage).parent)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
        stage.stack.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
        return tracing

    return prepare


def _small(options: str) -> Callable[[Stage], Mapping[str, Any]]:
    """A file system that is soon full. The store deletes its oldest traces to go on: these have arrived, too."""
    mount = _mount(options)

    def prepare(stage: Stage) -> Mapping[str, Any]:
        tracing, read = mount(stage), stage.read
        # Read first: what is deleted meanwhile was either read, or is known to be deleted.
        stage.read = lambda: read() | given_up(stage.folder)
        return tracing

    return prepare


def _remount(options: str) -> Callable[[Stage], None]:
    def lift(stage: Stage) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(_store(stage).parent)], check=True)

    return lift


def _between(change: Callable[[Path], None]) -> Callable[[Stage], None]:
    """``change`` the file of the store in the middle of the load. There is none without tracing."""

    def script(stage: Stage) -> None:
        stage.services.load(50)
        path = _store(stage)
        if path.exists():
            # So that these are known when the file is gone.
            _wait_until_stored(stage)
            change(path)
        stage.services.load(50)

    return script


def _wait_until_stored(stage: Stage) -> None:
    def is_stored() -> bool:
        now = account(stage.folder, stage.arrived)
        return not now.waiting and not now.unaccounted

    wait_until(is_stored, "the spans to be stored")


def _delete(path: Path) -> None:
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def _delete_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def _corrupt(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(0)
        file.write(os.urandom(20_000))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


class _Lock:
    """Another process that holds the file's lock, until it is released."""

    def prepare(self, stage: Stage) -> Mapping[str, Any]:
        tracing = _local(stage)
        self._connection = sqlite3.connect(_store(stage), isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=wal")
        self._connection.execute("BEGIN IMMEDIATE")
        stage.stack.callback(self._connection.close)
        return tracing

    def release(self, stage: Stage) -> None:
        self._connection.rollback()


def _redis_dies(stage: Stage) -> None:
    services, redis = stage.services, stage.databases.redis
    services.load(30)
    with services.in_flight("/faults/pop"):
        redis.stop()
    services.load(30)
    redis.start()
    services.settle()
    services.load(30)


def _postgres_dies(stage: Stage) -> None:
    services = stage.services
    services.load(30)
    with services.in_flight("/faults/query/60"):
        stage.databases.end_postgres()
    services.load(30)
    stage.databases.start_postgres_again()
    services.settle()
    services.load(30)


def _tell(*operations: tuple[str, str]) -> Callable[[Stage], list[str]]:
    """The spans say what failed: operations by their names and the types of their exceptions, and all requests."""

    def check(stage: Stage) -> list[str]:
        failed = [span for span in stage.spans if span.status == "error"]
        found = {
            (span.name, attributes.get("exception.type"))
            for span in failed
            for event, attributes in span.events
            if event == "exception"
        }
        wrong = [
            f"No span {name} has failed with {kind}: {found}"
            for name, kind in operations
            if not any(each.startswith(name) and other == kind for each, other in found)
        ]
        answers = sum(answer.status == 500 for answer in stage.services.answers)
        requests = [span for span in failed if span.kind == "server" and span.service == "api-gateway"]
        told = sum(
            span.attributes["http.status_code"] == 500 and bool(span.attributes["error.type"]) for span in requests
        )
        # The requests that waited for the end of the fault are not among the answers.
        return wrong if told >= answers else [*wrong, f"{answers} answers, but {told} spans have the status 500."]

    return check


_lock = _Lock()
_ROOT = os.name == "posix" and os.geteuid() == 0

STORAGE_ROWS = [
    Row("local store, no fault", _local),
    *(
        [
            Row("local store, disk of 400 KiB full", _small("size=400k"), lift=_remount("size=50m")),
            Row("local store, read-only file system", _mount("ro"), lift=_remount("rw")),
        ]
        if _ROOT
        else []
    ),
    Row("local store, locked", _lock.prepare, lift=_lock.release),
    Row("local store, corrupted while open", _local, _between(_corrupt)),
    Row("local store, truncated while open", _local, _between(_truncate)),
    Row("local store, deleted while open", _local, _between(_delete)),
    Row("local store, its -wal deleted while open", _local, _between(_delete_log)),
    Row(
        "Redis dies in the middle of requests",
        script=_redis_dies,
        check=_tell(
            ("cache.add.rate:*:*", "redis.exceptions.ConnectionError"),
            ("redis.blpop", "redis.exceptions.ConnectionError"),
        ),
        breaks_the_site=True,
    ),
    Row(
        "PostgreSQL dies in the middle of requests",
        script=_postgres_dies,
        check=_tell(("db.connect", "psycopg.OperationalError"), ("db.select", "django.db.utils.OperationalError")),
        breaks_the_site=True,
    ),
]
