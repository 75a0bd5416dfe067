"""Test what the local store keeps: the limits of the ring, and the content of spans."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from django_tracing.conf.loading import load
from django_tracing.exceptions import StoreError
from django_tracing.traces.readers.sqlite.store import LocalStore
from django_tracing.traces.times import FARTHEST
from tests.traces.builders import MS, NOON, noise, row
from tests.traces.readers.sqlite.helpers import finished, integrity, run

# ----- The ring


def test_without_settings_it_has_their_defaults(path: Path) -> None:
    """A limit that is left out is not missing."""
    store, settings = LocalStore(path), load({}, {})
    assert (store.max_traces, store.max_bytes) == (settings.max_traces, settings.max_store_bytes)
    assert (store.max_age, store.max_trace_spans) == (settings.max_trace_age, settings.max_trace_spans)


def test_the_latest_traces_are_kept(path: Path) -> None:
    store = LocalStore(path, max_traces=10)
    for number in range(1, 26):
        store.write([row(number, 1, start=number), row(number, 2, 1, start=number)])
    assert [int(found.trace_id, 16) for found in store.search(limit=100)] == list(range(25, 15, -1))
    store.close()
    connection = sqlite3.connect(path)
    for table, count in (("parts", 10), ("chunks", 10), ("operations", 10), ("traces", 10)):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (count,)
    connection.close()


def test_one_batch_may_be_larger_than_the_ring(path: Path) -> None:
    store = LocalStore(path, max_traces=3)
    store.write([row(number, start=number) for number in range(1, 11)])
    assert [int(found.trace_id, 16) for found in store.search()] == [10, 9, 8]
    store.close()


def test_a_clock_that_is_behind_loses_no_trace(path: Path) -> None:
    store = LocalStore(path, max_traces=2)
    store.write([row(1), row(2)])
    store.write([row(3, base=NOON - 10**15)])
    assert store.trace(f"{3:032x}") is not None
    store.close()


def test_the_file_does_not_grow(path: Path) -> None:
    store = LocalStore(path, max_traces=50)

    def fill(first: int) -> int:
        for number in range(first, first + 100):
            store.write([row(number, span, attributes={"x": noise(500)}) for span in range(1, 11)])
        store.close()
        return path.stat().st_size

    settled = fill(1)
    assert fill(1000) <= settled * 1.25


def test_a_smaller_ring_frees_its_space(path: Path) -> None:
    large = LocalStore(path, max_traces=500)
    large.write([row(number, attributes={"x": noise(2000)}) for number in range(1, 501)])
    large.close()
    before = path.stat().st_size
    small = LocalStore(path, max_traces=5)
    for number in range(1000, 1006):
        small.write([row(number)])
    small.close()
    assert path.stat().st_size < before / 2


def test_traces_of_any_length_are_bounded_by_bytes(path: Path) -> None:
    store = LocalStore(path, max_traces=1000, max_bytes=1_000_000)
    for number in range(1, 101):
        store.write([row(number, span, attributes={"x": noise(500)}) for span in range(1, 51)])
    found = store.search(limit=1000)
    assert found[0].span_count == 50
    assert 5 < len(found) < 60
    assert store.trace(f"{100:032x}") is not None
    store.close()
    assert path.stat().st_size < 2_000_000


def test_one_endless_trace_is_bounded_by_bytes(path: Path) -> None:
    store = LocalStore(path, max_bytes=1_000_000)
    for batch in range(100):
        store.write([row(1, batch * 100 + span, attributes={"x": noise(500)}) for span in range(1, 51)])
    store.close()
    assert path.stat().st_size < 3_000_000


def test_old_traces_are_deleted(path: Path) -> None:
    now = time.time_ns()
    store = LocalStore(path, max_age=3600)
    store.write([row(1, base=now - 7200 * 10**9), row(2, base=now - 1800 * 10**9)])
    store.write([row(3, base=now)])
    assert [int(found.trace_id, 16) for found in store.search()] == [3, 2]
    # The newest trace is kept, whatever its start is.
    store.write([row(4, base=now - 7200 * 10**9)])
    assert store.trace(f"{4:032x}") is not None
    store.close()


# ----- Spans


def test_late_spans_update_the_summary(store: LocalStore) -> None:
    store.write([row(1, 3, 2, "db.select.x", start=5, took=1)])
    assert store.search()[0].name == "db.select.x"
    store.write([row(1, 2, 1, "view.x", start=2, took=6, service="billing", status="error")])
    (found,) = store.search()
    assert (found.name, found.service, found.duration, found.span_count) == ("view.x", "billing", 6 * MS, 2)
    # The span without a parent ends last; its clock may be behind.
    store.write([row(1, 1, 0, "GET /x", start=3, took=10)])
    (found,) = store.search()
    assert (found.name, found.service, found.services) == ("GET /x", "shop", ("shop", "billing"))
    assert (found.start, found.duration) == (NOON + 2 * MS, 11 * MS)
    assert (found.span_count, found.error_count) == (3, 1)
    trace = store.trace(f"{1:032x}")
    assert trace is not None
    assert trace.summary() == found


def test_a_summary_has_the_request_of_the_root_and_the_sql_of_all_spans(store: LocalStore) -> None:
    outer = {
        "http.method": "PUT",
        "http.url": "https://x.test/items/7?token=1",
        "http.status_code": 404,
        "user.id": 5,
    }
    inner = {"http.method": "GET", "http.url": "https://y.test/inner", "http.status_code": 200}
    sql = {"db.system": "postgresql"}
    store.write([row(1, 4, 2, "db.select.x", start=2, took=2, kind="client", attributes=sql)])
    store.write([row(1, 2, 1, "GET /inner", start=0, took=6, kind="server", attributes=inner)])
    (found,) = store.search()
    assert (found.method, found.path, found.status_code, found.user) == ("GET", "/inner", 200, "")
    rows = [
        row(1, 3, 2, "db.select.y", start=3, took=1, kind="client", attributes=sql),
        row(1, 1, 0, "PUT /items/<pk>", start=1, took=9, kind="server", attributes=outer),
    ]
    for _ in range(2):
        store.write(rows)
    (found,) = store.search()
    assert (found.method, found.path, found.status_code, found.user) == ("PUT", "/items/7", 404, "5")
    assert (found.sql_count, found.sql_time) == (2, 3 * MS)
    trace = store.trace(f"{1:032x}")
    assert trace is not None
    assert trace.summary() == found


@pytest.mark.parametrize("key", ["db.operation", "db.operation.name"])
@pytest.mark.parametrize("operation", ["connect", "pool.wait"])
def test_connecting_takes_time_and_is_no_statement(store: LocalStore, key: str, operation: str) -> None:
    sql = {"db.system": "postgresql"}
    store.write(
        [
            row(1, 2, 1, f"db.{operation}", start=0, took=4, kind="client", attributes={**sql, key: operation}),
            row(1, 3, 1, "db.select.x", start=4, took=2, kind="client", attributes={**sql, key: "select"}),
        ]
    )
    (found,) = store.search()
    assert (found.sql_count, found.sql_time) == (1, 6 * MS)
    trace = store.trace(f"{1:032x}")
    assert trace is not None
    assert trace.summary() == found


def test_a_trace_names_at_most_100_services(store: LocalStore) -> None:
    for first in (1, 81, 161):
        store.write([row(1, number, 0, service=f"service-{number}") for number in range(first, first + 80)])
    (found,) = store.search()
    assert set(found.services) == {f"service-{number}" for number in range(1, 101)}
    assert found.span_count == 240


def test_durations_without_a_bound_fit_into_the_summary(store: LocalStore) -> None:
    far = int(FARTHEST * 0.99)
    sql = {"db.system": "x"}
    store.write([row(1, number, 0, "db.x", base=0, end=far, attributes=sql) for number in range(1, 5)])
    assert store.search()[0].sql_count == 4


def test_a_stored_span_is_not_changed_by_another_with_its_id(store: LocalStore) -> None:
    """Whoever knows the ids of a span could otherwise replace it."""
    store.write([row(1, 1, 0, "GET /x", attributes={"user.id": "7"})])
    before = store.search(), repr(store.span(f"{1:032x}", f"{1:016x}"))
    store.write([row(1, 1, 0, "GET /y", attributes={"user.id": "8"}, status="error", took=9)])
    assert (store.search(), repr(store.span(f"{1:032x}", f"{1:016x}"))) == before


def test_a_batch_sent_twice_is_stored_once(store: LocalStore) -> None:
    rows = [row(1, 1), row(1, 2, 1, status="error")]
    store.write(rows)
    store.write(rows)
    (found,) = store.search()
    assert (found.span_count, found.error_count) == (2, 1)


def test_every_field_of_a_span_is_read_back(store: LocalStore) -> None:
    written = row(
        0xABC, 0xDE, 0xF, "naïve \udcff name", kind="client", status="error", status_message="no",
        attributes={"text": "ü\udcff\x00", "flag": True, "number": 1, "float": 1.5, "list": [1, 2], "none": None},
        events=[{"name": "exception", "time": NOON, "attributes": {"exception.type": "E"}}],
        links=[{"trace_id": "b" * 32, "span_id": "c" * 16, "attributes": {"why": "x"}}],
    )  # fmt: skip
    store.write([written])
    trace = store.trace("0" * 29 + "abc")
    assert trace is not None
    (span,) = trace.spans
    # UTF-8 has no lone surrogates.
    assert span.name == "naïve ? name"
    written["attributes"]["text"] = "ü?\x00"
    for key in ("trace_id", "span_id", "parent_id", "kind", "service", "start", "end", "status", "status_message",
                "attributes", "resource", "scope"):  # fmt: skip
        assert getattr(span, key) == written[key], key
    assert [(event.name, event.time, event.attributes) for event in span.events] == [
        ("exception", NOON, {"exception.type": "E"})
    ]
    assert [(link.trace_id, link.span_id, link.attributes) for link in span.links] == [
        ("b" * 32, "c" * 16, {"why": "x"})
    ]


def test_an_invalid_row_loses_only_itself(store: LocalStore) -> None:
    broken = [{}, row(trace_state=None) | {"trace_id": "nonsense"}, row() | {"start": None}, row() | {"end": "soon"},
              row() | {"start": 2**70}, row() | {"start": -(2**70)}, row() | {"end": 2**70}]  # fmt: skip
    store.write([*broken, row(5)])
    assert [int(found.trace_id, 16) for found in store.search()] == [5]
    store.write([])
    store.write(broken)


def test_values_that_json_cannot_represent(store: LocalStore) -> None:
    store.write([row(attributes={"path": Path("/x"), "nan": float("nan")})])
    (span,) = store.trace(f"{1:032x}").spans  # type: ignore[union-attr]
    assert span.attributes["path"] == "/x"


@pytest.mark.parametrize("damage", ["'; DROP TABLE traces; --", '"', "%", "\x00", "\udcff"])
def test_search_accepts_any_text(store: LocalStore, damage: str) -> None:
    store.write([row()])
    assert store.search(service=damage, operation=damage, attributes={damage: damage}) == []
    assert len(store.search()) == 1


def test_reading_keeps_the_lock_of_a_writer_in_the_same_process(store: LocalStore, path: Path) -> None:
    """Otherwise another process would consider itself the last user and delete the log that this process writes to."""
    store.write([row(1)])
    assert store.services() == ["shop"]
    script = """
        import sys
        from django_tracing.traces.readers.sqlite.store import LocalStore
        from tests.traces.builders import row
        store = LocalStore(sys.argv[1])
        store.write([row(2)])
        store.close()
        """
    finished(run(script, path))
    store.write([row(3)])
    assert len(LocalStore(path).search()) == 3
    store.close()
    assert integrity(path) == "ok"
    assert len(LocalStore(path).search()) == 3


def test_a_trace_that_cant_be_read_holds_no_lock(store: LocalStore, path: Path) -> None:
    """A file without a log, as other programs leave it, can't be written to as long as somebody reads it."""
    store.write([row(1, 1), row(1, 2)])
    store.close()
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("UPDATE chunks SET message = x'00'")
    for read in (lambda: store.trace(f"{1:032x}"), lambda: list(store.stream(f"{1:032x}").spans)):  # type: ignore[union-attr]
        with pytest.raises(StoreError) as caught:
            read()
        # The error, with all that its frames refer to, is still in memory.
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("ROLLBACK")
        assert caught.value.reason == "unusable"
    connection.close()
