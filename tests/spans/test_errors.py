"""Exceptions on spans: one event each in a trace, a stack that begins with the user's code, and no cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import django
import pybreaker
import pytest
from asgiref.sync import markcoroutinefunction, sync_to_async
from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.handlers.asgi import ASGIHandler
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.views.generic import RedirectView
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span, record_span_error, trace, trace_function
from django_tracing.export.local import span_row
from django_tracing.traces.model import Trace
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.conftest import Spans

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


def query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nothing_there")


def order(request: HttpRequest) -> HttpResponse:
    with create_span("outer"), create_span("inner"):
        query()
    return HttpResponse()


async def order_async(request: HttpRequest) -> HttpResponse:
    async with create_span("outer"), create_span("inner"):
        await sync_to_async(query)()
    return HttpResponse()


async def waits(request: HttpRequest) -> HttpResponse:
    async with create_span("inside"):
        await forever()
    return HttpResponse()


def site_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    async def middleware(request: HttpRequest) -> Any:
        return await get_response(request)

    return markcoroutinefunction(middleware)


site_middleware.async_capable = True  # type: ignore[attr-defined]
site_middleware.sync_capable = False  # type: ignore[attr-defined]


def raises(request: HttpRequest) -> HttpResponse:
    raise LookupError("no such order")


def handles(request: HttpRequest) -> HttpResponse:
    for _ in range(3):
        try:
            with create_span("attempt"):
                raise LookupError("not yet")
        except LookupError:
            pass
    return HttpResponse()


urlpatterns = [
    path("order/", order),
    path("order-async/", order_async),
    path("raises/", raises),
    path("handles/", handles),
    path("forever/", waits),
    path("redirect/", RedirectView.as_view(url="/%(missing)s/")),
]


class _Sites:
    """A site's own middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)


def layers(kind: str) -> Any:
    return override_settings(
        MIDDLEWARE=["django_tracing.middleware.TracingMiddleware", "django.middleware.common.CommonMiddleware"],
        TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": kind, "SLOW_LAYER_MS": 0},
    )


def get(url: str) -> HttpResponse:
    if "async" not in url:
        return Client(raise_request_exception=False).get(url)

    async def run() -> HttpResponse:
        response = await AsyncClient(raise_request_exception=False).get(url)
        # The thread that sync code ran in has a connection of its own.
        await sync_to_async(connections.close_all)()
        return response

    return asyncio.run(run())


def failed(spans: Spans) -> list[str]:
    return sorted(span.name for span in spans if span.status.status_code is StatusCode.ERROR)


def stacks(spans: Spans) -> dict[str, str]:
    """The stacks of exception events by their spans' names."""
    return {
        span.name: str((event.attributes or {})["exception.stacktrace"]) for span in spans for event in span.events
    }


def files(stack: str) -> list[str]:
    return [line.split('"')[1] for line in stack.split("\n") if line.startswith("  File ")]


# ----- one error of its trace


@pytest.mark.parametrize("kind", ["off", "slow", "all"])
@pytest.mark.parametrize("url", ["/order/", "/order-async/"])
def test_an_exception_has_one_event_and_fails_all_it_passes(spans: Spans, kind: str, url: str) -> None:
    with layers(kind):
        assert get(url).status_code == 500
    assert list(stacks(spans)) == ["db.select"]
    assert {"db.select", "inner", "outer", f"GET {url}"} <= set(failed(spans))
    propagated = [span.name for span in spans if (span.attributes or {}).get("error.propagated")]
    assert sorted(["db.select", *propagated]) == failed(spans)
    for span in spans:
        if span.status.status_code is StatusCode.ERROR:
            assert (span.attributes or {})["error.type"] == "django.db.utils.ProgrammingError"
            assert "nothing_there" in (span.status.description or "")


def test_exceptions_that_are_handled_are_errors_of_their_own(spans: Spans) -> None:
    """Each has the same type and is raised by the same line, and Python may give it the same place in memory."""
    get("/handles/")
    assert [len(span.events) for span in spans.named("attempt")] == [1, 1, 1]
    assert failed(spans) == ["attempt"] * 3
    assert not any("error.propagated" in (span.attributes or {}) for span in spans)


def test_what_is_recorded_by_hand_is_recorded_each_time(spans: Spans) -> None:
    with create_span("job"):
        for _ in range(3):
            try:
                raise ValueError("not yet")
            except ValueError as error:
                record_span_error(error)
    assert len(spans.one("job").events) == 3


def test_an_exception_that_was_recorded_by_hand_and_goes_on(spans: Spans) -> None:
    with pytest.raises(ValueError, match="no"), create_span("outer"), create_span("job"):
        try:
            raise ValueError("no")
        except ValueError as error:
            record_span_error(error)
            raise
    assert len(spans.one("job").events) == 1
    assert "error.propagated" not in (spans.one("job").attributes or {})
    assert (spans.one("outer").attributes or {})["error.propagated"] is True


def test_another_exception_on_the_way_does_not_hide_the_first(spans: Spans) -> None:
    with pytest.raises(ValueError, match="first"), create_span("outer"):
        try:
            with create_span("inner"):
                raise ValueError("first")
        finally:
            try:
                with create_span("cleaning up"):
                    raise LookupError("second")
            except LookupError:
                pass
    assert sorted(stacks(spans)) == ["cleaning up", "inner"]


def test_the_figures_count_it_once(spans: Spans, tmp_path: Any) -> None:
    get("/order/")
    store = LocalStore(tmp_path / "traces.sqlite3")
    store.write([span_row(span) for span in spans])
    (summary,) = store.search()
    assert summary.error_count == 1
    found = store.trace(summary.trace_id)
    assert isinstance(found, Trace)
    assert found.error_count == 1
    (route,) = [route for route in store.routes() if route.name == "GET /order/"]
    assert route.error_count == 1


def test_an_error_whose_first_span_is_lost_is_still_one(spans: Spans, tmp_path: Any) -> None:
    get("/order/")
    store = LocalStore(tmp_path / "traces.sqlite3")
    store.write([span_row(span) for span in spans if span.kind is SpanKind.SERVER])
    (summary,) = store.search(errors=True)
    found = store.trace(summary.trace_id)
    assert found is not None
    assert summary.error_count == found.error_count == 1


# ----- stacks


def test_a_stack_begins_with_the_users_code(spans: Spans) -> None:
    with layers("off"):
        get("/order/")
    stack = stacks(spans)["db.select"]
    cause, _, raised = stack.rpartition("The above exception was the direct cause")
    assert "psycopg" in cause
    assert files(raised)[0] == __file__
    assert "in order\n" in raised.split("File")[1]
    assert not [name for name in files(stack) if "/django_tracing/" in name]


def test_the_stack_of_an_exception_in_a_view(spans: Spans) -> None:
    with layers("all"):
        get("/raises/")
    (stack,) = stacks(spans).values()
    assert files(stack) == [__file__]


def test_a_site_s_own_middleware_is_the_users_code(spans: Spans) -> None:
    with (
        layers("off"),
        override_settings(MIDDLEWARE=["django_tracing.middleware.TracingMiddleware", f"{__name__}._Sites"]),
    ):
        get("/order/")
    stack = stacks(spans)["db.select"].rpartition("direct cause")[2]
    assert "in __call__" in stack.split("File")[1]
    assert files(stack)[0] == __file__
    assert any("django/core/handlers" in name for name in files(stack)), "what is between the user's frames stays"


def test_an_exception_that_is_recorded_later_has_its_own_frames_only(spans: Spans) -> None:
    """Its callers are at other lines by then."""

    def fails() -> BaseException:
        try:
            raise ValueError("no")
        except ValueError as error:
            return error

    with create_span("job"):
        error = fails()
        record_span_error(error)
    stack = stacks(spans)["job"]
    assert stack.count("File") == 1
    assert "in fails" in stack


def test_a_stack_without_users_code_is_whole(spans: Spans) -> None:
    with layers("off"):
        get("/redirect/")
    (stack,) = stacks(spans).values()
    assert files(stack)[-1].endswith("django/views/generic/base.py")
    assert not [name for name in files(stack) if "/django_tracing/" in name]


def test_our_frames_are_in_no_stack_that_users_record(spans: Spans) -> None:
    from opentelemetry import trace as trace_api

    with pytest.raises(Exception, match="nothing_there"), create_span("job"):
        try:
            query()
        except Exception as error:
            trace_api.get_current_span().record_exception(error)
            raise
    with (
        pytest.raises(Exception, match="current transaction"),
        trace_api.get_tracer("shop").start_as_current_span("theirs"),
    ):
        query()
    assert set(stacks(spans)) == {"db.select", "job", "theirs"}
    for name, stack in stacks(spans).items():
        assert not [file for file in files(stack) if "/django_tracing/" in file], name


# ----- cancellation


async def cancelled(work: Callable[[], Any]) -> None:
    """Cancel ``work`` once it waits in :func:`forever`."""
    _waits.clear()
    task = asyncio.ensure_future(work())
    await _waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class _Waits:
    """Whether :func:`forever` has been called; an event of the loop that runs."""

    def clear(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> None:
        await self.event.wait()


_waits = _Waits()


async def forever(*args: Any, **kwargs: Any) -> Any:
    _waits.event.set()
    await asyncio.Event().wait()


class SlowCache(LocMemCache):
    aget = forever


async def in_blocks() -> None:
    async with create_span("block"):
        await trace_function("function", forever)


async def in_a_breaker() -> None:
    with create_span("block"), pybreaker.CircuitBreaker(name="payments").calling():
        await forever()


async def in_a_cache() -> None:
    with create_span("block"):
        await caches["slow"].aget("blueprint:1")


async def in_a_future() -> None:
    with create_span("block"):
        await trace_function("function", lambda: asyncio.ensure_future(forever()))


async def in_a_generator() -> None:
    @trace("generator")
    async def generator() -> AsyncIterator[int]:
        yield 1
        await forever()

    async for _ in generator():
        pass


async def in_a_view() -> None:
    handler = ASGIHandler()
    await handler.get_response_async(RequestFactory().get("/forever/"))


@pytest.mark.parametrize(
    ("work", "names"),
    [
        (in_blocks, {"block", "function"}),
        (in_a_breaker, {"block", "circuit_breaker.payments"}),
        (in_a_cache, {"block", "cache.get.blueprint:*"}),
        (in_a_future, {"block", "function"}),
        (in_a_generator, {"generator"}),
        (in_a_view, {"GET /forever/", "view.waits", "middleware.site", "inside"}),
    ],
)
def test_a_cancellation_is_no_error(spans: Spans, work: Callable[[], Any], names: set[str]) -> None:
    middleware = ["django_tracing.middleware.TracingMiddleware", f"{__name__}.site_middleware"]
    with (
        override_settings(
            MIDDLEWARE=middleware,
            TRACING={**django_settings.TRACING, "LAYERS": "all"},
            CACHES={"slow": {"BACKEND": f"{__name__}.SlowCache"}},
        ),
    ):
        asyncio.run(cancelled(work))
    assert set(spans.names) == names
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
    assert not [event for span in spans for event in span.events]
    assert not any("error.type" in (span.attributes or {}) for span in spans)


def test_a_cancelled_query_is_no_error(spans: Spans) -> None:
    def cancel(*args: Any) -> Any:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError), create_span("block"), connection.execute_wrapper(cancel):
        query()
    assert spans.names == ["db.select", "block"]
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
    assert not [event for span in spans for event in span.events]


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django's tasks framework came with Django 6.0")
def test_a_cancelled_task_is_no_error(spans: Spans) -> None:
    from django.tasks import task

    waits = task(forever)
    asyncio.run(cancelled(lambda: waits.acall()))
    run = spans.one("task.run.forever")
    assert run.status.status_code is StatusCode.UNSET
    assert not run.events
    assert (run.attributes or {})["task.status"] == "cancelled"
