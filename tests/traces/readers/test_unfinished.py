"""Test traces whose root is not stored, or not yet, on the local store and on real Jaegers of both API versions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from django_tracing.export.local import span_row
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.traces.readers.base import Reader
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.jaegers import Jaeger, wait_until

MS = 1_000_000
NOW = int(time.time()) * 1000 * MS
#: The ids of the traces, and what is expected of each: the newest first.
GATEWAY, RUNNING, UNKNOWN, KILLED = 4, 3, 2, 1
EXPECTED = {
    GATEWAY: ("GET /items", "shop", ("shop", "billing"), "finished"),
    RUNNING: ("POST /checkout", "shop", ("shop", "billing"), "running"),
    UNKNOWN: ("db.select.items", "shop", ("shop",), "running"),
    KILLED: ("POST /orders", "shop", ("shop",), "incomplete"),
}
REQUEST = 0xF


def span(
    trace: int, number: int, parent: int, name: str, start: int, kind: SpanKind, service: str = "shop", **more: Any
) -> ReadableSpan:
    def context(span_id: int) -> SpanContext:
        return SpanContext(trace, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    return ReadableSpan(
        name=name,
        context=context(number),
        parent=context(parent),
        resource=Resource({"service.name": service}),
        instrumentation_scope=InstrumentationScope("django_tracing", "1.0"),
        kind=kind,
        attributes=more,
        start_time=NOW + start * MS,
        end_time=NOW + (start + 10) * MS,
    )


#: The parents 0xF are the spans that are not stored.
SPANS = [
    span(GATEWAY, 1, REQUEST, "GET /items", -1000, SpanKind.SERVER),
    span(GATEWAY, 2, 1, "db.select.items", -999, SpanKind.CLIENT),
    span(GATEWAY, 3, 1, "http.post.billing", -998, SpanKind.CLIENT),
    span(GATEWAY, 4, 3, "POST /charge", -997, SpanKind.SERVER, "billing"),
    span(RUNNING, 1, REQUEST, "db.select.users", -2000, SpanKind.CLIENT),
    span(RUNNING, 2, REQUEST, "http.post.billing", -1990, SpanKind.CLIENT, **{"request.name": "POST /checkout"}),
    span(RUNNING, 3, 2, "POST /charge", -1988, SpanKind.SERVER, "billing"),
    span(UNKNOWN, 1, REQUEST, "db.select.items", -3000, SpanKind.CLIENT),
    span(KILLED, 1, REQUEST, "db.select.users", -700_000, SpanKind.CLIENT, **{"request.name": "POST /orders"}),
]


@pytest.fixture(scope="module", params=["local", "jaeger", "jaeger-1.51"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if request.param == "local":
        store = LocalStore(tmp_path_factory.mktemp("store") / "traces.sqlite3")
        store.write([span_row(each) for each in SPANS])
        yield store
        store.close()
        return
    with Jaeger(request.param) as jaeger:
        exporter = OTLPHTTPExporter(jaeger.otlp_http)
        exporter.export(SPANS)
        exporter.shutdown()
        reader = JaegerReader(jaeger.query)
        wait_until(lambda: len(reader.search()) == len(EXPECTED), "the traces to be found")
        yield reader


def test_names_and_states(reader: Reader) -> None:
    found = reader.search()
    assert {
        int(each.trace_id, 16): (each.name, each.service, each.services, each.state) for each in found
    } == EXPECTED
    assert [int(each.trace_id, 16) for each in found] == list(EXPECTED)
    # A second search, for which a reader may have kept what the first one found.
    assert reader.search() == found


@pytest.mark.parametrize("trace_id", EXPECTED)
def test_the_trace_has_the_same_name_and_state(reader: Reader, trace_id: int) -> None:
    trace = reader.trace(f"{trace_id:032x}")
    assert trace is not None
    assert (trace.topmost.name, trace.topmost.service, trace.services, trace.topmost.state) == EXPECTED[trace_id]


def test_what_is_not_finished_is_in_no_statistics(reader: Reader) -> None:
    assert {(route.service, route.name) for route in reader.routes()} == {
        ("shop", "GET /items"),
        ("billing", "POST /charge"),
    }


def test_a_request_is_finished_when_its_span_has_arrived(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "traces.sqlite3")
    running = [span_row(each) for each in SPANS if each.context.trace_id == RUNNING]
    store.write(running)
    assert [summary.state for summary in store.search()] == ["running"]
    root = span_row(span(RUNNING, REQUEST, 0, "POST /checkout", -2001, SpanKind.SERVER))
    store.write([{**root, "parent_id": ""}])
    assert [(summary.name, summary.state) for summary in store.search()] == [("POST /checkout", "finished")]
    store.close()
