"""Test the spans of messages that consumers handle."""

from __future__ import annotations

import json
import pickle
from asyncio import CancelledError
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from django.urls import path
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span
from django_tracing.context.request import get_request_state
from django_tracing.instrumentation.channels import messages
from django_tracing.instrumentation.channels.messages import CARRIER, CarriedMessage
from django_tracing.sampling.rules import Rule
from tests.conftest import Spans
from tests.instrumentation.channels.site import (
    Socket,
    application,
    attributes_of,
    connected,
    ended,
    failure,
    in_memory,
    tracing,
)
from tests.sampling.test_deciding import site

__all__ = ["site"]

GROUP = {"type": "chat.message", "text": "hello"}


@pytest.mark.parametrize("kind", ["async", "sync", "async_json", "json"])
async def test_a_message_is_a_trace_of_its_own_with_a_link(spans: Spans, kind: str) -> None:
    async with connected(f"/{kind}/lobby/?token=s3cret") as client:
        await client.say(json.dumps("my words"))
        await client.say(json.dumps("my words"))
    handshake = spans.one(f"WS /{kind}/<room>/")
    first, second = spans.named(f"WS receive /{kind}/<room>/")
    assert first.kind is SpanKind.CONSUMER and first.parent is None
    assert len({handshake.context.trace_id, first.context.trace_id, second.context.trace_id}) == 3
    assert [link.context for link in first.links] == [handshake.context]
    attributes = attributes_of(first)
    attributes.pop("sampling.rule", None), attributes.pop("sampling.rate", None)
    consumer = {"async": "Async", "sync": "Sync", "async_json": "AsyncJson", "json": "Json"}[kind]
    assert attributes == {
        "operation.type": "websocket",
        "websocket.event": "receive",
        "websocket.message.type": "text",
        "websocket.message.length": 10,
        "websocket.sent": 1,
        "channels.consumer": f"tests.instrumentation.channels.site.{consumer}",
        "http.route": f"/{kind}/<room>/",
        "http.url": f"ws://shop.example/{kind}/lobby/?token=[redacted]",
        "http.query.token": "[redacted]",
        "correlation.id": "cid-1",
        "user.id": "7",
        "user.email": "a***@example.com",
    }
    below = [span for span in spans.named("cache.get.inner") if span.context.trace_id == first.context.trace_id]
    assert [span.parent and span.parent.span_id for span in below] == [first.context.span_id]
    assert not any(word in span.to_json() for span in spans for word in ("my words", "s3cret"))


async def test_binary_messages(spans: Spans) -> None:
    async with connected("/async/lobby/") as client:
        await client.say(b"\x00\x01\x02")
    attributes = attributes_of(spans.one("WS receive /async/<room>/"))
    assert (attributes["websocket.message.type"], attributes["websocket.message.length"]) == ("binary", 3)


async def test_the_end_of_a_connection_has_its_totals(spans: Spans) -> None:
    async with connected("/async/lobby/") as client:
        for _ in range(3):
            await client.say("x")
    span = spans.one("WS disconnect /async/<room>/")
    assert [link.context for link in span.links] == [spans.one("WS /async/<room>/").context]
    attributes = attributes_of(span)
    assert attributes["websocket.close.code"] == 1000
    assert (attributes["websocket.total.received"], attributes["websocket.total.sent"]) == (3, 3)
    assert attributes["websocket.total.seconds"] > 0
    assert span.status.status_code is StatusCode.UNSET, "StopConsumer is no error"


@pytest.mark.parametrize("kind", ["async", "sync", "async_json", "json"])
async def test_an_exception_is_one_error_of_its_message(spans: Spans, kind: str) -> None:
    client = await Socket(f"/{kind}/lobby/").connect()
    await client.send_input({"type": "websocket.receive", "text": '"fail"' if "json" in kind else "fail"})
    await failure(client)
    span = spans.one(f"WS receive /{kind}/<room>/")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes_of(span)["error.type"] == "ValueError"
    [event] = [event for found in spans for event in found.events]
    _, *frames = str((event.attributes or {})["exception.stacktrace"]).split("  File ")
    assert len(frames) == 1 and "site.py" in frames[0], "the stack begins with the user's code, not with a server's"
    assert spans.one(f"WS /{kind}/<room>/").status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("raised", "disconnected"), [(ConnectionResetError("gone"), True), (CancelledError(), True), (OSError(5), False)]
)
async def test_a_client_that_has_gone_is_no_error(spans: Spans, raised: BaseException, disconnected: bool) -> None:
    """As uvicorn and others say it, by an OSError of ``send``. An OSError of the site's own code is an error."""

    class Answering(AsyncWebsocketConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            if not disconnected:
                raise raised
            await self.send(text_data="x")

    async def server(scope: Any, receive: Any, send: Any) -> None:
        async def refusing(message: Any) -> None:
            if message["type"] == "websocket.send":
                raise raised
            await send(message)

        await URLRouter([path("", Answering.as_asgi())])(scope, receive, refusing)

    client = await Socket("/", server).connect()
    await client.send_input({"type": "websocket.receive", "text": "x"})
    await failure(client, type(raised))
    span = spans.one("WS receive /")
    assert span.status.status_code is (StatusCode.UNSET if disconnected else StatusCode.ERROR)
    assert attributes_of(span).get("http.client_disconnected", False) is disconnected
    assert bool(span.events) is not disconnected


async def test_a_user_who_logs_in_later(spans: Spans) -> None:
    from tests.instrumentation.channels.site import Async

    async with connected("/", URLRouter([path("", Async.as_asgi())])) as client:
        for text in ("x", "login", "x"):
            await client.say(text)
    assert [attributes_of(span).get("user.id") for span in spans.named("WS receive /")] == [None, "7", "7"]
    assert "user.id" not in attributes_of(spans.one("WS /"))


async def test_what_is_running_has_its_own_name() -> None:
    """The pages show spans of a message that is being handled under this name."""
    running = []

    class Own(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            running.append(get_request_state().running_name())  # type: ignore[union-attr]
            await self.accept()

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            running.append(get_request_state().running_name())  # type: ignore[union-attr]
            await self.send(text_data="x")

    async with connected("/lobby/", URLRouter([path("<room>/", Own.as_asgi())])) as client:
        await client.say("x")
    assert running == ["WS /<room>/", "WS receive /<room>/"]


async def test_messages_without_a_trace_start_none(spans: Spans, site: Any) -> None:
    class Own(AsyncWebsocketConsumer):
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            with create_span("inside"):
                await self.send(text_data="x")

    one = site(SAMPLE_RATE=0.0)
    async with connected("/", URLRouter([path("", Own.as_asgi())])) as client:
        assert await client.say("x") == "x"
    assert one.exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    "rule",
    [
        {"path": "/async/*"},
        {"path": "/async/<room>/"},
        {"method": "WS"},
        {"user_id": "7"},
        {"header_name": "X-Correlation-ID", "header_value": "cid-1"},
    ],
    ids=str,
)
async def test_rules_for_connections_and_messages(site: Any, rule: dict[str, str]) -> None:
    one = site(Rule(1, "rule", **rule), SAMPLE_RATE=0.0)
    async with connected("/async/lobby/") as client:
        await client.say("x")
    found = one.exporter.get_finished_spans()
    assert [span.name for span in found if not span.name.startswith("cache.")] == [
        "WS /async/<room>/",
        "WS receive /async/<room>/",
        "WS disconnect /async/<room>/",
    ]
    assert {attributes_of(span)["sampling.rule"] for span in found if span.parent is None} == {"rule"}


async def test_a_message_that_fails_is_kept_whatever_its_connection(site: Any) -> None:
    one = site(SAMPLE_RATE=0.0, KEEP_ERRORS=True)
    client = await Socket("/async/lobby/").connect()
    await client.say("x")
    await client.send_input({"type": "websocket.receive", "text": "fail"})
    await failure(client)
    found = one.exporter.get_finished_spans()
    assert sorted(span.name for span in found) == ["WS receive /async/<room>/", "cache.get.inner"]
    assert [link for span in found for link in span.links] == [], "the connection was not kept"


# ----- from channel layers


@in_memory
async def test_what_a_consumer_sends_to_its_group_is_handled_in_its_trace(spans: Spans) -> None:
    async with connected("/room/") as client:
        handshake = spans.one("WS /room/")
        # The client gets what was sent, and nothing more.
        assert json.loads(await client.say('{"text": "my words"}')) == {"type": "chat.message", "text": "my words"}
    received, sent, handled = (
        spans.one(name)
        for name in ("WS receive /room/", "channel.group_send.chat.message", "channel.receive.chat.message")
    )
    assert sent.parent is not None and sent.parent.span_id == received.context.span_id
    assert handled.parent is not None and handled.parent.span_id == sent.context.span_id
    assert handled.kind is SpanKind.CONSUMER
    assert [link.context for link in handled.links] == [handshake.context]
    attributes = attributes_of(handled)
    assert (attributes["operation.type"], attributes["channel.type"]) == ("channel", "chat.message")
    assert (attributes["http.route"], attributes["websocket.sent"], attributes["user.id"]) == ("/room/", 1, "7")
    assert attributes["correlation.id"] == "cid-1"
    [inner] = [span for span in spans.named("cache.get.inner") if span.context.trace_id == handled.context.trace_id]
    assert inner.parent is not None and inner.parent.span_id == handled.context.span_id
    assert not any("my words" in span.to_json() for span in spans)


@in_memory
async def test_what_is_sent_outside_a_trace_is_handled_in_a_new_one(spans: Spans) -> None:
    async with connected("/room/") as client:
        handshake = spans.one("WS /room/")
        await get_channel_layer().group_send("chat", GROUP)
        assert json.loads(await client.hear()) == GROUP
    span = spans.one("channel.receive.chat.message")
    assert span.parent is None
    assert [link.context for link in span.links] == [handshake.context]


@in_memory
async def test_tasks_link(spans: Spans) -> None:
    with tracing(TASKS="link"):
        async with connected("/room/") as client:
            await client.say('{"text": "x"}')
    sent, handled = spans.one("channel.group_send.chat.message"), spans.one("channel.receive.chat.message")
    assert handled.parent is None
    assert [link.context.span_id for link in handled.links] == [
        sent.context.span_id,
        spans.one("WS /room/").context.span_id,
    ]


@in_memory
async def test_a_large_group_does_not_make_a_large_trace(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_MOST_CONTINUED", 2)
    clients = [await Socket("/room/").connect() for _ in range(4)]
    with create_span("broadcast"):
        await get_channel_layer().group_send("chat", GROUP)
    for client in clients:
        assert json.loads(await client.hear()) == GROUP
        await client.disconnect()
    sent = spans.one("channel.group_send.chat.message")
    handled = spans.named("channel.receive.chat.message")
    assert [span.parent is not None for span in handled].count(True) == 2
    assert all(sent.context.span_id in {link.context.span_id for link in span.links} for span in handled[2:])


def test_the_counts_of_sendings_are_bounded() -> None:
    from opentelemetry.trace import SpanContext, TraceFlags

    for number in range(1, 3 * messages._MOST_SENDINGS):
        assert messages._may_continue(SpanContext(1, number, True, TraceFlags(1)))
    assert len(messages._continued) <= messages._MOST_SENDINGS


@in_memory
async def test_a_sender_that_is_not_sampled(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many its group has."""
    monkeypatch.setattr(messages, "_MOST_CONTINUED", 0)
    one = site(Rule(1, "none", path="page", rate=0.0), SAMPLE_RATE=1.0)
    async with connected("/room/") as client:
        with create_span("page"):
            await get_channel_layer().group_send("chat", GROUP)
        assert json.loads(await client.hear()) == GROUP
    names = [span.name for span in one.exporter.get_finished_spans() if span.name != "cache.get.inner"]
    assert names == ["WS /room/", "WS disconnect /room/"]


@pytest.mark.parametrize("carrier", [None, 3, {}, {"traceparent": 7}, {"traceparent": "x" * 5000}, ["traceparent"]])
async def test_a_strange_carrier(spans: Spans, carrier: Any) -> None:
    """Whatever another process has put there, the handler gets its message."""
    worker = ApplicationCommunicator(application, {"type": "channel", "channel": "thumbs"})
    await worker.send_input(CarriedMessage({"type": "thumb.make", CARRIER: carrier}))
    span = await ended(spans, "channel.receive.thumb.make")
    assert span.parent is None and span.status.status_code is StatusCode.UNSET


async def test_the_consumer_of_a_worker(spans: Spans) -> None:
    worker = ApplicationCommunicator(application, {"type": "channel", "channel": "thumbs"})
    await worker.send_input({"type": "thumb.make"})
    span = await ended(spans, "channel.receive.thumb.make")
    assert attributes_of(span)["channels.consumer"] == "tests.instrumentation.channels.site.Worker"
    [inner] = spans.named("cache.get.inner")
    assert inner.parent is not None and inner.parent.span_id == span.context.span_id


@pytest.mark.parametrize("kind", ["with a blank", "x" * 200, "ada@example.com"])
async def test_a_type_that_is_no_name_is_not_shown(spans: Spans, kind: str) -> None:
    worker = ApplicationCommunicator(application, {"type": "channel", "channel": "thumbs"})
    await worker.send_input({"type": kind})
    await failure(worker)
    assert spans.names == ["channel.receive"]


def test_a_carried_message_is_a_plain_dict_to_everyone_else() -> None:
    message = CarriedMessage({"type": "x", CARRIER: {"traceparent": "y"}})
    assert message == {"type": "x"}
    assert json.dumps(message) == '{"type": "x"}'
    assert type(pickle.loads(pickle.dumps(message))) is dict  # noqa: S301 - it was pickled here
