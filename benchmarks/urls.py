"""Define the benchmarked pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pybreaker
from asgiref.sync import iscoroutinefunction
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.utils.decorators import sync_and_async_middleware

breaker = pybreaker.CircuitBreaker(name="payment-service", fail_max=5)
_user = User(pk=42, username="ada", email="ada@example.com")


@sync_and_async_middleware
def known_user(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set a user without a query, as authentication by token does."""
    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            request.user = _user
            return await get_response(request)

    else:

        def middleware(request: HttpRequest) -> Any:
            request.user = _user
            return get_response(request)

    return middleware


def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def page(request: HttpRequest, number: int) -> HttpResponse:
    """Make one query, a cache get, a cache set, and a call through a circuit breaker."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, name, email FROM benchmark_customers WHERE id = %s", [number])
        row = cursor.fetchone()
    seen = cache.get(f"customer:{number}")
    cache.set(f"customer:{number}", {"row": row, "seen": bool(seen)}, 60)
    charged = breaker.call(lambda amount: amount * 2, 21)
    return JsonResponse({"row": row, "charged": charged})


def many(request: HttpRequest, spans: int) -> HttpResponse:
    """Make a request of ``spans`` spans: its own span, and one for each cache get."""
    for number in range(spans - 1):
        cache.get(f"customer:{number}")
    return HttpResponse("ok")


async def waiting(request: HttpRequest) -> HttpResponse:
    """Wait for others, which is what a page of an async site mostly does."""
    await asyncio.sleep(0.05)
    return HttpResponse("ok")


urlpatterns = [
    path("empty/", empty),
    path("page/<int:number>/", page),
    path("spans/<int:spans>/", many),
    path("waiting/", waiting),
]
