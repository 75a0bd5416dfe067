"""Pages of traces from a real Jaeger, on each of its storages."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.traces.model import TraceSummary
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from tests.jaegers import Jaeger, wait_until

MS = 1_000_000
NOW = int(time.time() - 1800) * 1000 * MS
TRACES = 120
#: Each trace takes as long as 60 others need to start.
EVERY, TOOK = 50, 3000
SPANS = 6


def opensearch() -> dict[str, Any]:
    # tests/storages.py starts one.
    url = os.environ.get("TEST_OPENSEARCH_URL") or pytest.skip("needs an OpenSearch at TEST_OPENSEARCH_URL")
    return {"opensearch": {"server_urls": [url], "indices": {"index_prefix": f"test-{uuid4().hex[:8]}"}}}


def cassandra() -> dict[str, Any]:
    address = os.environ.get("TEST_CASSANDRA") or pytest.skip("needs a Cassandra at TEST_CASSANDRA, host:port")
    host, _, port = address.partition(":")
    return {
        "cassandra": {
            "schema": {"keyspace": f"test_{uuid4().hex[:8]}", "create": True, "datacenter": "datacenter1"},
            "connection": {"servers": [host], "port": int(port or 9042), "tls": {"insecure": True}},
        }
    }


def storage_of(name: str, folder: Path) -> dict[str, Any]:
    if name == "badger":
        return {"badger": {"directories": {"keys": str(folder / "keys"), "values": str(folder / "values")}}}
    return (
        opensearch()
        if name == "opensearch"
        else cassandra()
        if name == "cassandra"
        else {"memory": {"max_traces": 1000}}
    )


def trace_id(number: int) -> int:
    # Not in the order of their starts.
    return (number * 7919 % 1000 + 1) << 64 | number + 1


def spans_of(number: int) -> list[ReadableSpan]:
    """A request to the shop that calls the billing service when half of it is over, and goes on to its end."""

    def context(span: int) -> SpanContext:
        return SpanContext(trace_id(number), span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def at(span: int) -> int:
        # No two spans start in the same microsecond: of those, Cassandra's index keeps one.
        return NOW + number * EVERY * MS + span * TOOK * MS // SPANS + (number * SPANS + span) * 1000

    return [
        ReadableSpan(
            name="GET /items" if not span else "charge" if span == 3 else f"step {span}",
            context=context(span + 1),
            parent=context(1) if span else None,
            resource=Resource({"service.name": "billing" if span == 3 else "shop"}),
            instrumentation_scope=InstrumentationScope("django_tracing", "1.0"),
            kind=SpanKind.INTERNAL if span else SpanKind.SERVER,
            attributes={"half": "odd" if number % 2 else "even"},
            start_time=at(span),
            end_time=at(SPANS) if not span else at(span + 1),
        )
        for span in range(SPANS)
    ]


@pytest.fixture(scope="module", params=["memory", "badger", "opensearch", "cassandra"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JaegerReader]:
    storage = storage_of(request.param, tmp_path_factory.mktemp("storage"))
    with Jaeger("jaeger", storage=storage) as jaeger:
        exporter = OTLPHTTPExporter(jaeger.otlp_http)
        # In an order in which they may arrive: that of their ends, every fourth much later.
        numbers = sorted(range(TRACES), key=lambda number: number + 500 * (number % 4 == 0))
        # On a loaded machine, Cassandra loses rows of its index. What is written twice is stored once.
        for first in (*range(0, TRACES, 10), *(range(0, TRACES, 10) if request.param == "cassandra" else ())):
            exporter.export([span for number in numbers[first : first + 10] for span in spans_of(number)])
        exporter.shutdown()
        # A loaded machine may take long to answer.
        reader = JaegerReader(jaeger.query, timeout=60)
        for number in range(TRACES):
            wait_until(lambda wanted=number: is_whole(reader, wanted), "a trace to be stored", 60)
        wait_until(lambda: "billing" in reader.services(), "the services to be known", 60)
        # What is stored may be found a second later.
        wait_until(lambda: len(reader.search(service="shop", limit=1000)) == TRACES, "the traces to be found", 60)
        yield reader


def is_whole(reader: JaegerReader, number: int) -> bool:
    trace = reader.trace(f"{trace_id(number):032x}")
    return trace is not None and trace.span_count == SPANS


def pages(reader: JaegerReader, limit: int, **query: Any) -> list[list[TraceSummary]]:
    found: list[list[TraceSummary]] = []
    before = None
    while page := reader.search(limit=limit, before=before, **query):
        found.append(page)
        assert len(found) <= TRACES
        before = page[-1].start, page[-1].trace_id
    return found


@pytest.mark.parametrize(
    "query",
    [
        {"service": "shop"},
        {"service": None},
        # Its span starts long after the trace.
        {"service": "billing"},
        {"service": "shop", "operation": "step 5"},
        {"service": "shop", "attributes": {"half": "odd"}},
        {"service": "shop", "operation": "GET /items", "attributes": {"half": "odd"}},
        {"service": "shop", "min_duration": 2.0},
        {"service": "shop", "min_duration": 2.0, "attributes": {"half": "odd"}},
    ],
    ids=["shop", "all", "billing", "operation", "attribute", "both", "duration", "duration-attribute"],
)
@pytest.mark.parametrize("limit", [7, 20])
def test_each_trace_is_on_one_page_and_in_order(reader: JaegerReader, query: dict[str, Any], limit: int) -> None:
    found = pages(reader, limit, **query)
    expected = [number for number in reversed(range(TRACES)) if "attributes" not in query or number % 2]
    if "min_duration" in query and "operation" not in query:
        assert all(summary.duration >= 2000 * MS for page in found for summary in page)
    assert [int(summary.trace_id, 16) for page in found for summary in page] == list(map(trace_id, expected))
    assert {len(page) for page in found[:-1]} == {limit}


def test_a_period_has_the_traces_that_started_in_it(reader: JaegerReader) -> None:
    start, end = (NOW / 1e9 + number * EVERY / 1e3 for number in (40, 60.5))
    found = pages(reader, 10, service="billing", start=start, end=end)
    assert [int(summary.trace_id, 16) for page in found for summary in page] == [
        trace_id(number) for number in range(60, 39, -1)
    ]
