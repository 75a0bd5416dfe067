"""Define views that do one thing of each kind, one that fails and one that streams."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pybreaker
import requests
from django.core.cache import caches
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

breaker = pybreaker.CircuitBreaker(name="payments")


def flow(request: HttpRequest, number: int) -> JsonResponse:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relname = %s", ["pg_class"])
        [name] = cursor.fetchone()
    for alias in ("default", "redis"):
        caches[alias].set("blueprint:1", number)
    found = [caches[alias].get("blueprint:1") for alias in ("default", "redis")]
    called = breaker.call(requests.get, os.environ["CALLEE"], timeout=10).status_code
    return JsonResponse({"name": name, "found": found, "called": called})


def boom(request: HttpRequest) -> HttpResponse:
    raise LookupError("no such blueprint")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        for number in range(3):
            caches["redis"].set("chunk:1", number)
            yield f"{number}\n"

    return StreamingHttpResponse(body())


urlpatterns = [
    path("flow/<int:number>/", flow),
    path("boom/", boom),
    path("stream/", stream),
    path("health/", lambda request: HttpResponse("well")),
]
