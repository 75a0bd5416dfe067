"""Define the views of the unit tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path, re_path
from django.views import View
from opentelemetry import trace

from django_tracing import bind_trace_context, create_span, get_correlation_id


def current() -> str:
    return f"{trace.get_current_span().get_span_context().span_id:016x}"


def empty(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return HttpResponse(current())


async def empty_async(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return HttpResponse(current())


class Detail(View):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        return HttpResponse(str(pk))


def query(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'a literal', %s", ["a parameter"])
        return HttpResponse(str(cursor.fetchone()))


def whoami(request: HttpRequest) -> JsonResponse:
    """Evaluate the user, as views do; then use the cache."""
    name = request.user.get_username()
    cache.get("blueprint:123")
    return JsonResponse({"user": name, "correlation": get_correlation_id()})


def boom(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("no connection for ada@example.com with password=hunter2")


def missing(request: HttpRequest) -> HttpResponse:
    raise Http404("nothing here")


def forbidden(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


def failing_service(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=503)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        for _ in range(3):
            cache.get("chunk:1")
            yield current()

    return StreamingHttpResponse(body())


def endless(request: HttpRequest) -> StreamingHttpResponse:
    """Stream until the client disconnects."""

    def body() -> Iterator[bytes]:
        while True:
            cache.get("chunk:1")
            yield b"x" * 65536

    return StreamingHttpResponse(body())


async def endless_async(request: HttpRequest) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.001)
            yield b"x" * 65536

    return StreamingHttpResponse(body())


def broken_stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        yield "first"
        raise RuntimeError("in the middle of the body")

    return StreamingHttpResponse(body())


def opened_stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        with create_span("export"), trace.get_tracer("shop").start_as_current_span("theirs"):
            for _ in range(3):
                cache.get("chunk:1")
                yield current()

    return StreamingHttpResponse(body())


async def opened_stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[str]:
        async with create_span("export"):
            with trace.get_tracer("shop").start_as_current_span("theirs"):
                for _ in range(3):
                    await cache.aget("chunk:1")
                    yield current()

    return StreamingHttpResponse(body())


_answered = threading.Event()


def leaves_a_thread(request: HttpRequest) -> HttpResponse:
    """Its thread goes to work when the next request comes in."""

    def work() -> None:
        _answered.wait(30)
        with create_span("late"):
            cache.get("chunk:1")

    threading.Thread(target=bind_trace_context(work)).start()
    return HttpResponse(current())


def answered(request: HttpRequest) -> HttpResponse:
    _answered.set()
    return HttpResponse()


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[str]:
        for _ in range(3):
            await cache.aget("chunk:1")
            yield current()

    return StreamingHttpResponse(body())


urlpatterns = [
    path("", empty),
    path("empty/", empty),
    path("async/", empty_async),
    path("blueprints/<int:pk>/", Detail.as_view()),
    re_path(r"^articles/(?P<year>[0-9]{4})/(?P<slug>[\w-]+)/$", empty),
    path("nested/", include([path("<uuid:key>/x", empty)])),
    path("query/", query),
    path("whoami/", whoami),
    path("boom/", boom),
    path("missing/", missing),
    path("forbidden/", forbidden),
    path("failing/", failing_service),
    path("stream/", stream),
    path("broken-stream/", broken_stream),
    path("endless/", endless),
    path("endless-async/", endless_async),
    path("stream-async/", stream_async),
    path("opened-stream/", opened_stream),
    path("opened-stream-async/", opened_stream_async),
    path("leaves-a-thread/", leaves_a_thread),
    path("answered/", answered),
    path("health/", query),
    path("healthy/", query),
]
