"""Test that the figures kept for each trace are those computed from its spans."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_tracing.exceptions import StoreError
from django_tracing.export.local import LocalExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.traces.analysis.dependencies import links_of
from django_tracing.traces.analysis.routes import routes_of
from django_tracing.traces.model import Dependency, RouteStatistics, Trace
from django_tracing.traces.readers.sqlite.figures import FigureKeeper
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.export.builders import make_spans
from tests.export.queues import end
from tests.jaegers import wait_until
from tests.traces.builders import MS, NOON, row
from tests.traces.readers.sqlite.helpers import set_asides

ATTRIBUTES: list[dict[str, Any]] = [
    {},
    {"db.system": "postgresql", "db.name": "shop"},
    {"operation.type": "cache", "cache.system": "redis", "cache.alias": "default"},
    {"http.method": "GET", "peer.service": "billing"},
    {"operation.type": "circuit_breaker", "circuit_breaker.name": "mail", "circuit_breaker.state": "open"},
    {"operation.type": "circuit_breaker", "circuit_breaker.name": "mail", "circuit_breaker.state": "closed"},
]


@st.composite
def spans(draw: st.DrawFn) -> dict[str, Any]:
    """Generate a span of one of a few traces, whose parent may be missing, or below it."""
    return row(
        draw(st.integers(1, 5)),
        draw(st.integers(1, 8)),
        draw(st.integers(0, 9)),
        draw(st.sampled_from(["GET /a", "GET /b", "view.a", "db.select.x"])),
        start=draw(st.integers(-5, 20)),
        took=draw(st.integers(0, 20)),
        kind=draw(st.sampled_from(["internal", "client", "server", "consumer"])),
        service=draw(st.sampled_from(["shop", "billing"])),
        status=draw(st.sampled_from(["unset", "error"])),
        attributes=draw(st.sampled_from(ATTRIBUTES)),
    )


def stored_traces(store: LocalStore, since: float | None = None) -> list[Trace]:
    """Return the whole traces in the order in which they were stored."""
    if not store.path.exists():
        return []
    with closing(sqlite3.connect(store.path)) as connection:
        ids = [trace_id for (trace_id,) in connection.execute("SELECT trace_id FROM traces ORDER BY seq")]
    found = [store.trace(trace_id) for trace_id in ids]
    return [trace for trace in found if trace is not None and (since is None or trace.start >= since * 1e9)]


def computed(store: LocalStore, since: float | None = None) -> tuple[list[RouteStatistics], list[Dependency]]:
    """Return the routes and the links computed from the whole traces."""
    traces = stored_traces(store, since)
    return routes_of(traces), sorted(links_of(traces), key=lambda link: (link.caller, link.kind, link.callee))


def shown(store: LocalStore, since: float | None = None) -> tuple[list[RouteStatistics], list[Dependency]]:
    """Return the routes and the links as the pages read them."""
    return store.routes(start=since), store.dependencies(start=since).links


def counts(store: LocalStore) -> dict[str, tuple[int, int | None]]:
    """Return, by trace, how many spans it has, and of how many its figures are."""
    with closing(sqlite3.connect(store.path)) as connection:
        rows = connection.execute(
            "SELECT t.trace_id, t.span_count, f.span_count FROM traces t LEFT JOIN figures f ON f.trace = t.seq"
        )
        return {trace_id: (span_count, of) for trace_id, span_count, of in rows}


def rest(store: LocalStore) -> None:
    """Compute all figures but those of the last write, as the queue does when nothing waits."""
    while store.work_in_pause():
        pass


def outdated(store: LocalStore) -> list[str]:
    return [trace_id for trace_id, (span_count, of) in counts(store).items() if span_count != of]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(spans(), min_size=1, max_size=12)), min_size=1, max_size=6),
    st.integers(1, 6),
)
def test_kept_figures_are_those_of_the_whole_traces(
    batches: list[tuple[bool, list[dict[str, Any]]]], max_traces: int
) -> None:
    """Whatever arrives late, in any order, from two processes, and whatever is evicted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.sqlite3"
        one, other = LocalStore(path, max_traces=max_traces), LocalStore(path, max_traces=max_traces)
        since = (NOON + 5 * MS) / 1e9
        for first, batch in batches:
            (one if first else other).write(batch)
            assert shown(one) == computed(one)
            assert shown(one, since) == computed(one, since)
        for number in range(2):
            one.write([row(100 + number, start=100)])
        rest(one)
        # The trace that was written last may go on.
        assert outdated(one) == [f"{101:032x}"]
        assert shown(other) == computed(other)
        with closing(sqlite3.connect(path)) as connection:
            kept = connection.execute("SELECT (SELECT count(*) FROM figures), (SELECT count(*) FROM traces)")
            figures, traces = kept.fetchone()
            assert figures == traces - 1
        one.close()
        other.close()


def test_the_figures_of_one_service(store: LocalStore) -> None:
    store.write(
        [row(1, 1, 0, "GET /a", kind="server", took=9), row(1, 2, 1, "GET /b", kind="server", service="billing")]
    )
    assert [route.name for route in store.routes()] == ["GET /b", "GET /a"]
    assert [route.name for route in store.routes(service="billing")] == ["GET /b"]


def test_pages_of_figures_read_no_spans(store: LocalStore, path: Path) -> None:
    breaker = ATTRIBUTES[4]
    for number in range(1, 4):
        store.write(
            [
                row(number, 1, 0, "GET /a", kind="server", took=10 + number),
                row(number, 2, 1, "circuit_breaker.mail", start=1, attributes=breaker),
                row(number, 3, 1, "GET /b", kind="server", service="billing", start=3),
            ]
        )
    store.write([row(4, 1, 0, "GET /c")])
    rest(store)
    before = shown(store)
    assert before == computed(store)
    assert [link.kind for link in before[1]] == ["breaker", "service"]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM chunks WHERE last_trace < 4")
    assert shown(store) == before


def test_a_busy_process_computes_no_figures(store: LocalStore) -> None:
    """Its requests would wait. Whoever reads has the same figures, and they are kept after a pause."""
    assert not store.work_in_pause()
    for number in range(1, 6):
        store.write([row(number, 1, 0, "GET /a", kind="server", took=number)])
    assert outdated(store) == [f"{number:032x}" for number in range(1, 6)]
    assert shown(store) == computed(store)
    rest(store)
    assert outdated(store) == [f"{5:032x}"]
    assert shown(store) == computed(store)


def test_the_queue_computes_them_in_pauses(store: LocalStore) -> None:
    """Also those of a busy time, after which no other spans come."""
    queue = QueueProcessor(LocalExporter(store.store, store.work_in_pause), batch_size=10, export_interval=0.05)
    for _ in range(4):
        end(queue, make_spans(10))
        assert queue.force_flush()
    wait_until(lambda: len(outdated(store)) == 10, "the figures of all but the last write")
    end(queue, make_spans(1))
    wait_until(lambda: len(outdated(store)) == 1, "the figures of all but the last write")
    queue.shutdown()


def test_a_busy_queue_lets_them_wait(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue whose spans fill a batch in an interval."""

    class Waited(Exception):
        pass

    def wait(seconds: float) -> None:
        raise Waited

    queue = QueueProcessor(LocalExporter(store.store, store.work_in_pause), batch_size=10, export_interval=0.05)
    monkeypatch.setattr(queue._changed, "wait", wait)
    for accepted, busy in ((10, True), (19, False), (40, True), (49, False)):
        queue._work_at, queue._next_send = 0.0, float("inf")
        queue._accepted = queue._settled = accepted
        with queue._lock, pytest.raises(Waited) if busy else nullcontext():
            queue._wait_for_step()


def test_late_spans_are_added_to_the_figures(store: LocalStore) -> None:
    store.write([row(1, 2, 1, "db.select.x", kind="client", took=4, attributes=ATTRIBUTES[1])])
    assert store.routes() == []
    store.write([row(1, 1, 0, "GET /a", kind="server", took=9)])
    (route,) = store.routes()
    assert (route.count, route.time_by_work) == (1, {"python": 5 * MS, "sql": 4 * MS})
    # The trace may have grown to its end, so its figures are kept with the next one's.
    rest(store)
    assert outdated(store) == [f"{1:032x}"]
    store.write([row(2)])
    rest(store)
    assert outdated(store) == [f"{2:032x}"]


def test_a_trace_that_grows_is_not_read_after_each_write(store: LocalStore) -> None:
    """Otherwise its last spans would take as long to store as all spans before."""
    for batch in range(5):
        store.write([row(1, 1 + batch)])
        rest(store)
    assert counts(store) == {f"{1:032x}": (5, None)}
    # Neither is a request that is still running.
    for batch in range(5):
        store.write([row(2, 2 + batch, 1)])
        rest(store)
    assert counts(store)[f"{2:032x}"] == (5, None)


def test_few_figures_are_computed_after_each_write(
    store: LocalStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version filled the file, or wrote to it: no write takes long, and all figures are computed in the end."""
    monkeypatch.setattr(FigureKeeper, "SLICE", 100)
    monkeypatch.setattr(FigureKeeper, "WINDOW", 40)
    store.write([row(trace, span, 1 if span > 1 else 0) for trace in range(1, 201) for span in range(1, 6)])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM figures")
    expected = computed(store)
    assert shown(store) == expected
    left = [len(outdated(store))]
    store.write([row(1000)])
    left.append(len(outdated(store)))
    while left[-1] > 1:
        store.work_in_pause()
        left.append(len(outdated(store)))
        assert left[-2] - left[-1] <= 100 / 5
        assert len(left) < 50
    assert len(left) > 5
    assert shown(store) == computed(store)


def test_a_trace_of_any_length_gets_its_figures(
    store: LocalStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FigureKeeper, "MOST_SPANS", 10)
    store.write([row(1, span, 1 if span > 1 else 0) for span in range(1, 101)])
    store.write([row(1, 101, 1)])
    while f"{1:032x}" in outdated(store):
        store.write([row(2 + len(counts(store)))])
        rest(store)
        assert len(counts(store)) < 50


@pytest.mark.parametrize(
    "damage", ["UPDATE chunks SET message = 'x'", "UPDATE chunks SET message = substr(message, 1, 50)"]
)
def test_a_damaged_span_is_no_reason_to_lose_others(store: LocalStore, path: Path, damage: str) -> None:
    store.write([row(1, 2, 1, "circuit_breaker.mail", attributes=ATTRIBUTES[4])])
    store.write([row(1, 1, 0, "GET /a", kind="server")])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    store.write([row(2, 1, 0, "GET /a", kind="server")])
    store.write([row(3)])
    rest(store)
    # The last one may go on.
    assert set(outdated(store)) == {f"{number:032x}" for number in (1, 3)}
    assert len(store.search()) == 3
    assert not set_asides(path)
    with pytest.raises(StoreError, match="damaged|can't be used"):
        store.routes()


#: What another program may write into a column, as SQL.
GARBAGE = [
    *("NULL", "0", "-1", "1.5", "1e999", "9223372036854775807", "'x'", "''", "x'ff00'", "CAST(x'ff' AS TEXT)"),
    *("'null'", "'{}'", "'[[]]'", "'\"x\"'", f"'{'[' * 5000}'", f'\'[["a", "b", 0, [{"9" * 400}], {{}}]]\''),
    """'[["a", "b", 0, [], {}]]'""",
    """'[["a", "b", 0, [Infinity], {"sql": NaN}]]'""",
    """'[["a", "b", 0, [1.5], {"sql": 2}]]'""",
    """'[["a", "b", 0, [5], {"sql": "x"}]]'""",
    """'[[1, 2, 0, [5], {}]]'""",
    """'[["a", "service", "b", Infinity, 0]]'""",
    """'[["a", "service", 5, 1, 0]]'""",
    """'[["a", "breaker", "b", 1, 0]]'""",
    """'[["mail", 1, 2, 5]]'""",
]


def sound(found: tuple[list[RouteStatistics], list[Dependency]]) -> bool:
    """Return whether pages can show the routes and the links."""
    routes, links = found
    texts = [text for route in routes for text in (route.service, route.name)]
    texts += [text for link in links for text in (link.caller, link.kind, link.callee, link.state)]
    numbers = [number for route in routes for number in (route.count, route.p50, route.p99, route.slowest)]
    numbers += [number for route in routes for number in route.time_by_work.values()]
    numbers += [number for link in links for number in (link.calls, link.errors)]
    return {*map(type, texts)} <= {str} and {*map(type, numbers)} <= {int} and max(numbers, default=0) < 1e300


def filled(store: LocalStore) -> None:
    for number in (1, 2):
        store.write(
            [
                row(number, 1, 0, "GET /a", kind="server", took=9),
                row(number, 2, 1, "GET /b", kind="server", service="billing", start=1),
                row(number, 3, 2, "circuit_breaker.mail", start=2, service="billing", attributes=ATTRIBUTES[4]),
            ]
        )


def changed_cells(path: Path, table: str, values: Sequence[str], *, without: str) -> Iterator[str]:
    """Write garbage into one column after the other, and then what was in it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        columns = [name for _number, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        connection.execute(f"CREATE TABLE copied AS SELECT rowid AS place, * FROM {table}")
        for column in columns:
            if column == without:
                continue
            for garbage in values:
                with suppress(sqlite3.IntegrityError):
                    connection.execute(f'UPDATE {table} SET "{column}" = {garbage} WHERE rowid <= 3')
                    yield f"{column} = {garbage[:50]}"
                    names = ", ".join(f'"{name}"' for name in columns)
                    connection.execute(
                        f"REPLACE INTO {table} (rowid, {names}) SELECT place, {names} FROM copied WHERE place <= 3"
                    )


def test_figures_that_another_program_changed_are_computed_from_the_spans(store: LocalStore, path: Path) -> None:
    filled(store)
    expected = computed(store)
    for change in changed_cells(path, "figures", GARBAGE, without="trace"):
        assert shown(store) == expected, change


@pytest.mark.parametrize("table", ["chunks", "traces"])
def test_damaged_rows_are_no_reason_to_lose_others(store: LocalStore, path: Path, table: str) -> None:
    store.max_age = 1e9
    filled(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Where the ring begins and ends depends on seq.
        for number, change in enumerate(changed_cells(path, table, GARBAGE[4:13], without="seq")):
            connection.execute("DELETE FROM figures")
            store.write([row(100 + number)])
            rest(store)
            trace_id = (f"{100 + number:032x}",)
            assert connection.execute("SELECT 1 FROM traces WHERE trace_id = ?", trace_id).fetchone(), change
            with suppress(StoreError):
                assert sound(shown(store)), change
    assert not set_asides(path)
