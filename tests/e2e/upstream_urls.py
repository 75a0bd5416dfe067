"""Define views with SQL, cache, Redis, a call, an error and a stream; sync and async."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import redis
import requests
from django.contrib.auth.models import AnonymousUser, User
from django.core.cache import caches
from django.db import connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import sync_and_async_middleware

client = redis.Redis.from_url(os.environ["TEST_REDIS_URL"])


@sync_and_async_middleware
def authenticate(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    from asgiref.sync import iscoroutinefunction

    def identified(request: HttpRequest) -> HttpRequest:
        name = request.headers.get("X-User")
        request.user = User(pk=7, username=name, email=f"{name}@example.com") if name else AnonymousUser()
        return request

    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            return await get_response(identified(request))

        return middleware
    return lambda request: get_response(identified(request))


def _query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'hunter2', relname FROM pg_class WHERE relname = %s", ["hunter2"])
        cursor.fetchall()


def flow(request: HttpRequest, number: int) -> HttpResponse:
    _query()
    caches["redis"].set("blueprint:1", "hunter2")
    client.get("session:hunter2")
    with psycopg.connect(os.environ["TEST_POSTGRES_URL"]) as direct:
        direct.execute("SELECT 'hunter2', attname FROM pg_attribute LIMIT 1")
    return HttpResponse(str(requests.get(request.headers["X-Callee"], timeout=10).status_code))


async def flow_async(request: HttpRequest, number: int) -> HttpResponse:
    await caches["redis"].aset("blueprint:1", "hunter2")
    async with httpx.AsyncClient(timeout=10) as http:
        return HttpResponse(str((await http.get(request.headers["X-Callee"])).status_code))


def boom(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("password=hunter2")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        for _ in range(3):
            _query()
            client.get("session:hunter2")
            yield "chunk"

    return StreamingHttpResponse(body())


def health(request: HttpRequest) -> HttpResponse:
    _query()
    client.get("session:hunter2")
    return HttpResponse("well")


urlpatterns = [
    path("flow/<int:number>/", flow),
    path("flow-async/<int:number>/", flow_async),
    path("boom/", boom),
    path("stream/", stream),
    path("health/", health),
]
