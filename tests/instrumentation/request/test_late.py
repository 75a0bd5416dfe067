"""What runs on when the response is sent: threads, tasks, receivers of ``request_finished``. Their spans' parents."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pybreaker
import pytest
import requests
from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.core.signals import request_finished
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from django_tracing import (
    bind_trace_context,
    create_span,
    current_trace_id,
    get_correlation_id,
    get_trace_context,
    set_baggage,
    set_span_attributes,
    trace_circuit_breaker_call,
)
from django_tracing.context.request import LATE_NS, MOST_LATE
from tests.callees import Callee
from tests.conftest import Spans

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

#: What a view leaves behind.
_left: list[Callable[[], Any]] = []
_callee = Callee()


def query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def work() -> None:
    query()
    cache.get("blueprint:1")
    trace_circuit_breaker_call(pybreaker.CircuitBreaker(name="payments"), lambda: None)
    requests.get(_callee.url, timeout=5)
    with create_span("by hand"):
        query()


def leaves_work(request: HttpRequest) -> HttpResponse:
    context = copy_context()
    _left.append(lambda: context.run(work))
    return HttpResponse("ok")


def leaves_bound_work(request: HttpRequest) -> HttpResponse:
    with create_span("inner"):
        _left.append(bind_trace_context(work))
    return HttpResponse("ok")


async def leaves_a_task(request: HttpRequest) -> HttpResponse:
    go_on = asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        await sync_to_async(in_thread(work))()

    task = asyncio.create_task(later())

    def finish() -> Any:
        go_on.set()
        return task

    _left.append(finish)
    return HttpResponse("ok")


def nothing(request: HttpRequest) -> HttpResponse:
    _requests.append(weakref.ref(request))
    _left.append(copy_context().run)
    return HttpResponse("ok")


_requests: list[weakref.ref[HttpRequest]] = []


urlpatterns = [
    path("work/", leaves_work),
    path("bound/", leaves_bound_work),
    path("task/", leaves_a_task),
    path("nothing/", nothing),
]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    _left.clear()
    _requests.clear()
    _callee.received.clear()
    yield
    _left.clear()


@pytest.fixture(scope="module", autouse=True)
def _called() -> Iterator[None]:
    with _callee:
        yield


@pytest.fixture
def much_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Moves the clock by as much as ends a trace."""

    def move() -> None:
        for module in ("request", "current"):
            monkeypatch.setattr(f"django_tracing.context.{module}.time_ns", lambda: time.time_ns() + LATE_NS)

    return move


def in_thread(func: Callable[[], Any]) -> Callable[[], None]:
    """Returns what calls ``func`` in a thread with the caller's context. The thread closes its own connections."""

    def run() -> None:
        try:
            func()
        finally:
            connections.close_all()

    def call() -> None:
        thread = threading.Thread(target=copy_context().run, args=(run,))
        thread.start()
        thread.join()

    return call


def server(spans: Spans) -> ReadableSpan:
    (found,) = [span for span in spans if span.kind is SpanKind.SERVER]
    return found


def parents(spans: Spans) -> dict[str, list[int | None]]:
    """The parents' ids by the spans' names."""
    found: dict[str, list[int | None]] = {}
    for span in spans:
        found.setdefault(span.name, []).append(None if span.parent is None else span.parent.span_id)
    return found


def check_work(spans: Spans, parent: ReadableSpan) -> None:
    here = parent.context.span_id
    found = parents(spans)
    for name in ("cache.get.blueprint:*", "circuit_breaker.payments", "http.get.127.0.0.1", "by hand"):
        assert found[name] == [here], name
    assert sorted(found["db.select"], key=lambda known: known != here) == [here, spans.one("by hand").context.span_id]
    assert {span.context.trace_id for span in spans} == {parent.context.trace_id}
    correlation = (parent.attributes or {})["correlation.id"]
    assert {(span.attributes or {})["correlation.id"] for span in spans} == {correlation}


@pytest.mark.parametrize("name", ["work", "bound"])
def test_a_thread(spans: Spans, name: str) -> None:
    Client().get(f"/{name}/")
    assert server(spans).end_time
    in_thread(_left[0])()
    check_work(spans, server(spans) if name == "work" else spans.one("inner"))


def test_a_task(spans: Spans) -> None:
    async def run() -> None:
        await AsyncClient().get("/task/")
        assert server(spans).end_time
        await _left[0]()

    asyncio.run(run())
    check_work(spans, server(spans))


@pytest.mark.parametrize("client", ["sync", "async"])
def test_a_receiver_of_request_finished(spans: Spans, client: str) -> None:
    def receive(**kwargs: Any) -> None:
        work()
        if client == "async":
            connections.close_all()  # this thread has its own

    request_finished.connect(receive)
    try:
        if client == "sync":
            Client().get("/nothing/")
        else:
            asyncio.run(ask("/nothing/"))
    finally:
        request_finished.disconnect(receive)
    check_work(spans, server(spans))
    assert current_trace_id() is None, "nothing is left for the next request of this thread"


async def ask(url: str) -> None:
    await AsyncClient().get(url)


def test_what_is_not_recorded_has_no_children_either(spans: Spans) -> None:
    traceparent = f"00-{'ab' * 16}-{'cd' * 8}-00"
    Client().get("/work/", headers={"traceparent": traceparent})
    in_thread(_left[0])()
    assert spans.names == []
    assert _callee.received[0]["traceparent"].startswith(traceparent[:36]), "the caller's trace goes on"


def test_an_ended_span_is_not_changed(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    Client().get("/nothing/")
    _left[0](lambda: set_span_attributes({"cart.items": 3}))
    assert "cart.items" not in (server(spans).attributes or {})
    assert [record for record in caplog.records if "opentelemetry" in record.name or "tracing" in record.name] == []


def test_a_context_that_lives_on_does_not_keep_the_request(spans: Spans) -> None:
    client = Client()
    client.get("/nothing/")
    gc.collect()
    assert _left
    assert _requests[0]() is None


# ----- contexts that live for ever


def test_a_thread_that_lives_on_makes_traces_of_its_own(spans: Spans, much_later: Callable[[], None]) -> None:
    Client().get("/work/")
    request = server(spans)
    spans.clear()
    much_later()
    in_thread(_left[0])()
    by_hand = spans.one("by hand")
    assert by_hand.parent is None
    assert spans.names == ["db.select", "by hand"], "what has no parent makes no trace of one span"
    assert by_hand.context.trace_id != request.context.trace_id
    assert (by_hand.attributes or {})["correlation.id"] != (request.attributes or {})["correlation.id"]
    assert "traceparent" not in _callee.received[0]
    assert "x-correlation-id" not in _callee.received[0]


def test_the_headers_of_a_thread_that_lives_on(spans: Spans, much_later: Callable[[], None]) -> None:
    Client().get("/nothing/")
    _left[0](set_baggage, "tenant", "t1")
    assert _left[0](get_trace_context).keys() == {"traceparent", "baggage", "X-Correlation-ID"}
    assert _left[0](current_trace_id) == f"{server(spans).context.trace_id:032x}"
    much_later()
    assert _left[0](get_trace_context) == {}
    assert _left[0](current_trace_id) is None
    assert _left[0](get_correlation_id) is None


def test_the_log_records_of_a_thread_that_lives_on(
    spans: Spans, much_later: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    Client().get("/nothing/")
    for _ in range(2):
        _left[0](logging.getLogger("shop").warning, "working")
        much_later()
    first, second = [record for record in caplog.records if record.name == "shop"]
    assert first.trace_id == f"{server(spans).context.trace_id:032x}"  # type: ignore[attr-defined]
    assert first.correlation_id == (server(spans).attributes or {})["correlation.id"]  # type: ignore[attr-defined]
    assert {second.trace_id, second.correlation_id} == {"-"}  # type: ignore[attr-defined]


def test_a_span_that_is_open_after_that_time_keeps_its_children(spans: Spans, much_later: Callable[[], None]) -> None:
    Client().get("/nothing/")

    def run() -> dict[str, str]:
        with create_span("long"):
            much_later()
            with create_span("child"):
                return get_trace_context()

    headers = _left[0](run)
    assert [span.context.span_id for span in spans.named("long")] == parents(spans)["child"]
    assert f"{server(spans).context.trace_id:032x}" in headers["traceparent"]


def test_a_chain_of_tasks_is_one_trace_for_as_long_only(spans: Spans, much_later: Callable[[], None]) -> None:
    """Each starts the next one in its own span, which has ended when that runs."""
    Client().get("/nothing/")

    def step() -> Callable[[], Any]:
        with create_span("step"):
            context = copy_context()
            return lambda: context.run(step)

    following = _left[0](step)
    following = following()
    much_later()
    following()
    first, second, third = spans.named("step")
    assert [span.parent and span.parent.span_id for span in (first, second, third)] == [
        server(spans).context.span_id,
        first.context.span_id,
        None,
    ]


def test_a_thread_that_never_rests_fills_no_trace(spans: Spans) -> None:
    Client().get("/nothing/")

    def run() -> None:
        for _ in range(MOST_LATE + 10):
            with create_span("poll"):
                pass

    _left[0](run)
    here = server(spans).context.span_id
    assert parents(spans)["poll"] == [here] * MOST_LATE + [None] * 10


def test_spans_of_other_tracers_are_parents_too(spans: Spans, much_later: Callable[[], None]) -> None:
    with trace_api.get_tracer("shop").start_as_current_span("theirs") as theirs:
        bound = bind_trace_context(work)
    bound()
    here = theirs.get_span_context().span_id
    found = parents(spans)
    assert found["by hand"] == found["cache.get.blueprint:*"] == [here]
    spans.clear()
    much_later()
    bound()
    assert spans.names == ["db.select", "by hand"]
    assert spans.one("by hand").parent is None
