"""Spans of streamed bodies: those that a generator opens are current for it, and for nothing else."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.cache import cache
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from django.urls import path
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span, trace
from django_tracing.middleware import TracingMiddleware
from tests.conftest import Spans

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

tracer = trace_api.get_tracer("shop")
#: A variable of the site itself.
tenant: ContextVar[str] = ContextVar("tenant", default="")
seen: list[str] = []


def body(*, fail: bool = False) -> Iterator[bytes]:
    tenant.set("t1")
    with create_span("export"):
        cache.get("chunk:1")
        yield b"1"
        cache.get("chunk:2")
        with tracer.start_as_current_span("theirs"):
            yield b"2"
            cache.get("chunk:3")
            if fail:
                raise ValueError("no more")
            yield b"3"
        try:
            yield b"4"
        finally:
            cache.set("chunk:tail", 1)
    seen.append(tenant.get())
    cache.delete("chunk:last")


async def async_body(*, fail: bool = False) -> AsyncIterator[bytes]:
    tenant.set("t1")
    async with create_span("export"):
        await cache.aget("chunk:1")
        yield b"1"
        await cache.aget("chunk:2")
        with tracer.start_as_current_span("theirs"):
            yield b"2"
            await asyncio.sleep(0)
            await cache.aget("chunk:3")
            if fail:
                raise ValueError("no more")
            yield b"3"
        try:
            yield b"4"
        finally:
            cache.set("chunk:tail", 1)
    seen.append(tenant.get())
    await cache.adelete("chunk:last")


@trace("traced")
def traced_body() -> Iterator[bytes]:
    yield from body()


@trace("traced")
async def traced_async_body() -> AsyncIterator[bytes]:
    async for part in async_body():
        yield part


def stream(request: HttpRequest) -> StreamingHttpResponse:
    if "traced" in request.GET:
        return StreamingHttpResponse(traced_body())
    return StreamingHttpResponse(body(fail="fail" in request.GET))


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    if "traced" in request.GET:
        return StreamingHttpResponse(traced_async_body())
    return StreamingHttpResponse(async_body(fail="fail" in request.GET))


urlpatterns = [path("stream/", stream), path("astream/", astream)]


def between() -> None:
    """What a server does between two parts: nothing of the stream is current."""
    assert trace_api.get_current_span() is trace_api.INVALID_SPAN
    with tracer.start_as_current_span("server's own"):
        pass


def ask_sync(query: str = "", take: int | None = None) -> bytes:
    """Ask as a WSGI server does; with ``take``, the client goes away after so many parts."""
    environ = RequestFactory().get(f"/stream/{query}").environ
    got = b""
    response = WSGIHandler()(environ, lambda status, headers: None)
    try:
        for number, part in enumerate(response, 1):
            got += part
            between()
            if number == take:
                break
    finally:
        response.close()  # type: ignore[attr-defined]
    return got


def ask_async(query: str = "", take: int | None = None) -> bytes:
    """Ask as an ASGI server does; with ``take``, the client goes away after so many parts."""

    async def run() -> bytes:
        got = b""
        gone = asyncio.Event()
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal got
            if message["type"] == "http.response.body":
                between()
                got += message.get("body", b"")
                if take is not None and len(got) >= take:
                    gone.set()
                    await asyncio.Event().wait()  # a full buffer

        scope = {
            **{"type": "http", "method": "GET", "path": "/astream/", "headers": [(b"host", b"testserver")]},
            **{"query_string": query.lstrip("?").encode(), "http_version": "1.1", "scheme": "http", "root_path": ""},
            **{"server": ("testserver", 80), "client": ("127.0.0.1", 1234)},
        }
        await ASGIHandler()(scope, receive, send)
        # asyncio closes one generator after the other.
        for _ in range(10):
            gc.collect()
            await asyncio.sleep(0)
        return got

    with warnings.catch_warnings():
        # Before 6.1, Django leaves the file of a request's body open if the client goes away.
        warnings.simplefilter("ignore", ResourceWarning)
        received = asyncio.run(run())
        gc.collect()
    return received


Ask = Callable[..., bytes]
both = pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["wsgi", "asgi"])


@pytest.fixture(autouse=True)
def _clean(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    seen.clear()
    yield
    assert trace_api.get_current_span() is trace_api.INVALID_SPAN, "nothing is left for the next request"
    logged = [record for record in caplog.records if record.name.startswith(("opentelemetry", "django_tracing"))]
    assert [record.getMessage() for record in logged] == []


def server(spans: Spans) -> ReadableSpan:
    (found,) = [span for span in spans if span.kind is SpanKind.SERVER]
    return found


def tree(spans: Spans) -> dict[str, str]:
    """The parent's name by the names of spans; "" for roots. No name is there twice, but for the server's own."""
    by_id = {span.context.span_id: span.name for span in spans}
    found: dict[str, str] = {}
    for span in spans:
        assert span.name not in found or span.name == "server's own"
        found[span.name] = "" if span.parent is None else by_id[span.parent.span_id]
    return found


@pytest.fixture
def _distinct(settings: Any) -> None:
    """Each key is a name of its own."""
    settings.TRACING = {
        **settings.TRACING,
        "CACHE_KEY_PREFIXES": [f"chunk:{n}" for n in ("1", "2", "3", "tail", "last")],
    }


@both
@pytest.mark.usefixtures("_distinct")
def test_spans_stay_current_from_part_to_part(spans: Spans, ask: Ask) -> None:
    assert ask() == b"1234"
    request = server(spans).name
    assert tree(spans) == {
        request: "",
        "export": request,
        "theirs": "export",
        "cache.get.chunk:1": "export",
        "cache.get.chunk:2": "export",
        "cache.get.chunk:3": "theirs",
        "cache.set.chunk:tail": "export",
        "cache.delete.chunk:last": request,
        "server's own": "",
    }
    assert seen == ["t1"]


@both
def test_a_traced_generator_keeps_its_spans_too(spans: Spans, ask: Ask) -> None:
    assert ask("?traced") == b"1234"
    by_id = {span.context.span_id: span.name for span in spans}
    assert by_id[spans.one("export").parent.span_id] == "traced"  # type: ignore[union-attr]
    assert by_id[spans.one("theirs").parent.span_id] == "export"  # type: ignore[union-attr]
    parents = sorted(by_id[span.parent.span_id] for span in spans.named("cache.get.chunk:*") if span.parent)
    assert parents == ["export", "export", "theirs"]


def wrapping(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """A middleware that wraps the body, as GZipMiddleware does."""

    async def passed_async(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for part in parts:
            yield part

    def wrap(response: Any) -> Any:
        parts = response.streaming_content
        response.streaming_content = passed_async(parts) if response.is_async else (part for part in parts)
        return response

    if iscoroutinefunction(get_response):

        async def middleware_async(request: HttpRequest) -> Any:
            return wrap(await get_response(request))

        return markcoroutinefunction(middleware_async)
    return lambda request: wrap(get_response(request))


wrapping.async_capable = True  # type: ignore[attr-defined]


@both
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.usefixtures("_distinct")
def test_a_client_that_goes_away(spans: Spans, ask: Ask, wrapped: bool, settings: Any) -> None:
    """The generator is closed at a part; what it does then is in its span, and that of the request has ended."""
    if wrapped:
        settings.MIDDLEWARE = [settings.MIDDLEWARE[0], f"{__name__}.wrapping"]
    assert ask(take=4) == b"1234"
    request = server(spans)
    assert (request.attributes or {})["http.client_disconnected"] is True
    assert tree(spans)["cache.set.chunk:tail"] == "export"
    assert tree(spans)["export"] == request.name
    assert {span.status.status_code for span in spans} == {StatusCode.UNSET}
    assert "cache.delete.chunk:last" not in spans.names


@both
def test_an_exception_within(spans: Spans, ask: Ask) -> None:
    with pytest.raises(ValueError, match="no more"):
        ask("?fail")
    by_id = {span.context.span_id: span.name for span in spans}
    assert by_id[spans.one("theirs").parent.span_id] == "export"  # type: ignore[union-attr]
    assert {span.name for span in spans if span.status.status_code is StatusCode.ERROR} == {
        *("theirs", "export", server(spans).name)
    }


@pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["wsgi", "asgi"])
def test_a_stream_that_is_not_sampled_starts_no_traces(
    spans: Spans, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django_tracing.spans import runtime

    monkeypatch.setattr(runtime.current.factory, "keep", lambda parent, trace_id: parent is not None)
    monkeypatch.setattr(runtime.current.factory, "decide", None)
    assert ask() == b"1234"
    assert set(spans.names) <= {"theirs", "server's own"}


@both
def test_receivers_of_request_finished_come_after_the_stream(spans: Spans, ask: Ask) -> None:
    def receive(**kwargs: Any) -> None:
        with create_span("finished"):
            pass

    request_finished.connect(receive)
    try:
        ask()
        ask(take=1)
    finally:
        request_finished.disconnect(receive)
    servers = [span for span in spans if span.kind is SpanKind.SERVER]
    assert [span.parent and span.parent.span_id for span in spans.named("finished")] == [
        span.context.span_id for span in servers
    ]


# ----- copies


def pickled(value: Any) -> Any:
    data = pickle.dumps(value)
    assert b"django_tracing." not in data, "a cache is read by processes without this app, too"
    return pickle.loads(data)  # noqa: S301


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("make", [HttpResponse, lambda text: StreamingHttpResponse([text])])
def test_a_response_can_be_copied_as_before(
    make: Callable[[str], Any], copied: Callable[[Any], Any], spans: Spans
) -> None:
    # UpdateCacheMiddleware, listed above this app's, pickles what it keeps.
    response = TracingMiddleware(lambda request: make("text"))(RequestFactory().get("/"))
    twin = copied(response)
    assert b"".join(twin) == b"text"
    twin.close()
    response.close()  # type: ignore[union-attr]
    assert [span.kind for span in spans] == [SpanKind.SERVER]


def test_a_response_that_is_returned_again_without_being_closed_does_not_grow(spans: Spans) -> None:
    shared = HttpResponse("text")
    closed: list[str] = []
    shared._resource_closers.append(lambda: closed.append("the site's"))
    traced = TracingMiddleware(lambda request: shared)
    for _ in range(10):
        traced(RequestFactory().get("/"))
    assert len(shared._resource_closers) == 2
    shared.close()
    assert closed == ["the site's"]
    assert len(spans.names) == 10
