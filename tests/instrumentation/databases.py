"""Connections of the tests' own, and views that use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.db.utils import ConnectionHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path
from opentelemetry.sdk.trace import ReadableSpan

from example_project.servers import database_settings
from tests.conftest import Spans

#: Settings of a server that does not answer.
DOWN: dict[str, Any] = {"HOST": "127.0.0.1", "PORT": "1", "OPTIONS": {"connect_timeout": 2}}

#: What the views ask.
_handler: list[ConnectionHandler] = []


def ask() -> None:
    """One query on a connection that is opened for it and closed."""
    ours = _handler[0]["default"]
    try:
        with ours.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        ours.close()


def view(request: HttpRequest) -> HttpResponse:
    ask()
    return HttpResponse()


async def async_view(request: HttpRequest) -> HttpResponse:
    await sync_to_async(ask)()
    return HttpResponse()


urlpatterns = [path("sync/", view), path("async/", async_view)]


@contextmanager
def database(**changes: Any) -> Iterator[Any]:
    """A connection of its own to the tests' PostgreSQL, closed at the end, with its pool."""
    with ExitStack() as stack:
        handler = ConnectionHandler(
            {"default": {**database_settings(os.environ["TEST_POSTGRES_URL"]), **changes}},
        )
        ours = handler["default"]
        if (changes.get("OPTIONS") or {}).get("pool"):
            stack.callback(ours.close_pool)
        stack.callback(handler.close_all)
        _handler[:] = [handler]
        yield ours


@contextmanager
def sqlite(name: str) -> Iterator[Any]:
    """A connection to the SQLite database ``name``, closed at the end."""
    handler = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": name}})
    try:
        yield handler["default"]
    finally:
        handler.close_all()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan, spans: Spans) -> str:
    (name,) = [
        each.name for each in spans if each.context and span.parent and each.context.span_id == span.parent.span_id
    ]
    return name
