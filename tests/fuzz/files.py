"""What the files of this app contain after others wrote to them: the local store, the status file, the spool."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from django.test import override_settings
from hypothesis import strategies as st

from django_tracing.conf.loading import get_settings
from django_tracing.diagnosis.processes import as_reported
from django_tracing.exceptions import ReadError, StoreError
from django_tracing.export.spool import Spool
from django_tracing.management.commands.tracing_status import _as_dict, _row
from django_tracing.models import ProcessStatus
from django_tracing.sampling.figures import StatusError, _InFile
from django_tracing.sampling.status_file import StatusFile
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.fuzz.promises import check_line, check_terminal
from tests.fuzz.running import Target
from tests.fuzz.shown import show, show_links, show_summaries
from tests.traces.builders import NOON, blueprint_trace, exception, row

__all__ = ["TARGETS"]

_folder: list[Path] = []


@contextmanager
def _in_folder() -> Iterator[None]:
    # In memory where there is such a file system: each case writes a file.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        _folder[:] = [Path(folder)]
        try:
            yield
        finally:
            _folder.clear()
            _template.cache_clear()
            _status_template.cache_clear()


def _tolerated(read: Callable[[], Any], *errors: type[Exception]) -> Any:
    """Return what is read. What is wrong with a file is one exception, with a message of one line."""
    try:
        return read()
    except errors as error:
        check_line(str(error), 1001)
        return None


def _fresh(name: str) -> Path:
    """Return the path of a file that there is not. Each case has a folder of its own: SQLite remembers open files."""
    for former in _folder[0].glob("case*"):
        shutil.rmtree(former, ignore_errors=True)
    folder = _folder[0] / f"case{next(_numbers)}"
    folder.mkdir()
    return folder / name


_numbers = itertools.count()


def _copied(template: Path) -> Path:
    return Path(shutil.copyfile(template, _fresh("traces.sqlite3")))


# ----- the local store

_QUERIES: Final = (
    row(2, 1, 0, "GET /items", took=9, kind="server", attributes={"http.url": "http://h/items?a=1", "user.id": "42"}),
    row(2, 2, 1, "db.select.items", start=1, kind="client", attributes={"db.system": "postgresql", "db.statement": "SELECT 1"}),
    row(2, 3, 1, "cache.get.x", start=3, status="error", events=[exception()], links=[{"trace_id": "ab" * 16, "span_id": "cd" * 8, "attributes": {}}]),
    row(2, 4, 0x77, "circuit_breaker.pay", start=4, attributes={"operation.type": "circuit_breaker", "circuit_breaker.name": "pay", "circuit_breaker.state": "open"}),
)  # fmt: skip


@lru_cache(maxsize=1)
def _template() -> Path:
    path = _folder[0] / "template.sqlite3"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    store = LocalStore(path)
    store.write(blueprint_trace())
    store.write([dict(each) for each in _QUERIES])
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


_COLUMNS: Final = {
    "traces": (
        *("trace_id", "name", "service", "services", "has_root", "root_start", "start", '"end"', "span_count"),
        *("error_count", "left_out", "method", "path", "status_code", "user", "sql_count", "sql_time"),
    ),
    "chunks": ("id", "last_trace", "message"),
    "parts": ("trace", "chunk", "ids"),
    "operations": ("service", "name", "chunk"),
    "figures": ("span_count", "routes", "links", "breakers"),
    "awaited": ("span_id",),
    "format": ("version",),
}
_PLACES: Final = tuple((table, column) for table, columns in _COLUMNS.items() for column in columns)
_values = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=12), st.binary(max_size=12),
    st.sampled_from(["[]", "{}", "[1]", '{"a": 1e999}', "null", "[[]]", '{"events": 7}', '["x"]', '{"events": [{}]}']),
)  # fmt: skip


def _sqlite(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, (float, bytes)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else float(10**30)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return json.dumps(value, default=str)


def _edited(path: Path, edits: Any) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for number, edit in enumerate(edits if isinstance(edits, (list, tuple)) else ()):
            if not isinstance(edit, tuple) or len(edit) != 2 or edit[0] not in _PLACES:
                continue
            (table, column), value = edit
            # These have no rowid.
            key = {"parts": "chunk", "operations": "chunk", "awaited": "trace"}.get(table, "rowid")
            with contextlib.suppress(sqlite3.Error):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? WHERE {key} IN (SELECT {key} FROM {table} LIMIT 3 OFFSET ?)",  # noqa: S608
                    (_sqlite(value), number % 2),
                )


def _read_store(path: Path) -> None:
    store = LocalStore(path)
    try:
        for trace_id in (f"{1:032x}", f"{2:032x}"):
            trace = _tolerated(lambda trace_id=trace_id: store.trace(trace_id), ReadError)
            if trace is not None:
                show(trace)
            _tolerated(lambda trace_id=trace_id: store.span(trace_id, f"{3:016x}"), ReadError)
            stream = _tolerated(lambda trace_id=trace_id: store.stream(trace_id, grouped=True), ReadError)
            if stream is not None:
                _tolerated(lambda stream=stream: list(stream.spans), ReadError)
        for query in (
            {},
            {"service": "shop", "operation": "GET /items"},
            {"attributes": {"db.rows": "1"}, "errors": True},
        ):
            found = _tolerated(lambda query=query: store.search(**query), ReadError)
            if found is not None:
                show_summaries(found)
        services = _tolerated(store.services, ReadError)
        for service in services or ():
            _tolerated(lambda service=service: store.operations(service), ReadError)
        routes = _tolerated(store.routes, ReadError)
        if routes is not None:
            json.dumps([route.as_dict() for route in routes])
        links = _tolerated(store.dependencies, ReadError)
        if links is not None:
            show_links(links)
    finally:
        store.close()


def check_edited_store(edits: Any) -> None:
    path = _copied(_template())
    _edited(path, edits)
    _read_store(path)
    _write_store(path)


def _write_store(path: Path) -> None:
    """Spans are stored, or there is one error that says why not."""
    store = LocalStore(path)
    try:
        _tolerated(lambda: store.write([row(2, 9, 1), row(3, 1)]), StoreError)
    finally:
        store.close()


def check_damaged_store(data: bytes) -> None:
    path = _fresh("traces.sqlite3")
    path.write_bytes(data)
    _read_store(path)
    _write_store(path)


def check_damaged_pages(patches: Any) -> None:
    """Bytes of the file, by their place."""
    data = bytearray(_template().read_bytes())
    for patch in patches if isinstance(patches, list) else ():
        if isinstance(patch, tuple) and len(patch) == 2 and isinstance(patch[0], int) and isinstance(patch[1], bytes):
            at = abs(patch[0]) % len(data)
            data[at : at + len(patch[1])] = patch[1][: len(data) - at]
    check_damaged_store(bytes(data))


def check_rows(rows: Any) -> None:
    """Spans of exporters, of which none may lose the others."""
    store = LocalStore(_fresh("traces.sqlite3"))
    try:
        store.write([each for each in rows if isinstance(each, dict)] if isinstance(rows, list) else [])
        store.write([row(9, 1, 0, "after", took=1)])
        assert any(summary.name == "after" for summary in store.search(limit=100))
        for summary in store.search(limit=3):
            trace = _tolerated(lambda summary=summary: store.trace(summary.trace_id), StoreError)
            if trace is not None:
                show(trace)
        store.routes()
        show_links(store.dependencies())
    finally:
        store.close()


# ----- the status of processes

_REPORT: Final = {
    "state": "ok", "exporter": "otlp", "endpoint": "http://c:4318", "queued": 1, "exported": 2, "retries": 0,
    "dropped": {"queue_full_spans": 1}, "dropped_attributes": {"a": 1}, "faults": {"extract": 2}, "last_success_time": NOON / 1e9,
    "last_error": "x", "endpoints": [{"endpoint": "http://c:4318", "available": True}], "spool": {"spans": 7},
    "exporters": [{"exporter": "otlp", "endpoint": "http://c:4318", "endpoints": [], "state": "ok"}],
    "sampling": {"rate": 0.5, "rules": ["half"], "remote": None}, "rules": {"state": "ok"}, "trouble": "none",
}  # fmt: skip


def check_report(report: Any) -> None:
    """What another process reports of itself, as commands and pages show it."""
    from datetime import datetime, timezone

    now = datetime.now(timezone.utc)
    process = ProcessStatus(process="p", service="shop", host="h", pid=1, started=now, updated=now, report=report)
    found = as_reported(process)
    for cell in _row(found):
        check_line(cell, 61)
    check_terminal(json.dumps(_as_dict(found), indent=2, default=str))
    for text in (found.exporter, found.queued, found.dropped, found.last_error, found.faults, found.sampling):
        assert isinstance(text, str)
    assert found.is_troubled in (True, False)


@lru_cache(maxsize=1)
def _status_template() -> Path:
    path = _folder[0] / "template.status.sqlite3"
    file = StatusFile(path, "db")
    now = time.time()
    file.store_status(
        {
            "process": "p",
            "service": "shop",
            "host": "h",
            "pid": 1,
            "started": now,
            "updated": now + 10**8,
            "report": _REPORT,
        },
        90.0,
    )
    file.add_counts(int(now) // 60 * 60, {0: (1, 2), 7: (3, 4)})
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE processes SET database = ''")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


_STATUS_PLACES: Final = (
    *(("processes", column) for column in ("process", "service", "host", "pid", "started", "updated", "report")),
    *(("counts", column) for column in ("rule", "minute", "kept", "passed_over")),
)


def check_status_file(edits: Any) -> None:
    path = Path(shutil.copyfile(_status_template(), _fresh("traces.status.sqlite3")))
    file = StatusFile(path, "db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("processes", "counts"):
            connection.execute(f"UPDATE {table} SET database = ?", (file._database,))  # noqa: S608
        for edit in edits if isinstance(edits, list) else ():
            if isinstance(edit, tuple) and len(edit) == 2 and edit[0] in _STATUS_PLACES:
                (table, column), value = edit
                with contextlib.suppress(sqlite3.Error):
                    connection.execute(f"UPDATE {table} SET {column} = ?", (_sqlite(value),))  # noqa: S608
    _tolerated(lambda: file.processes(0), StatusError)
    _tolerated(lambda: file.counts(0), StatusError)
    # As the command and the page read it, where the site's database is SQLite.
    with override_settings(TRACING={"EXPORTER": "local", "LOCAL_STORE": str(path.with_name("traces.sqlite3"))}):
        source = object.__new__(_InFile)
        source._settings, source._database = get_settings(), "db"
        for process in _tolerated(source.processes, StatusError) or ():
            for cell in _row(as_reported(process)):
                check_line(cell, 61)


# ----- the spool


@lru_cache(maxsize=1)
def _record() -> bytes:
    from tests.export.test_spool import encode

    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), 10**9)
        spool.store(encode(3), sync=False)
        [path] = Path(folder).glob("*.spans")
        return path.read_bytes()


_NAME: Final = "00000000000000000001-1-1-3.spans"


def check_spool(name: str, data: bytes, whole: Any) -> None:
    """A file of any name and content is a whole record, or is removed and counted."""
    folder = _fresh("spool")
    folder.mkdir()
    with contextlib.suppress(OSError, ValueError):
        (folder / os.path.basename(name)).write_bytes(data)
    if whole:
        # The right checksum of any content: anyone can write it.
        from hashlib import blake2b

        from django_tracing.export.spool import _HEADER, _MAGIC

        header = _HEADER.pack(_MAGIC, 3, len(data), blake2b(data, digest_size=16).digest())
        (folder / _NAME.replace("-1-1-", "-1-2-")).write_bytes(header + data)
    spool = Spool(folder, 10**9)
    contents = spool.contents()
    assert contents.spans <= 2 * 9_999_999
    claimed = 0
    while (batch := spool.claim()) is not None:
        claimed += 1
        first, second = batch.split()
        assert first.count + second.count == batch.count
        assert len(first.encoded) + len(second.encoded) <= 3 * len(batch.encoded) + 1000
        spool.remove(batch)
    spool.take_damaged()
    assert claimed <= 2
    assert spool.contents().batches == 0


_edits = st.lists(st.tuples(st.sampled_from(_PLACES), _values), min_size=1, max_size=3)
_status_edits = st.lists(st.tuples(st.sampled_from(_STATUS_PLACES), _values), min_size=1, max_size=3)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)

TARGETS: Final = (
    Target(
        "local store: columns",
        check_edited_store,
        _edits,
        tuple([(place, '{"a": 1, "events": [{"name": "x", "time": 1, "attributes": {}}]}')] for place in _PLACES),
        # They were read, and failed where the trace was shown or written to.
        former=(
            *(
                [(("traces", column), "x")]
                for column in ("root_start", "start", '"end"', "span_count", "error_count", "left_out", "sql_time")
            ),
            *([(("spans", column), "x")] for column in ("start", '"end"', "kind")),
            [(("traces", "name"), b"x")],
            [(("traces", "services"), "[1]")],
            [(("traces", "trace_id"), "ab12cd\r\n")],
            [(("spans", "more"), '{"events": [{"name": 7, "time": "x", "attributes": {}}]}')],
            [(("spans", "attributes"), '{"db.system": ["x"]}')],
            [(("format", "version"), "x")],
        ),
        around=_in_folder,
        linear=False,
        logs=True,
        faults=("aside-",),
        weight=30,
    ),
    Target(
        "local store: bytes",
        check_damaged_pages,
        st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
        tuple([(at, b"\xff\xff")] for at in range(0, 4096 * 10, 997)),
        around=_in_folder,
        linear=False,
        logs=True,
        faults=("aside-",),
        weight=30,
    ),
    Target(
        "local store: spans",
        check_rows,
        st.lists(_json, max_size=3),
        ([dict(each) for each in _QUERIES], blueprint_trace()),
        ("db.system", "operation.type", "http.url", "request.name"),
        around=_in_folder,
        linear=False,
        weight=30,
    ),
    Target("reports of processes", check_report, _json, (_REPORT,), linear=True, weight=2),
    Target(
        "status file",
        check_status_file,
        _status_edits,
        tuple([(place, "x")] for place in _STATUS_PLACES),
        former=([(("processes", "updated"), 1e300)], [(("processes", "started"), -1e300)]),
        around=_in_folder,
        linear=False,
        logs=True,
        weight=15,
    ),
    Target(
        "spool",
        lambda values: check_spool(*values),
        st.tuples(st.just(_NAME) | st.text("0123456789-.spanew", max_size=40), st.binary(max_size=60), st.booleans()),
        ((_NAME, _record(), False), (_NAME, _record()[51:], True), (_NAME.replace("spans", "new"), b"", False)),
        around=_in_folder,
        linear=False,
        weight=6,
    ),
)
