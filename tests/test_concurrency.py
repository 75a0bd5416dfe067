"""Test that no request sees another one's identity, in any order in which their parts run.

Requests are answered by pooled threads and by asyncio at once. The site's code pauses at many places, and one of all
paused requests goes on at a time: the order depends on a seed alone, so it is the same in each run.
``CONCURRENT_REQUESTS`` is how many there are: ``make concurrency`` asks for 10,000.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests
from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.cache import cache
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.test import RequestFactory
from django.urls import path
from django.views.decorators.cache import cache_page
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from django_tracing import bind_trace_context, create_span, get_correlation_id
from tests.callees import Callee
from tests.conftest import Spans

COUNT = int(os.environ.get("CONCURRENT_REQUESTS", "200"))
#: How many requests are open at once.
OPEN = 8
logger = logging.getLogger("concurrency")
#: The response of a view that returns the same object again and again.
SHARED = HttpResponse("shared")


class Turns:
    """Let the parts of requests run one at a time, in an order that a seed chooses."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.changed = threading.Condition()
        self.running = 0
        #: What lets each paused request go on.
        self.paused: list[Callable[[], None]] = []

    def pause_until(self, release: Callable[[], None]) -> None:
        with self.changed:
            self.running -= 1
            self.paused.append(release)
            self.changed.notify_all()

    def done(self) -> None:
        with self.changed:
            self.running -= 1
            self.changed.notify_all()

    def _settled(self) -> None:
        """Wait until whoever runs is paused or done."""
        assert self.changed.wait_for(lambda: self.running == 0, 60), "a request neither pauses nor ends"

    def run(self, starts: Iterator[Callable[[], None]]) -> None:
        """Run all of ``starts``, ``OPEN`` at a time."""
        with self.changed:
            start = next(starts, None)
            self._settled()
            while start is not None or self.paused:
                if start is not None and len(self.paused) < OPEN:
                    go, start = start, next(starts, None)
                else:
                    go = self.paused.pop(self.random.randrange(len(self.paused)))
                self.running += 1
                go()
                self._settled()


class Unit:
    """A request, and who asks."""

    def __init__(self, turns: Turns, number: int, kind: str) -> None:
        self.turns = turns
        self.number = number
        self.kind = kind
        self.trace_id = 0xABC << 64 | number + 1
        self.headers: dict[str, str] = {}
        #: Spans that were started in threads that do not have the request's context.
        self.detached: list[int] = []

    @property
    def correlation_id(self) -> str:
        return f"c-{self.number}"

    def pause(self) -> None:
        """Let others go on, in this thread."""
        event = threading.Event()
        self.turns.pause_until(event.set)
        assert event.wait(60)

    async def pause_async(self) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.turns.pause_until(lambda: loop.call_soon_threadsafe(future.set_result, None) and None)
        await future


def unit_of(request: Any) -> Unit:
    unit: Unit = request.scope["unit"] if hasattr(request, "scope") else request.META["unit"]
    return unit


# ----- the site


def identify(request: HttpRequest) -> None:
    unit = unit_of(request)
    request.user = SimpleNamespace(pk=f"u-{unit.number}", email="", unit=unit, is_anonymous=False)  # type: ignore[assignment]


def subscription(user: Any) -> str:
    """Called by this app while it describes the user."""
    if not user.unit.kind.startswith("async"):
        user.unit.pause()
    return f"s-{user.unit.number}"


def identifying(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            await unit_of(request).pause_async()
            identify(request)
            response = await get_response(request)
            await unit_of(request).pause_async()
            return response

        return markcoroutinefunction(middleware)

    def middleware_sync(request: HttpRequest) -> Any:
        unit_of(request).pause()
        identify(request)
        response = get_response(request)
        unit_of(request).pause()
        return response

    return middleware_sync


identifying.sync_capable = identifying.async_capable = True  # type: ignore[attr-defined]


def work(unit: Unit, name: str = "work") -> None:
    """Do what a site does: its own span, the cache, the log, a call to another service."""
    with create_span(name, {"owner": unit.number}):
        unit.pause()
        assert get_correlation_id() == unit.correlation_id
        cache.set(f"key:{unit.number}", 1)
        logger.warning("%d", unit.number)
        requests.get(CALLEE[0].url, headers={"X-Number": str(unit.number)}, timeout=60)
        unit.pause()


async def work_async(unit: Unit, name: str = "work") -> None:
    async with create_span(name, {"owner": unit.number}):
        await unit.pause_async()
        assert get_correlation_id() == unit.correlation_id
        await cache.aset(f"key:{unit.number}", 1)
        logger.warning("%d", unit.number)
        await CLIENT[0].get(CALLEE[0].url, headers={"X-Number": str(unit.number)})
        await unit.pause_async()


def plain(request: HttpRequest) -> HttpResponse:
    work(unit_of(request))
    return HttpResponse("plain")


def failing(request: HttpRequest) -> HttpResponse:
    work(unit_of(request))
    raise RuntimeError("fails")


def shared(request: HttpRequest) -> HttpResponse:
    work(unit_of(request))
    return SHARED


@cache_page(60)
def cached(request: HttpRequest) -> HttpResponse:
    return HttpResponse("cached")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        for _ in range(3):
            work(unit_of(request), "part")
            yield b"x"

    return StreamingHttpResponse(parts())


def pool(request: HttpRequest) -> HttpResponse:
    """Work in a pool that all requests use, with this request's context and without."""
    unit = unit_of(request)
    bound = POOL[0].submit(bind_trace_context(work), unit, "pooled")
    bound.result(60)

    def detached() -> None:
        nothing_is_current()
        with create_span("detached") as span:
            unit.pause()
            unit.detached.append(span.span.get_span_context().trace_id)

    POOL[0].submit(detached).result(60)
    return HttpResponse("pool")


async def plain_async(request: HttpRequest) -> HttpResponse:
    await work_async(unit_of(request))
    return HttpResponse("plain")


async def shared_async(request: HttpRequest) -> HttpResponse:
    await work_async(unit_of(request))
    return SHARED


async def thread_async(request: HttpRequest) -> HttpResponse:
    unit = unit_of(request)
    await sync_to_async(work)(unit)
    await sync_to_async(work, thread_sensitive=False)(unit)
    return HttpResponse("thread")


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            await work_async(unit_of(request), "part")
            yield b"x"

    return StreamingHttpResponse(parts())


async def background_async(request: HttpRequest) -> HttpResponse:
    """Leave a task behind, which goes on after the response."""
    unit = unit_of(request)
    unit.turns.running += 1

    async def later() -> None:
        try:
            await work_async(unit, "later")
        finally:
            unit.turns.done()

    TASKS.append(asyncio.get_running_loop().create_task(later()))
    await unit.pause_async()
    return HttpResponse("background")


VIEWS: dict[str, Any] = {
    "plain": plain,
    "failing": failing,
    "shared": shared,
    "cached": cached,
    "stream": stream,
    "gone": stream,
    "pool": pool,
    "async-plain": plain_async,
    "async-shared": shared_async,
    "async-thread": thread_async,
    "async-stream": stream_async,
    "async-gone": stream_async,
    "async-background": background_async,
}
urlpatterns = [path(f"{kind}/", view) for kind, view in VIEWS.items()]
_WORK = ("cache.set.*:*", "http.get.callee")
#: The names of the spans of each kind, beside its request's. A client that goes away has got one part.
SPANS: dict[str, Counter[str]] = {
    "stream": Counter(dict.fromkeys(("part", *_WORK), 3)),
    "gone": Counter(("part", *_WORK)),
    "pool": Counter(("pooled", *_WORK)),
    "async-thread": Counter(dict.fromkeys(("work", *_WORK), 2)),
    "async-stream": Counter(dict.fromkeys(("part", *_WORK), 3)),
    "async-gone": Counter(("part", *_WORK)),
    "async-background": Counter(("later", *_WORK)),
}
_PLAIN = Counter(("work", *_WORK))

CALLEE: list[Callee] = []
CLIENT: list[httpx.AsyncClient] = []
POOL: list[ThreadPoolExecutor] = []
TASKS: list[asyncio.Task[None]] = []


# ----- the servers


class Handler(WSGIHandler):
    def get_response(self, request: HttpRequest) -> Any:
        response = super().get_response(request)
        # Until the server reads the headers.
        unit_of(request).pause()
        return response


class AsyncHandler(ASGIHandler):
    async def get_response_async(self, request: Any) -> HttpResponseBase:
        response: HttpResponseBase = await super().get_response_async(request)
        await unit_of(request).pause_async()
        return response


def nothing_is_current() -> None:
    assert trace_api.get_current_span() is trace_api.INVALID_SPAN
    assert get_correlation_id() is None


def request_headers(unit: Unit) -> dict[str, str]:
    return {"traceparent": f"00-{unit.trace_id:032x}-00000000000000ff-01", "X-Correlation-ID": unit.correlation_id}


def serve(handler: Handler, unit: Unit) -> None:
    """Answer a request as a WSGI server's pooled thread does."""
    try:
        nothing_is_current()
        environ = RequestFactory(headers=request_headers(unit)).get(f"/{unit.kind}/").environ  # type: ignore[call-arg]
        environ["unit"] = unit
        response = handler(environ, lambda status, headers: unit.headers.update(headers))
        for _ in response:
            nothing_is_current()
            unit.pause()
            if unit.kind == "gone":
                break
        response.close()  # type: ignore[attr-defined]
        nothing_is_current()
    finally:
        unit.turns.done()


async def serve_async(handler: AsyncHandler, unit: Unit) -> None:
    """Answer a request as an ASGI server does. The client of a kind that is gone reads one part of the body."""
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
        nothing_is_current()
        if message["type"] == "http.response.start":
            unit.headers.update((name.decode(), value.decode()) for name, value in message["headers"])
        elif message.get("body"):
            await unit.pause_async()
            if unit.kind == "async-gone":
                gone.set()
                await asyncio.Event().wait()  # a full buffer

    headers = {"host": "testserver", **request_headers(unit)}
    scope = {
        **{"type": "http", "method": "GET", "path": f"/{unit.kind}/", "http_version": "1.1", "scheme": "http"},
        **{"headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]},
        **{"query_string": b"", "root_path": "", "server": ("testserver", 80), "client": ("127.0.0.1", 1234)},
        "unit": unit,
    }
    try:
        nothing_is_current()
        await handler(scope, receive, send)  # type: ignore[arg-type]
        nothing_is_current()
    finally:
        unit.turns.done()


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records() -> Iterator[Records]:
    handler = Records()
    logger.addHandler(handler)
    logger.propagate = False
    logging.disable(logging.NOTSET)
    yield handler
    logger.propagate = True
    logger.removeHandler(handler)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()


@pytest.fixture
def site(settings: Any, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = ["django_tracing.middleware.TracingMiddleware", f"{__name__}.identifying"]
    with Callee() as callee, ThreadPoolExecutor(OPEN) as pool:
        settings.TRACING = {
            **settings.TRACING,
            "SUBSCRIPTION": subscription,
            "RESPONSE_HEADERS": ["traceresponse", "Server-Timing"],
            "PEER_SERVICES": {callee.host: "callee"},
        }
        CALLEE[:], POOL[:] = [callee], [pool]
        CLIENT[:] = [httpx.AsyncClient(timeout=60)]
        TASKS.clear()
        yield
        asyncio.run_coroutine_threadsafe(CLIENT[0].aclose(), loop).result(60)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("seed", [1])
def test_no_request_sees_the_identity_of_another(
    seed: int, spans: Spans, records: Records, loop: asyncio.AbstractEventLoop
) -> None:
    turns = Turns(seed)
    kinds = list(VIEWS)
    # All kinds, in an order of their own.
    units = [Unit(turns, number, kinds[number % len(kinds)]) for number in range(COUNT)]
    turns.random.shuffle(units)
    handlers = Handler(), AsyncHandler()
    futures: list[Future[None]] = []
    with ThreadPoolExecutor(OPEN) as threads:

        def start(unit: Unit) -> Callable[[], None]:
            if unit.kind.startswith("async"):
                serving = serve_async(handlers[1], unit)
                return lambda: futures.append(asyncio.run_coroutine_threadsafe(serving, loop))
            return lambda: futures.append(threads.submit(serve, handlers[0], unit))

        turns.run(start(unit) for unit in units)
    for future in futures:
        future.result(60)
    check(units, spans, records, CALLEE[0])


def check(units: list[Unit], spans: Spans, records: Records, callee: Callee) -> None:
    by_trace: dict[int, list[ReadableSpan]] = {}
    for span in spans:
        by_trace.setdefault(span.context.trace_id, []).append(span)
    calls = {call["x-number"]: [] for call in callee.received}  # type: dict[str, list[dict[str, str]]]
    for call in callee.received:
        calls[call["x-number"]].append(call)
    logged: dict[str, list[logging.LogRecord]] = {}
    for record in records.records:
        logged.setdefault(record.getMessage(), []).append(record)
    for unit in units:
        trace_id = f"{unit.trace_id:032x}"
        found = by_trace.pop(unit.trace_id)
        (server,) = (span for span in found if span.kind is SpanKind.SERVER)
        assert server.name == f"GET /{unit.kind}/"
        names = Counter(span.name for span in found if span is not server)
        if unit.kind == "cached":
            # The first ones find nothing.
            assert {name.partition(".")[0] for name in names} == {"cache"}
        else:
            assert names == SPANS.get(unit.kind, _PLAIN), unit.kind
        for span in found:
            attributes = span.attributes or {}
            assert attributes["correlation.id"] == unit.correlation_id
            assert attributes.get("owner", unit.number) == unit.number
            assert attributes["user.id"] == f"u-{unit.number}"
            assert attributes["user.subscription"] == f"s-{unit.number}"
        # What left the process: headers of the answer and of calls, and the log.
        assert unit.headers["X-Correlation-ID"] == unit.correlation_id
        assert unit.headers["traceresponse"] == f"00-{trace_id}-{server.context.span_id:016x}-01"
        worked = sum(names[name] for name in ("work", "part", "pooled", "later"))
        sent = calls.get(str(unit.number), [])
        assert [call["x-correlation-id"] for call in sent] == [unit.correlation_id] * worked
        assert {call["traceparent"][3:35] for call in sent} <= {trace_id}
        said = logged.get(str(unit.number), [])
        assert [record.__dict__["correlation_id"] for record in said] == [unit.correlation_id] * worked
        assert {record.__dict__["trace_id"] for record in said} <= {trace_id}
        for detached in unit.detached:
            # A thread without a context has an identity of its own, whatever ran in it before.
            (span,) = by_trace.pop(detached)
            attributes = span.attributes or {}
            assert (span.name, attributes.get("user.id")) == ("detached", None)
            assert not str(attributes["correlation.id"]).startswith("c-")
    assert by_trace == {}
