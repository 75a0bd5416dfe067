"""Add paths to the example project whose callers invent the names: of tables, keys, errors, hosts, users and spans."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pybreaker
import requests
from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.core.handlers.asgi import ASGIRequest
from django.core.mail import send_mail
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import Context, Template
from django.urls import path
from django.views.decorators.cache import cache_page

from django_tracing import create_span, trace_circuit_breaker_call
from example_project.blueprints.models import Blueprint, Customer
from example_project.urls import urlpatterns as example

__all__ = ["urlpatterns"]

_logger = logging.getLogger("soak")
_pool = ThreadPoolExecutor(2, "soak")
_storage = FileSystemStorage(Path(os.environ["FAULTS_FOLDER"], "files"))
#: Tasks that outlive their request: without a reference, they may be collected before they end.
_tasks: set[asyncio.Task[None]] = set()


def _names(request: HttpRequest, name: str) -> list[str]:
    """Return as many names as the caller wants invented."""
    return [f"{name}{number}" for number in range(int(request.headers.get("X-Names", "2")))]


def sql(request: HttpRequest, name: str) -> HttpResponse:
    with connection.cursor() as cursor:
        for each in _names(request, name):
            cursor.execute(f'SELECT 1 AS "{each}" /* {each} */')
        with suppress(DatabaseError):
            cursor.execute(f'SELECT "{name}" FROM "{name}" WHERE "{name}" = %s', [name])
    return HttpResponse(name)


def keys(request: HttpRequest, name: str) -> HttpResponse:
    for each in _names(request, name):
        cache.set(f"{each}:{each}", each, 20)
    cache.get_many([f"{name}:{number}" for number in range(5)])
    return HttpResponse(cache.get(f"{name}0:{name}0"))


def spans(request: HttpRequest, name: str) -> HttpResponse:
    for each in _names(request, name):
        with create_span(f"work {each}", {f"key.{each}": each}) as span:
            span.set_attributes({f"other.{each}": each, each: len(each)})
            span.add_event(each, {each: each})
            _logger.warning("%s", each, extra={"name_of_caller": each})
    return HttpResponse(name)


def error(request: HttpRequest, name: str) -> HttpResponse:
    raise type(f"Error{name}", (RuntimeError,), {})(f"{name} of {name}@example.com")


def call(request: HttpRequest, name: str) -> HttpResponse:
    """Call hosts that no other request has called. Nothing listens there."""
    for number, each in enumerate(_names(request, name), int(name, 36)):
        host = f"127.{number % 250 + 1}.{number // 250 % 250}.{number // 62500 % 250 + 2}"
        breaker = pybreaker.CircuitBreaker(name=each)
        trace_circuit_breaker_call(breaker, partial(_get, host, each), service=each, fallback=str)
    return HttpResponse(name)


def _get(host: str, name: str) -> str:
    with suppress(requests.RequestException):
        requests.get(f"http://{host}:9/{name}", params={name: name}, timeout=1)
    return name


def page(request: HttpRequest, name: str) -> HttpResponse:
    for each in _names(request, name):
        Template("{{ name }}", name=each).render(Context({"name": each}))
        _storage.delete(_storage.save(each, ContentFile(b"x")))
    send_mail(name, name, f"{name}@example.com", [f"{name}@example.org"])
    return HttpResponse(name)


def user(request: HttpRequest, name: str) -> HttpResponse:
    """Turn out to be asked by a user whom nobody has seen before."""
    request.user = Customer(pk=int(name, 36) % 2**31, username=name, email=f"{name}@example.com", tier=name[:20])
    return HttpResponse(str(Blueprint.objects.count()))


def threads(request: HttpRequest, name: str) -> HttpResponse:
    """Work in a pool that other requests use too, with this request's context, and in a thread of its own without."""

    def work() -> None:
        with create_span("in a thread", {"name": name}):
            cache.get(name)

    futures = [_pool.submit(contextvars.copy_context().run, work) for _ in range(2)]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for future in futures:
        future.result()
    return HttpResponse(name)


@cache_page(5)
def cached(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Blueprint.objects.count()))


def stream(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """Send half a megabyte, slowly enough that the client can go away."""

    def chunks() -> Iterator[bytes]:
        for number in range(32):
            cache.get(f"chunk:{number}")
            yield b"x" * 16_384
            time.sleep(0.003)

    async def chunks_async() -> AsyncIterator[bytes]:
        for number in range(32):
            await cache.aget(f"chunk:{number}")
            yield b"x" * 16_384
            await asyncio.sleep(0.003)

    return StreamingHttpResponse(chunks_async() if isinstance(request, ASGIRequest) else chunks())


async def wait(request: HttpRequest, name: str) -> HttpResponse:
    """Wait, and leave a task behind: the client may be gone, and the task outlives the response."""

    async def later() -> None:
        await asyncio.sleep(0.05)
        async with create_span("in the background", {"name": name}):
            await cache.aget(name)

    task = asyncio.create_task(later())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    await sync_to_async(Blueprint.objects.count)()
    await asyncio.sleep(0.1)
    # Under WSGI, the event loop ends with the view.
    if not isinstance(request, ASGIRequest):
        await task
    return HttpResponse(name)


_views: dict[str, Any] = {
    view.__name__: view for view in (sql, keys, spans, error, call, page, user, threads, stream, wait)
}
urlpatterns = [
    *example,
    path("soak/cached", cached),
    *(path(f"soak/{name}/<slug:name>", view) for name, view in _views.items()),
]
