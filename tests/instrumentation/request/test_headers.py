"""Test ``RESPONSE_HEADERS`` and the collection of a request's spans for tools that show them."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pybreaker
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.core.cache import cache, caches
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import ResponseHeaders
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind

from django_tracing import spans as our_spans
from django_tracing import trace_external_call
from django_tracing.context.request import RequestState, get_request_state, with_request_state
from django_tracing.instrumentation.request.headers import clear_headers, own_response, set_correlation_id
from django_tracing.instrumentation.request.server_timing import server_timing
from django_tracing.spans.collector import MOST_COLLECTED
from tests.callees import Callee
from tests.conftest import Spans

pytestmark = pytest.mark.django_db

MILLISECOND = 1_000_000


def tracing(*headers: str, **settings: Any) -> Any:
    return override_settings(
        ROOT_URLCONF=__name__,
        TRACING={
            "SERVICE_NAME": "tests",
            "EXPORTER": "none",
            "LAYERS": "off",
            "RESPONSE_HEADERS": list(headers),
            **settings,
        },
    )


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that requests a path through the WSGI or the ASGI handler and returns the response."""
    if request.param == "sync":
        return lambda path, **query: Client(raise_request_exception=False).get(path, query)

    def send(path: str, **query: str) -> Any:
        async def run() -> Any:
            response = await AsyncClient(raise_request_exception=False).get(path, query)
            # The thread that sync code ran in has a connection of its own.
            await sync_to_async(connections.close_all)()
            return response

        return asyncio.run(run())

    return send


def metrics(value: str) -> dict[str, tuple[float, str | None]]:
    """Parse a Server-Timing header as browsers do: name -> duration, description."""
    found = {}
    for metric in value.split(", "):
        matched = re.fullmatch(r'([a-z]+);dur=(\d+\.\d\d)(?:;desc="([^"]*)")?', metric)
        assert matched is not None, metric
        found[matched[1]] = (float(matched[2]), matched[3])
    return found


def server(spans: Spans) -> ReadableSpan:
    (span,) = (span for span in spans if span.kind is SpanKind.SERVER)
    return span


# ----- Views

breaker = pybreaker.CircuitBreaker(name="paper")
#: Values that the views pass to their tests.
kept: dict[str, Any] = {}


def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def busy(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        # Write nothing permanent: under ASGI, the test doesn't roll this connection back.
        Group.objects.update(name="a")
        Group.objects.count()
    cache.set("order:1", 1)
    cache.get("order:1")
    caches["redis"].get("order:1")
    url = request.GET["url"]
    breaker.call(httpx.get, url, trust_env=False)
    trace_external_call("paper", "GET", url, lambda: httpx.get(url, trust_env=False))
    return HttpResponse()


def one_query(request: HttpRequest) -> HttpResponse:
    User.objects.count()
    return HttpResponse()


def own(request: HttpRequest) -> HttpResponse:
    response = HttpResponse()
    response["server-timing"] = 'paint;dur=3;desc="of the view"'
    response["Traceresponse"] = "mine"
    return response


def boom(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("boom")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    User.objects.count()

    def body() -> Iterator[str]:
        for _ in range(2):
            yield str(User.objects.count())

    return StreamingHttpResponse(body())


def collecting(request: HttpRequest) -> HttpResponse:
    scope = get_request_state()
    assert scope is not None
    before = our_spans.collect(scope)
    assert before == []
    Group.objects.count()
    with trace.get_tracer("the user's").start_as_current_span("mine of ada@example.com"):
        User.objects.count()
    httpx.get(request.GET["url"], trust_env=False)
    kept["collected"] = our_spans.collect(scope)
    assert kept["collected"] is before
    kept["names"] = [span.name for span in before]
    kept["scope"] = scope
    return HttpResponse()


def remembering(request: HttpRequest) -> HttpResponse:
    User.objects.count()
    scope = get_request_state()
    assert scope is not None
    kept["span"] = weakref.ref(our_spans.collect(scope)[-1])
    return HttpResponse()


urlpatterns = [
    path("remembering/", remembering),
    path("empty/", empty),
    path("busy/", busy),
    path("one-query/", one_query),
    path("own/", own),
    path("boom/", boom),
    path("stream/", stream),
    path("collecting/", collecting),
]


class TestServerTiming:
    @tracing("Server-Timing")
    @pytest.mark.usefixtures("redis_url")
    def test_time_by_kind(self, spans: Spans, get: Callable[..., Any]) -> None:
        with Callee() as callee:
            response = get("/busy/", url=callee.url)
        assert response.status_code == 200
        found = metrics(response["Server-Timing"])
        assert list(found) == ["total", "sql", "cache", "http"]
        statements = [span for span in spans if "db.statement" in (span.attributes or {})]
        assert found["sql"][1] == f"{len(statements)} queries"
        assert found["cache"][1] == "3 calls"
        # The breaker's span and the announced call's span each surround a call of a library and count no further call.
        assert found["http"][1] == "2 calls"
        assert "Traceresponse" not in response
        total = found["total"][0]
        assert 0 < sum(duration for name, (duration, _) in found.items() if name != "total") <= total + 0.03
        span = server(spans)
        assert span.end_time is not None and span.start_time is not None
        assert total <= (span.end_time - span.start_time) / 1e6 + 0.01

    @tracing("Server-Timing")
    def test_one_query(self, get: Callable[..., Any]) -> None:
        found = metrics(get("/one-query/")["Server-Timing"])
        assert list(found) == ["total", "sql"]
        assert found["sql"][1] == "1 query"

    @tracing("server-timing", "traceresponse")
    def test_the_views_own_header_is_kept(self, get: Callable[..., Any]) -> None:
        response = get("/own/")
        theirs = 'paint;dur=3;desc="of the view", '
        assert response["Server-Timing"].startswith(theirs)
        assert list(metrics(response["Server-Timing"].removeprefix(theirs))) == ["total"]
        assert response["traceresponse"] == "mine"

    @tracing("Server-Timing", "traceresponse")
    def test_a_failed_request_has_the_header(self, get: Callable[..., Any]) -> None:
        response = get("/boom/")
        assert response.status_code == 500
        assert "total" in metrics(response["Server-Timing"])
        assert int(response["traceresponse"][-2:], 16) & 1

    @tracing("Server-Timing")
    def test_a_stream_has_the_times_before_its_body(self, spans: Spans) -> None:
        response = Client().get("/stream/")
        found = metrics(response["Server-Timing"])
        assert found["sql"][1] == "1 query"
        assert len(b"".join(response.streaming_content)) == 2
        response.close()
        assert len(spans.named("db.select.auth_user")) == 3

    @tracing()
    def test_nothing_by_default(self, spans: Spans, get: Callable[..., Any]) -> None:
        response = get("/one-query/")
        assert "Server-Timing" not in response
        assert "traceresponse" not in response
        assert server(spans).attributes

    @tracing("Server-Timing", "traceresponse", IGNORE_PATHS=["/empty"])
    def test_an_ignored_request_has_no_header(self, get: Callable[..., Any]) -> None:
        response = get("/empty/")
        assert "Server-Timing" not in response
        assert "traceresponse" not in response

    @tracing("Server-Timing", "traceresponse", ENABLED=False)
    def test_without_tracing_there_is_no_header(self, get: Callable[..., Any]) -> None:
        response = get("/empty/")
        assert "Server-Timing" not in response
        assert "traceresponse" not in response

    @tracing("Server-Timing", "traceresponse")
    def test_an_unsampled_request_has_only_its_ids(self, get: Callable[..., Any]) -> None:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        client = Client(headers={"traceparent": parent})
        response = client.get("/one-query/")
        assert "Server-Timing" not in response
        assert re.fullmatch("00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-00", response["traceresponse"])

    @tracing("Server-Timing", "traceresponse")
    def test_a_span_of_another_instrumentation(self, spans: Spans) -> None:
        with trace.get_tracer("theirs").start_as_current_span("theirs", kind=SpanKind.SERVER):
            response = Client().get("/one-query/")
        assert metrics(response["Server-Timing"])["sql"][1] == "1 query"
        context = server(spans).context
        assert context is not None
        assert f"{context.trace_id:032x}-{context.span_id:016x}" in response["traceresponse"]

    @tracing("Server-Timing")
    def test_an_error_of_this_app_loses_only_the_header(self, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*args: Any) -> str:
            raise ZeroDivisionError

        monkeypatch.setattr("django_tracing.instrumentation.request.headers.server_timing", fails)
        monkeypatch.setattr("django_tracing.faults._faults.by_key", {})
        response = Client().get("/one-query/")
        assert response.status_code == 200
        assert "Server-Timing" not in response
        assert (server(spans).attributes or {})["http.status_code"] == 200


class TestTraceresponse:
    @tracing("traceresponse")
    def test_it_contains_the_id_of_the_requests_span(self, spans: Spans, get: Callable[..., Any]) -> None:
        response = get("/one-query/")
        context = server(spans).context
        assert context is not None
        expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        assert response["traceresponse"] == expected
        assert context.trace_flags.sampled
        assert "Server-Timing" not in response


class Ended:
    """An ended span with the attributes that the function reads."""

    def __init__(self, number: int, parent: int, start: float, end: float, **attributes: Any) -> None:
        self.context = SpanContext(1, number, is_remote=False)
        self.parent = SpanContext(1, parent, is_remote=False) if parent else None
        self.start_time = int(start * MILLISECOND)
        self.end_time = int(end * MILLISECOND)
        self.kind = attributes.pop("kind", SpanKind.INTERNAL)
        self.attributes = {key.replace("__", "."): value for key, value in attributes.items()}


def sql(number: int, parent: int, start: float, end: float) -> Ended:
    return Ended(number, parent, start, end, db__system="postgresql", db__statement="SELECT ?")


def timing(*ended: Any, total: float = 100) -> dict[str, tuple[float, str | None]]:
    return metrics(server_timing(ended, int(total * MILLISECOND)))


class TestTimes:
    def test_nothing(self) -> None:
        assert server_timing((), 1_234_567) == "total;dur=1.23"
        # The clock was set back.
        assert server_timing((), -5) == "total;dur=0.00"

    def test_calls_one_after_another(self) -> None:
        assert timing(sql(2, 1, 0, 10), sql(3, 1, 20, 25)) == {"total": (100, None), "sql": (15, "2 queries")}

    def test_concurrent_calls(self) -> None:
        found = timing(sql(2, 1, 0, 10), sql(3, 1, 5, 12), sql(4, 1, 6, 7))
        assert found["sql"] == (12, "3 queries")

    def test_a_call_inside_a_call_of_the_same_kind(self) -> None:
        announced = Ended(2, 1, 0, 10, operation__type="external")
        library = Ended(3, 2, 1, 9, kind=SpanKind.CLIENT, http__method="GET")
        assert timing(library, announced)["http"] == (10, "1 call")

    def test_a_breaker_in_between(self) -> None:
        around = Ended(2, 1, 0, 10, operation__type="external")
        between = Ended(3, 2, 0, 10, operation__type="circuit_breaker")
        library = Ended(4, 3, 1, 9, kind=SpanKind.CLIENT, http__request__method="GET")
        assert timing(library, between, around) == {"total": (100, None), "http": (10, "1 call")}

    def test_a_cache_in_the_database(self) -> None:
        found = timing(sql(3, 2, 2, 9), Ended(2, 1, 0, 10, operation__type="cache"))
        assert found["cache"] == (3, "1 call")
        assert found["sql"] == (7, "1 query")

    def test_drivers_traced_by_other_instrumentations(self) -> None:
        found = timing(
            Ended(2, 1, 0, 1, db__system="redis", db__statement="GET ?"),
            Ended(3, 1, 1, 3, db__system__name="mysql", db__query__text="SELECT ?"),
            Ended(4, 1, 3, 4, operation__type="database", db__operation="commit"),
        )
        assert found == {"total": (100, None), "sql": (3, "1 query"), "cache": (1, "1 call")}

    def test_repeated_ids(self) -> None:
        assert timing(sql(2, 2, 0, 10), sql(3, 4, 0, 1), sql(4, 3, 0, 1))["sql"][0] == 10
        untold = [Ended(3, 4, 0, 1), Ended(4, 3, 0, 1)]
        assert timing(sql(5, 3, 0, 1), *untold)["sql"] == (1, "1 query")

    def test_a_deep_trace(self) -> None:
        chain = [Ended(number, number - 1, 0, 10) for number in range(2, 10_000)]
        assert timing(*chain, *(sql(20_000 + number, 9_999, number, number + 1) for number in range(50)))["sql"] == (
            50,
            "50 queries",
        )


class TestCollect:
    @pytest.fixture(autouse=True)
    def _forget(self) -> Iterator[None]:
        yield
        kept.clear()

    @tracing()
    def test_the_spans_of_a_request_so_far(self, spans: Spans, get: Callable[..., Any]) -> None:
        with Callee() as callee:
            assert get("/collecting/", url=callee.url).status_code == 200
        # Spans of this app, of the user's tracer and of an OpenTelemetry instrumentation, redacted as when they are exported.
        # The threads of the async view may have a connection already.
        assert [name for name in kept["names"] if name != "db.connect"] == [
            "db.select.auth_group",
            "db.select.auth_user",
            "mine of a***@example.com",
            f"http.get.{callee.host.partition(':')[0]}",
        ]
        assert [span.name for span in kept["collected"]] == [*kept["names"]]
        assert all(span.end_time is not None for span in kept["collected"])
        # After the response, nothing is held.
        assert kept["scope"].collected is None
        assert kept["scope"].span is None

    @tracing("Server-Timing")
    def test_a_request_does_not_see_spans_of_another(self) -> None:
        counts: list[str | None] = []

        def send(queries: int) -> None:
            for _ in range(5):
                response = Client().get("/one-query/" if queries else "/empty/")
                counts.append(metrics(response["Server-Timing"]).get("sql", (0, None))[1])
            connections.close_all()

        threads = [threading.Thread(target=send, args=(number % 2,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, counts)) == ["1 query"] * 10 + ["None"] * 10

    def test_at_most_ten_thousand_spans_are_collected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert MOST_COLLECTED == 10_000
        monkeypatch.setattr("django_tracing.spans.collector.MOST_COLLECTED", 3)
        scope = RequestState("x")
        started = our_spans.start_operation("root", {}, context=with_request_state(scope))
        assert started is not None
        collected = our_spans.collect(scope)
        token = our_spans.attach(started.context)
        for number in range(5):
            our_spans.end_span(our_spans.start_span(f"span {number}"))
        our_spans.detach(token)
        started.end()
        assert [span.name for span in collected] == ["span 0", "span 1", "span 2"]

    @tracing("Server-Timing")
    def test_nothing_is_held_after_the_response(self, spans: Spans) -> None:
        """The memory is freed without the garbage collector: the list and its spans don't refer to each other."""
        client = Client()
        client.get("/remembering/")
        gc.collect()
        gc.disable()
        try:
            client.get("/remembering/")
            spans.clear()
            assert kept["span"]() is None
        finally:
            gc.enable()


class TestOneResponseForSeveralRequests:
    """A view may return the same object to two threads at once. ``tests/test_concurrency.py`` has whole requests."""

    def test_the_first_one_gets_the_object_and_others_a_copy(self) -> None:
        response = HttpResponse("shared", headers={"X-Own": "1"})
        response._resource_closers.append(print)  # type: ignore[attr-defined]
        assert own_response(response) is response
        set_correlation_id(response, "first")
        other = own_response(response)
        set_correlation_id(other, "second")
        assert (response["X-Correlation-ID"], other["X-Correlation-ID"]) == ("first", "second")
        assert (type(other), other.content, other["X-Own"]) == (HttpResponse, b"shared", "1")
        # What is to be closed is closed once, with whichever comes first, as without this app.
        assert other._resource_closers is response._resource_closers  # type: ignore[attr-defined]
        # A request that is not traced gets no headers, and takes none from the client that is being answered.
        assert "X-Correlation-ID" not in clear_headers(response)
        assert response["X-Correlation-ID"] == "first"

    def test_a_copy_that_is_made_while_headers_are_set_has_none_of_them(self) -> None:
        copies = []

        class Headers(ResponseHeaders):
            def __init__(self) -> None:
                super().__init__({})
                # Not a plain dict: the headers are set by the method below.
                self._store = OrderedDict(self._store)

            def __setitem__(self, name: str, value: Any) -> None:
                super().__setitem__(name, value)
                # Another thread runs now.
                if not copies:
                    copies.append(own_response(response))

        response = HttpResponse()
        response.headers = Headers()
        set_correlation_id(own_response(response), "first")
        assert response["X-Correlation-ID"] == "first"
        assert "X-Correlation-ID" not in copies[0].headers
