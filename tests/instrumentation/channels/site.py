"""Provide a site with Channels for these tests: its consumers, its application, and clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.core.cache import cache
from django.test import override_settings
from django.urls import path, re_path
from opentelemetry.sdk.trace import ReadableSpan

from django_tracing import create_span
from tests.conftest import Spans

ADA = User(pk=7, username="ada", email="ada@example.com")
HEADERS = [(b"host", b"shop.example"), (b"user-agent", b"pytest"), (b"x-correlation-id", b"cid-1")]

in_memory = override_settings(CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}})


def tracing(**settings: Any) -> Any:
    return override_settings(TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "off", **settings})


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class Async(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        cache.get("inner")
        if text_data == "fail":
            raise ValueError("failed")
        if text_data == "login":
            self.scope["user"] = ADA
        await self.send(text_data=text_data or "binary")


class Sync(WebsocketConsumer):
    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        cache.get("inner")
        if text_data == "fail":
            raise ValueError("failed")
        self.send(text_data=text_data or "binary")


class AsyncJson(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        cache.get("inner")
        if content == "fail":
            raise ValueError("failed")
        await self.send_json(content)


class Json(JsonWebsocketConsumer):
    def receive_json(self, content: Any, **kwargs: Any) -> None:
        cache.get("inner")
        if content == "fail":
            raise ValueError("failed")
        self.send_json(content)


class Room(AsyncJsonWebsocketConsumer):
    groups = ("chat",)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_send("chat", {"type": "chat.message", **content})

    async def chat_message(self, event: Any) -> None:
        cache.get("inner")
        await self.send_json(event)


class Refusing(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.close(code=4401)


class Failing(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        cache.get("inner")
        raise ValueError("failed")


class Pushing(AsyncWebsocketConsumer):
    """Send all that it has in ``connect``, as some tutorials do."""

    async def connect(self) -> None:
        await self.accept()
        for text in ("one", "two", "three"):
            await self.send(text_data=text)
            with create_span(text):
                pass


class Page(AsyncHttpConsumer):
    async def handle(self, body: bytes) -> None:
        cache.get("inner")
        if body == b"fail":
            raise ValueError("failed")
        await self.send_response(500 if body == b"500" else 200, b"a page")


class Worker(SyncConsumer):
    def thumb_make(self, event: Any) -> None:
        cache.get("inner")


class Raw(AsyncConsumer):
    """Handle the messages of a WebSocket without the help of Channels' generic consumers."""

    async def websocket_connect(self, event: Any) -> None:
        await self.send({"type": "websocket.accept"})

    async def websocket_receive(self, event: Any) -> None:
        await self.send({"type": "websocket.send", "text": "raw"})


class WithUser:
    """A middleware of a site that puts a user into the scope."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        cache.get("inner")
        return await self.inner({**scope, "user": ADA}, receive, send)


sockets = URLRouter(
    [
        path("async/<room>/", Async.as_asgi()),
        path("sync/<room>/", Sync.as_asgi()),
        path("async_json/<room>/", AsyncJson.as_asgi()),
        path("json/<room>/", Json.as_asgi()),
        path("room/", Room.as_asgi()),
        path("refusing/", Refusing.as_asgi()),
        path("failing/", Failing.as_asgi()),
        path("pushing/", Pushing.as_asgi()),
        path("raw/", Raw.as_asgi()),
        path("reset/<token>/", Async.as_asgi()),
        path("nested/", URLRouter([re_path(r"^(?P<pk>[0-9]+)/async/$", Async.as_asgi())])),
        re_path(r"^wrapped/", WithUser(URLRouter([path("<int:pk>/", Async.as_asgi())]))),
    ]
)
application = ProtocolTypeRouter(
    {
        "websocket": OriginValidator(WithUser(sockets), ["https://shop.example", "*"]),
        "http": URLRouter([path("page/<name>/", WithUser(Page.as_asgi())), re_path("", get_asgi_application())]),
        "channel": ChannelNameRouter({"thumbs": Worker.as_asgi()}),
    }
)


class Socket(ApplicationCommunicator):
    """The client of a WebSocket. Channels has one, too, which needs daphne."""

    def __init__(self, url: str, app: Any = application, headers: Any = HEADERS, **scope: Any) -> None:
        path, _, query = url.partition("?")
        super().__init__(
            app,
            {
                "type": "websocket",
                "path": path,
                "query_string": query.encode(),
                "headers": list(headers),
                "subprotocols": [],
                **scope,
            },
        )
        #: The answer to the handshake.
        self.answer: dict[str, Any] = {}

    async def connect(self) -> Socket:
        await self.send_input({"type": "websocket.connect"})
        self.answer = await self.receive_output(5)
        return self

    async def say(self, said: str | bytes) -> Any:
        """Send a message, and return the answer."""
        await self.send_input({"type": "websocket.receive", "text" if isinstance(said, str) else "bytes": said})
        return await self.hear()

    async def hear(self) -> Any:
        return (await self.receive_output(5))["text"]

    async def disconnect(self) -> None:
        await self.send_input({"type": "websocket.disconnect", "code": 1000})
        await self.wait(5)


@asynccontextmanager
async def connected(url: str, app: Any = application, **scope: Any) -> AsyncIterator[Socket]:
    """Connect to ``url``, and disconnect at the end of the block."""
    client = await Socket(url, app, **scope).connect()
    assert client.answer["type"] == "websocket.accept"
    yield client
    await client.disconnect()


async def refused(url: str, app: Any = application, headers: Any = HEADERS) -> Any:
    """Return the code with which a connection is refused, or None."""
    client = await Socket(url, app, headers).connect()
    assert client.answer["type"] == "websocket.close"
    await client.disconnect()
    return client.answer.get("code")


async def ended(spans: Spans, name: str) -> ReadableSpan:
    """Wait for the end of the span called ``name``, and return it."""

    async def waiting() -> None:
        while not spans.named(name):
            await asyncio.sleep(0.005)

    await asyncio.wait_for(waiting(), 5)
    return spans.one(name)


async def failure(client: ApplicationCommunicator, kind: type[BaseException] = ValueError) -> None:
    """Wait until the application fails with an exception of ``kind``."""
    with pytest.raises(kind):
        await asyncio.wait_for(client.future, 5)


async def request(url: str, body: bytes = b"") -> ApplicationCommunicator:
    """Send a POST to the application."""
    path, _, query = url.partition("?")
    scope = {"type": "http", "method": "POST", "path": path, "query_string": query.encode(), "headers": HEADERS}
    client = ApplicationCommunicator(application, scope)
    await client.send_input({"type": "http.request", "body": body})
    return client


async def page(url: str, body: bytes = b"") -> tuple[dict[str, Any], bytes]:
    """Return the response of the application to a POST: its start, and its body."""
    # A 404 of Django's is logged.
    logging.getLogger("django.request").disabled = True
    try:
        client = await request(url, body)
        start, end = await client.receive_output(5), await client.receive_output(5)
        await client.wait(5)
        return start, end["body"]
    finally:
        logging.getLogger("django.request").disabled = False
