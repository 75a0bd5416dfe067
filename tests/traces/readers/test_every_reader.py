"""Test the interface of readers with the same spans in the local store and in real Jaegers of both APIs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from django_tracing.exceptions import ReadError
from django_tracing.export.local import span_row
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.traces.model import Trace, TraceSummary
from django_tracing.traces.readers.base import Reader
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.jaegers import Jaeger, wait_until

MS = 1_000_000
#: Jaeger searches only the last day. Whole milliseconds, which its older API also keeps.
NOW = int(time.time() - 600) * 1000 * MS

CHECKOUT = 0xAAAAAA11 << 96 | 1
LISTING = 0xBBBBBB22 << 96 | 1
LISTING_TWIN = 0xBBBBBB22 << 96 | 2
LONELY = 0xCCCCCC33 << 96 | 1


def context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def span(
    trace: int,
    number: int,
    parent: int,
    name: str,
    service: str,
    start: int,
    took: int,
    kind: SpanKind = SpanKind.INTERNAL,
    **changes: Any,
) -> ReadableSpan:
    return ReadableSpan(
        name=name,
        context=context(trace, number),
        parent=context(trace, parent) if parent else None,
        resource=Resource({"service.name": service, "host.name": "here"}),
        instrumentation_scope=InstrumentationScope("django_tracing", "1.0"),
        kind=kind,
        start_time=NOW + start * MS,
        end_time=NOW + (start + took) * MS,
        **changes,
    )


SPANS = [
    span(CHECKOUT, 0xA1, 0, "POST /checkout", "shop", 2000, 90, SpanKind.SERVER,
         attributes={"http.status_code": 502, "http.method": "POST", "user.id": "7", "cache.hit": True}),
    span(CHECKOUT, 0xA2, 0xA1, "http.post.billing", "shop", 2010, 60, SpanKind.CLIENT,
         attributes={"operation.type": "external", "http.method": "POST", "peer.service": "billing", "ratio": 0.25, "tags": ("a", "b")},
         links=[Link(context(LONELY, 0xC1))]),
    span(CHECKOUT, 0xA3, 0xA2, "POST /charge", "billing", 2020, 40, SpanKind.SERVER,
         status=Status(StatusCode.ERROR, "card declined"),
         events=[Event("exception", {"exception.type": "Declined", "exception.message": "no"}, NOW + 2030 * MS)]),
    span(LISTING, 0xB1, 0, "GET /items", "shop", 1000, 20, SpanKind.SERVER,
         attributes={"http.status_code": 200, "cache.hit": False}),
    span(LISTING, 0xB2, 0xB1, "db.select.items", "shop", 1001, 5, SpanKind.CLIENT,
         attributes={"db.rows": 12, "db.system": "postgresql", "db.name": "shop", "operation.type": "database"}),
    span(LISTING, 0xB4, 0xB1, "circuit_breaker.mail", "shop", 1007, 3,
         attributes={"operation.type": "circuit_breaker", "circuit_breaker.name": "mail",
                     "circuit_breaker.state": "closed", "circuit_breaker.state_after": "open"},
         status=Status(StatusCode.ERROR)),
    span(LISTING, 0xB5, 0xB4, "http.post.smtp", "shop", 1008, 1, SpanKind.CLIENT,
         attributes={"http.method": "POST", "http.url": "http://smtp.example/send"}),
    span(LISTING, 0xB6, 0xB1, "cache.get.item:*", "shop", 1015, 1,
         attributes={"operation.type": "cache", "cache.system": "redis", "cache.alias": "default"}),
    span(LISTING_TWIN, 0xB3, 0, "GET /items", "shop", 3000, 10, SpanKind.SERVER, status=Status(StatusCode.OK)),
    span(LONELY, 0xC1, 0xFFF, "task.send_mail", "mailer", 4000, 500, SpanKind.CONSUMER),
]  # fmt: skip


def local_reader(folder: Path) -> Iterator[Reader]:
    store = LocalStore(folder / "traces.sqlite3")
    store.write([span_row(each) for each in SPANS])
    yield store
    store.close()


def jaeger_reader(version: Any) -> Iterator[Reader]:
    with Jaeger(version) as jaeger:
        exporter = OTLPHTTPExporter(jaeger.otlp_http)
        reader = JaegerReader(jaeger.query)
        assert reader.version == ("v3" if version == "jaeger" else "v1")
        # Send the oldest first, one by one: Jaeger's memory orders by arrival, which is random within a request.
        for trace_id in (LISTING, CHECKOUT, LISTING_TWIN, LONELY):
            exporter.export([each for each in SPANS if each.context.trace_id == trace_id])
            wait_until(lambda wanted=f"{trace_id:032x}": reader.trace(wanted), "a trace to be stored")
        exporter.shutdown()
        wait_until(lambda: len(reader.search()) == 4, "the traces to be found")
        yield reader


@pytest.fixture(scope="module", params=["local", "jaeger", "jaeger-1.51"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if request.param == "local":
        yield from local_reader(tmp_path_factory.mktemp("store"))
    else:
        yield from jaeger_reader(request.param)


def as_listed(trace: Trace, found: TraceSummary) -> TraceSummary:
    """Return the trace's summary as a search finds it, with or without what Jaeger's summaries do not have."""
    whole = trace.summary()
    if found.sql_count is not None:
        return whole
    return replace(whole, method="", path="", status_code=None, user="", sql_count=None, sql_time=None)


def ids(found: Iterable[Any]) -> list[int]:
    return [int(each.trace_id, 16) for each in found]


class TestEveryReader:
    def test_services(self, reader: Reader) -> None:
        assert set(reader.services()) >= {"shop", "billing", "mailer"}
        assert reader.services() == sorted(reader.services())

    def test_operations(self, reader: Reader) -> None:
        assert reader.operations("shop") == [
            *("GET /items", "POST /checkout", "cache.get.item:*", "circuit_breaker.mail", "db.select.items"),
            *("http.post.billing", "http.post.smtp"),
        ]
        assert reader.operations("nobody") == []

    def test_the_newest_come_first(self, reader: Reader) -> None:
        assert ids(reader.search()) == [LONELY, LISTING_TWIN, CHECKOUT, LISTING]
        assert ids(reader.search(limit=2)) == [LONELY, LISTING_TWIN]

    def test_pages(self, reader: Reader) -> None:
        """Each page continues where the previous one ended."""
        found: list[int] = []
        before = None
        while page := reader.search(limit=2, before=before):
            found += ids(page)
            before = page[-1].start, page[-1].trace_id
        assert found == [LONELY, LISTING_TWIN, CHECKOUT, LISTING]

    def test_the_limit(self, reader: Reader) -> None:
        """Also if a backend knows only durations of spans and finds other traces first."""
        assert ids(reader.search(max_duration=0.05, limit=1)) == [LISTING_TWIN]
        assert ids(reader.search(service="shop", max_duration=0.015, limit=1)) == [LISTING_TWIN]

    def test_a_summary(self, reader: Reader) -> None:
        checkout = reader.search()[2]
        assert (checkout.name, checkout.service) == ("POST /checkout", "shop")
        assert checkout.services == ("shop", "billing")
        assert (checkout.start, checkout.duration) == (NOW + 2000 * MS, 90 * MS)
        assert (checkout.span_count, checkout.error_count) == (3, 1)

    def test_the_request_in_a_summary(self, reader: Reader) -> None:
        checkout, listing = reader.search()[2:]
        facts = checkout.method, checkout.status_code, checkout.user, checkout.sql_count, listing.sql_count
        if isinstance(reader, JaegerReader) and reader.version == "v3":
            # Its summaries have no attributes.
            assert facts == ("", None, "", None, None)
        else:
            assert facts == ("POST", 502, "7", 0, 1)
            assert listing.sql_time == 5 * MS

    @pytest.mark.parametrize(
        ("search", "expected"),
        [
            ({"service": "shop"}, [LISTING_TWIN, CHECKOUT, LISTING]),
            ({"service": "billing"}, [CHECKOUT]),
            ({"service": "nobody"}, []),
            ({"service": "shop", "operation": "GET /items"}, [LISTING_TWIN, LISTING]),
            ({"service": "billing", "operation": "GET /items"}, []),
            ({"operation": "db.select.items"}, [LISTING]),
            ({"min_duration": 0.05}, [LONELY, CHECKOUT]),
            ({"max_duration": 0.05}, [LISTING_TWIN, LISTING]),
            ({"min_duration": 0.015, "max_duration": 0.1}, [CHECKOUT, LISTING]),
            ({"errors": True}, [CHECKOUT, LISTING]),
            ({"errors": True, "service": "mailer"}, []),
            ({"attributes": {"http.status_code": "502"}}, [CHECKOUT]),
            ({"attributes": {"cache.hit": "false"}}, [LISTING]),
            ({"attributes": {"http.status_code": "502", "cache.hit": "true"}}, [CHECKOUT]),
            # All attributes must be on one span.
            ({"attributes": {"http.status_code": "502", "peer.service": "billing"}}, []),
            ({"attributes": {"http.status_code": "5"}}, []),
            ({"attributes": {"error": "true"}}, [CHECKOUT, LISTING]),
            ({"attributes": {"error": "true"}, "service": "shop"}, [LISTING]),
            ({"start": (NOW + 2500 * MS) / 1e9}, [LONELY, LISTING_TWIN]),
            ({"end": (NOW + 2500 * MS) / 1e9}, [CHECKOUT, LISTING]),
            ({"start": NOW / 1e9 + 1.5, "end": NOW / 1e9 + 2.5}, [CHECKOUT]),
            # The years 1 and 9999, and longer than 64 bits of nanoseconds.
            ({"start": -62e9, "errors": True}, [CHECKOUT, LISTING]),
            ({"end": 253e9, "errors": True}, [CHECKOUT, LISTING]),
            ({"min_duration": 1e15}, []),
            ({"max_duration": 1e15, "errors": True}, [CHECKOUT, LISTING]),
        ],
        # Without values: times differ by run, and every worker of pytest-xdist must collect the same names.
        ids=lambda value: "-".join(value) if isinstance(value, dict) else f"{len(value)}-found",
    )
    def test_search(self, reader: Reader, search: dict[str, Any], expected: list[int]) -> None:
        assert ids(reader.search(**search)) == expected

    def test_a_trace(self, reader: Reader) -> None:
        trace = reader.trace(f"{CHECKOUT:032x}")
        assert trace is not None
        assert [each.name for each in trace.spans] == ["POST /checkout", "http.post.billing", "POST /charge"]
        found = reader.search()[2]
        assert as_listed(trace, found) == found
        request, call, charge = trace.spans
        assert (request.kind, call.kind, charge.kind) == ("server", "client", "server")
        assert (request.parent_id, call.parent_id) == ("", request.span_id)
        assert (request.span_id, request.start, request.duration) == (f"{0xA1:016x}", NOW + 2000 * MS, 90 * MS)
        assert request.attributes == {
            "http.status_code": 502,
            "http.method": "POST",
            "user.id": "7",
            "cache.hit": True,
        }
        assert call.attributes["ratio"] == 0.25
        assert [(link.trace_id, link.span_id) for link in call.links] == [(f"{LONELY:032x}", f"{0xC1:016x}")]
        assert (charge.status, charge.status_message, request.status) == ("error", "card declined", "unset")
        assert (charge.service, charge.resource["host.name"]) == ("billing", "here")
        assert charge.scope == "django_tracing"
        assert set(charge.resource) == {"service.name", "host.name"}
        (event,) = charge.events
        assert (event.name, event.time) == ("exception", NOW + 2030 * MS)
        assert event.attributes == {"exception.type": "Declined", "exception.message": "no"}

    def test_a_trace_whose_root_is_in_another_service(self, reader: Reader) -> None:
        trace = reader.trace(f"{LONELY:032x}")
        assert trace is not None
        (node,) = trace.tree()
        assert node.orphan
        assert node.span.kind == "consumer"
        # It has the name of its topmost span.
        summary = reader.search()[0]
        assert (summary.name, summary.service, summary.services) == ("task.send_mail", "mailer", ("mailer",))
        assert summary.state == "finished"
        assert as_listed(trace, summary) == summary

    def test_an_ok_status(self, reader: Reader) -> None:
        trace = reader.trace(f"{LISTING_TWIN:032x}")
        assert trace is not None
        assert trace.root.status == "ok"

    def test_routes(self, reader: Reader) -> None:
        items = {(route.service, route.name): route for route in reader.routes()}
        # The sender of the mail is in another service: the trace starts with a consumer.
        assert set(items) == {
            ("shop", "GET /items"),
            ("shop", "POST /checkout"),
            ("billing", "POST /charge"),
            ("mailer", "task.send_mail"),
        }
        listing = items["shop", "GET /items"]
        assert (listing.count, listing.error_count) == (2, 0)
        assert (listing.p50, listing.p95, listing.p99) == (10 * MS, 20 * MS, 20 * MS)
        assert (int(listing.slowest_trace_id, 16), listing.slowest) == (LISTING, 20 * MS)
        assert listing.time_by_work == {"python": 23 * MS, "sql": 5 * MS, "http": MS, "cache": MS}
        # A call to another service counts completely as waiting of the caller.
        assert items["shop", "POST /checkout"].time_by_work == {"http": 60 * MS, "python": 30 * MS}
        assert items["billing", "POST /charge"].error_count == 1
        assert {route.service for route in reader.routes(service="billing")} == {"billing"}
        assert [route.name for route in reader.routes(start=(NOW + 3500 * MS) / 1e9)] == ["task.send_mail"]
        assert reader.routes(end=NOW / 1e9) == []

    def test_dependencies(self, reader: Reader) -> None:
        found = reader.dependencies()
        assert [
            (link.caller, link.callee, link.kind, link.calls, link.errors, link.state) for link in found.links
        ] == [
            ("shop", "mail", "breaker", 1, 1, "open"),
            ("shop", "redis default", "cache", 1, 0, ""),
            ("shop", "postgresql shop", "database", 1, 0, ""),
            ("shop", "smtp.example", "external", 1, 0, ""),
            ("shop", "billing", "service", 1, 1, ""),
        ]
        assert all(link.examined == 1 for link in found.links)
        assert found.sampled in (None, 4)

    def test_describe(self, reader: Reader) -> None:
        link = reader.trace_link("ab")
        assert link is None or link == f"{reader.describe()}/trace/ab"
        assert reader.describe()

    def test_a_prefix_of_an_id_is_enough(self, reader: Reader) -> None:
        for beginning in ("aaaaaa", "AAAAAA11", f"{CHECKOUT:032x}"[:31]):
            trace = reader.trace(beginning)
            assert trace is not None
            assert int(trace.trace_id, 16) == CHECKOUT
        with pytest.raises(ReadError, match="Several traces start with bbbbbb") as caught:
            reader.trace("bbbbbb")
        assert caught.value.reason == "ambiguous"

    def test_a_trace_that_is_not_stored(self, reader: Reader) -> None:
        assert reader.trace("d" * 32) is None
        assert reader.trace("d" * 8) is None

    def test_an_invalid_id(self, reader: Reader) -> None:
        with pytest.raises(ReadError, match="not a trace id") as caught:
            reader.trace("../services")
        assert caught.value.reason == "bad_id"
