"""Test the limits of a trace that grows without end, for example because a traceparent is repeated."""

from __future__ import annotations

import json
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_tracing.exceptions import StoreError
from django_tracing.protobuf import field
from django_tracing.semconv.facts import EncodedSection, facts_of
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.readers.sqlite import store as local
from django_tracing.traces.readers.sqlite.chunks import ChunkReader
from django_tracing.traces.readers.sqlite.store import LocalStore
from django_tracing.traces.text import render_list, render_trace
from django_tracing.traces.values import DEEPEST
from tests.traces.builders import NOON, row

ONE = f"{1:032x}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".tracing" / "traces.sqlite3"


@pytest.fixture
def make(path: Path) -> Iterator[Callable[..., LocalStore]]:
    stores: list[LocalStore] = []

    def make(**options: Any) -> LocalStore:
        stores.append(LocalStore(path, **options))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def request_of(number: int, **changes: Any) -> list[dict[str, Any]]:
    """Return the spans of a request with two queries, in the order in which they end and in the same trace each time."""
    root = number * 10
    return [
        row(1, root + 2, root, "db.select.x", start=number * 10 + 1, kind="client"),
        row(1, root + 3, root, "db.select.y", start=number * 10 + 3, kind="client"),
        row(1, root, 0xCA11, "GET /health", start=number * 10, took=9, kind="server", **changes),
    ]


# ----- Storing


def test_a_repeated_traceparent_is_one_trace_with_a_bound(make: Callable[..., LocalStore]) -> None:
    store = make(max_trace_spans=30)
    for number in range(1, 101):
        store.write(request_of(number))
    (summary,) = store.search()
    assert (summary.trace_id, summary.name, summary.span_count, summary.left_out) == (ONE, "GET /health", 300, 270)
    trace = store.trace(ONE)
    assert trace is not None
    assert (len(trace.spans), trace.span_count, trace.left_out, trace.unstored) == (30, 300, 270, 270)
    # The first requests, complete.
    assert [span.name for span in trace.spans].count("GET /health") == 10
    assert summary.duration == (1000 - 10 + 9) * 10**6


def test_left_out_spans_are_mentioned(make: Callable[..., LocalStore]) -> None:
    store = make(max_trace_spans=3)
    store.write(request_of(1) + request_of(2))
    trace = store.trace(ONE)
    assert trace is not None
    text = render_trace(trace)
    assert text.endswith(
        'The earliest 3 of 6 spans. 3 were not stored: TRACING["MAX_TRACE_SPANS"] limits the spans of a trace.'
    )
    assert "6 (3 not stored)" in render_list(store.search())
    assert (trace.as_dict()["span_count"], trace.as_dict()["left_out"]) == (6, 3)
    (found,) = json.loads("".join(jaeger_json(ONE, trace.spans, trace.unstored)))["data"]
    assert found["warnings"] == ["3 more spans were not stored."]


def test_a_trace_within_the_limit_does_not_mention_it(make: Callable[..., LocalStore]) -> None:
    store = make(max_trace_spans=3)
    store.write(request_of(1))
    trace = store.trace(ONE)
    assert trace is not None
    assert trace.left_out == 0
    assert "earliest" not in render_trace(trace)
    assert "not stored)" not in render_list(store.search())


def test_the_root_that_ends_last_is_stored_beyond_the_limit(make: Callable[..., LocalStore]) -> None:
    """A command makes 1,000 queries, each in its own function. The command starts first and is stored last."""
    store = make(max_trace_spans=100)
    for number in range(500):
        store.write([row(1, 1000 + number, 10, "db.select.x", start=number), row(1, 2000 + number, 20, start=number)])
    store.write([row(1, 10, 2, "first half", took=600), row(1, 20, 2, "second half", took=600)])
    store.write([row(1, 2, 0, "command", took=700)])
    trace = store.trace(ONE)
    assert trace is not None
    (root,) = trace.tree()
    assert (root.span.name, root.orphan) == ("command", False)
    assert sorted(node.span.name for node in root.children) == ["first half", "second half"]
    assert (len(trace.spans), trace.left_out) == (103, 900)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=80),
    st.integers(1, 20),
    st.integers(1, 7),
)
@settings(max_examples=60)
def test_every_span_is_stored_or_counted_once(spans: list[tuple[int, int]], most: int, size: int) -> None:
    """With any tree and any batches, and with batches that are sent again."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder) / "x.sqlite3", max_trace_spans=most)
        rows = list({number: row(1, number, parent) for number, parent in spans}.values())
        for begin in range(0, len(rows), size):
            store.write(rows[begin : begin + size])
            if begin + size <= most:
                store.write(rows[begin : begin + size])
        trace = store.trace(ONE)
        store.close()
        assert trace is not None
        assert trace.span_count == len(rows)
        assert len({span.span_id for span in trace.spans}) == len(trace.spans) <= most + max(most // 10, 1)
        assert len(trace.spans) >= min(most, len(rows))


def test_an_endless_chain_has_the_same_limit(make: Callable[..., LocalStore]) -> None:
    store = make(max_trace_spans=100)
    # Each is the parent of the previous span, in the order in which spans end.
    for number in range(1, 1001):
        store.write([row(1, number, number + 1)])
    trace = store.trace(ONE)
    assert trace is not None
    assert (len(trace.spans), trace.left_out) == (110, 890)


def test_processes_share_the_limit(path: Path) -> None:
    stores = [LocalStore(path, max_trace_spans=50) for _ in range(4)]

    def write(number: int) -> None:
        for count in range(20):
            stores[number].write(request_of(1 + number * 20 + count))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    (summary,) = stores[0].search()
    trace = stores[0].trace(ONE)
    for store in stores:
        store.close()
    assert trace is not None
    assert summary.span_count == trace.span_count == 240
    # The request that reached the limit is complete.
    assert 50 <= len(trace.spans) <= 51


class _Counting:
    """Count the steps of SQLite's virtual machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        connect = LocalStore._connect

        def counted(store: LocalStore) -> sqlite3.Connection:
            connection = connect(store)
            connection.set_progress_handler(self.count, 10)
            return connection

        monkeypatch.setattr(LocalStore, "_connect", counted)

    def count(self) -> int:
        self.steps += 1
        return 0

    def of(self, store: LocalStore, batches: list[list[dict[str, Any]]]) -> int:
        before = self.steps
        for batch in batches:
            store.write(batch)
        store.close()
        return self.steps - before


def test_storing_a_span_of_a_long_trace_takes_constant_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """No batch reads or writes stored spans again, neither below the limit nor above it."""
    counting = _Counting(monkeypatch)
    batches = [request_of(number) for number in range(1, 1601)]
    apart = [[{**span, "trace_id": f"{number:032x}"} for span in batch] for number, batch in enumerate(batches, 1)]

    def steps(name: str, batches: list[list[dict[str, Any]]], most: int) -> int:
        return counting.of(LocalStore(tmp_path / f"{name}.sqlite3", max_trace_spans=most), batches)

    many = steps("many", apart, 10_000)
    one = steps("one", batches, 10_000)
    bounded = steps("bounded", batches, 100)
    assert one < 1.5 * many
    assert bounded < 1.5 * many
    assert one < 5 * steps("quarter", batches[:400], 10_000)


# ----- Reading


def test_the_earliest_spans_and_their_ancestors_are_shown(
    make: Callable[..., LocalStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MOST_SPANS", 20)
    store = make()
    # The caller's clock is ahead: its spans seem to be the last.
    store.write([row(1, 1, 0, "POST /", start=9000, took=50), row(1, 2, 1, "http.get.shop", start=9001)])
    store.write([row(1, 10 + number, 2, start=number) for number in range(100)])
    trace = store.trace(ONE)
    assert trace is not None
    (root,) = trace.tree()
    assert root.span.name == "POST /"
    assert {span.start for span in trace.spans} >= {row(start=number)["start"] for number in range(20)}
    assert (len(trace.spans), trace.span_count, trace.unstored) == (22, 102, 0)
    assert render_trace(trace).endswith(
        "The earliest 22 of 102 spans. "
        "The others are in the file that you can download from the trace's page in the admin."
    )


def test_one_span_reads_one_span(make: Callable[..., LocalStore], monkeypatch: pytest.MonkeyPatch) -> None:
    store = make()
    store.write([row(1, number, number // 2, attributes={"number": number}) for number in range(1, 200)])
    read = []
    original = ChunkReader.span
    monkeypatch.setattr(ChunkReader, "span", lambda *args: read.append(1) or original(*args))
    found = store.span(ONE, f"{77:016x}")
    assert found is not None
    assert (found.span.attributes, found.trace_name) == ({"number": 77}, "GET /x")
    assert found.span.resource["host.name"] == "here"
    assert found.trace_start == row()["start"]
    assert len(read) == 1
    assert store.span(ONE, f"{777:016x}") is None
    assert store.span(f"{2:032x}", f"{77:016x}") is None


# ----- Files


@pytest.mark.parametrize("kind", ["otlp", "jaeger"])
def test_the_file_contains_all_stored_spans_in_order(
    kind: str, make: Callable[..., LocalStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MOST_SPANS", 20)
    monkeypatch.setattr(local, "SLICE", 7)
    store = make(max_trace_spans=90)
    store.write(
        [row(1, number, 0, start=-number, service=("shop", "billing")[number % 2]) for number in range(1, 101)]
    )
    found = store.stream(ONE, grouped=kind == "otlp")
    assert found is not None
    if kind == "otlp":
        groups = json.loads("".join(otlp_json(found.spans)))["resourceSpans"]
        assert [len(group["scopeSpans"][0]["spans"]) for group in groups] == [50, 49]
        for group in groups:
            starts = [int(span["startTimeUnixNano"]) for span in group["scopeSpans"][0]["spans"]]
            assert starts == sorted(starts)
    else:
        (data,) = json.loads("".join(jaeger_json(found.trace_id, found.spans, found.unstored)))["data"]
        starts = [span["startTime"] for span in data["spans"]]
        assert starts == sorted(starts)
        assert (len(starts), data["warnings"]) == (99, ["1 more spans were not stored."])
        assert {process["serviceName"] for process in data["processes"].values()} == {"shop", "billing"}


@pytest.mark.parametrize("kind", ["otlp", "jaeger"])
def test_a_file_takes_no_more_memory_for_more_spans(kind: str, make: Callable[..., LocalStore]) -> None:
    store = make(max_trace_spans=100_000)
    sizes = {1: 2_000, 2: 10_000}
    for trace, size in sizes.items():
        for begin in range(0, size, 1000):
            store.write(
                [
                    row(trace, number + 1, number // 2, start=number, attributes={"text": f"{number} " * 30})
                    for number in range(begin, begin + 1000)
                ]
            )

    def peak(trace: int) -> int:
        tracemalloc.start()
        found = store.stream(f"{trace:032x}", grouped=kind == "otlp")
        assert found is not None
        pieces = otlp_json(found.spans) if kind == "otlp" else jaeger_json(found.trace_id, found.spans)
        assert sum(piece.count('"text"') for piece in pieces) == sizes[trace]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)
    # A span takes more than 1,000 bytes, and to know where it is takes less than 500.
    assert peak(2) - peak(1) < 500 * (sizes[2] - sizes[1])


def test_a_trace_deleted_while_it_is_read_ends_the_file(
    make: Callable[..., LocalStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SLICE", 5)
    store = make(max_traces=1)
    store.write([row(1, number) for number in range(1, 21)])
    found = store.stream(ONE)
    assert found is not None
    read = [next(found.spans) for _ in range(5)]
    # The ids of its rows may belong to other traces by now.
    store.write([row(2, number) for number in range(1, 21)])
    with pytest.raises(StoreError, match="left the local store .* while it was read"):
        read += found.spans
    assert {span.trace_id for span in read} == {ONE}


def test_stored_values_that_are_too_deep_are_cut(make: Callable[..., LocalStore]) -> None:
    """As another program may have written them: no function that handles them uses up Python's stack."""
    value = field(0x0A, b"x")
    for _ in range(100_000):
        value = field(0x2A, field(0x0A, value))
    ids = b"\x0a\x10" + (1).to_bytes(16, "big") + b"\x12\x08" + (1).to_bytes(8, "big")
    span = field(0x12, ids + field(0x2A, b"GET /x") + field(0x4A, field(0x0A, b"key") + field(0x12, value)))
    facts = facts_of(1, 1, 0, "GET /x", "internal", NOON, NOON, False, {}, {})
    store = make()
    store.store([EncodedSection("shop", field(0x0A, b""), field(0x0A, b""), span, [facts])])
    for ask in (
        lambda: store.trace(ONE),
        lambda: store.span(ONE, f"{1:016x}"),
        lambda: list(store.stream(ONE).spans),
    ):
        assert ask()
    (shown,) = store.trace(ONE).spans  # type: ignore[union-attr]
    depth = 0
    value = shown.attributes["key"]
    while isinstance(value, list):
        (value,), depth = value, depth + 1
    assert (value, depth) == ("…", DEEPEST)
