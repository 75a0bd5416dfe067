"""Test what is sent through channel layers: in memory, and through a real Redis in both of channels_redis' ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.test import override_settings
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span
from django_tracing.instrumentation.channels.messages import CARRIER, CarriedMessage
from tests.conftest import Spans
from tests.instrumentation.channels.site import attributes_of

LAYERS = {
    "memory": "channels.layers.InMemoryChannelLayer",
    "redis": "channels_redis.core.RedisChannelLayer",
    "pubsub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
MESSAGE = {"type": "chat.message", "text": "my words"}


@pytest.fixture(params=list(LAYERS))
async def layer(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    options = {} if request.param == "memory" else {"hosts": [request.getfixturevalue("redis_url")]}
    settings = {"default": {"BACKEND": LAYERS[request.param], "CONFIG": options}}
    with override_settings(CHANNEL_LAYERS=settings):
        found: Any = get_channel_layer()
        yield found
        await found.flush()


async def test_a_message_of_a_trace(spans: Spans, layer: Any) -> None:
    channel = await layer.new_channel()
    with create_span("page"):
        await layer.send(channel, MESSAGE)
    received = await asyncio.wait_for(layer.receive(channel), 5)
    assert received == MESSAGE, "nobody else sees how the context travels"
    sent = spans.one("channel.send.chat.message")
    assert sent.kind is SpanKind.PRODUCER
    assert sent.parent is not None and sent.parent.span_id == spans.one("page").context.span_id
    attributes = attributes_of(sent)
    assert (attributes["operation.type"], attributes["channel.type"]) == ("channel", "chat.message")
    assert "channel.name" not in attributes, "it is random"
    assert f"{sent.context.span_id:016x}" in received.carrier["traceparent"]
    assert not any("my words" in span.to_json() for span in spans)


async def test_each_member_of_a_group_gets_the_context(spans: Spans, layer: Any) -> None:
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("orders", channel)
    with create_span("page"):
        await layer.group_send("orders", MESSAGE)
    received = [await asyncio.wait_for(layer.receive(channel), 5) for channel in channels]
    assert received == [MESSAGE] * 3
    sent = spans.one("channel.group_send.chat.message")
    assert all(f"{sent.context.span_id:016x}" in found.carrier["traceparent"] for found in received)
    assert attributes_of(sent)["channel.group"] == "orders"
    assert [span.name for span in spans if span.name.startswith("channel.")] == ["channel.group_send.chat.message"]


async def test_outside_a_trace_a_message_is_sent_as_it_is(spans: Spans, layer: Any) -> None:
    channel = await layer.new_channel()
    await layer.send(channel, MESSAGE)
    received = await asyncio.wait_for(layer.receive(channel), 5)
    assert received == MESSAGE and type(received) is dict
    assert spans.names == []


@pytest.fixture
def memory() -> InMemoryChannelLayer:
    return InMemoryChannelLayer(capacity=1)


async def test_the_senders_message_is_not_changed(spans: Spans, memory: Any) -> None:
    message = dict(MESSAGE)
    with create_span("page"):
        await memory.send(channel="one", message=message)
        await memory.send("two", message=message)
    assert message == MESSAGE
    assert [await memory.receive(name) for name in ("one", "two")] == [MESSAGE] * 2
    assert spans.names.count("channel.send.chat.message") == 2


@pytest.mark.parametrize(
    ("group", "shown"), [("orders", "orders"), ("user_ada", "user_*"), ("3f9ab2c4", None), ("order-12", "order-*")]
)
async def test_names_of_groups_are_patterns(spans: Spans, memory: Any, group: str, shown: str | None) -> None:
    with create_span("page"):
        await memory.group_send(group, MESSAGE)
    assert attributes_of(spans.one("channel.group_send.chat.message")).get("channel.group") == shown


async def test_a_full_channel_is_an_error(spans: Spans, memory: Any) -> None:
    with create_span("page"):
        await memory.send("one", MESSAGE)
        with pytest.raises(ChannelFull):
            await memory.send("one", MESSAGE)
    first, second = spans.named("channel.send.chat.message")
    assert first.status.status_code is StatusCode.UNSET
    assert second.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("arguments", [("one", "no dict"), ("one",), (), ("one", {"type": 3})])
async def test_what_a_layer_refuses_it_refuses_as_before(memory: Any, arguments: tuple[Any, ...]) -> None:
    async def outcome() -> Any:
        try:
            return await memory.send(*arguments)
        except Exception as error:
            return type(error), str(error)

    untraced = await outcome()
    await memory.flush()
    with create_span("page"):
        assert await outcome() == untraced


async def test_a_layer_of_ones_own(spans: Spans) -> None:
    class Own(InMemoryChannelLayer):
        async def send(self, channel: str, message: Any) -> None:
            await super().send(channel, message)

    own = Own()
    await own.group_add("orders", "one")
    with create_span("page"):
        await own.group_send("orders", MESSAGE)
        await own.send("two", MESSAGE)
    assert await own.receive("one") == await own.receive("two") == MESSAGE
    assert [span.name for span in spans] == [
        "channel.group_send.chat.message",
        "channel.send.chat.message",
        "page",
    ]


async def test_a_message_from_before_the_app_was_removed(memory: Any) -> None:
    from django_tracing.instrumentation import channels

    with create_span("page"):
        await memory.send("one", MESSAGE)
    received = await memory.receive("one")
    assert isinstance(received, CarriedMessage) and CARRIER not in received
    channels.uninstall()
    try:
        with create_span("page"):
            await memory.send("one", MESSAGE)
        assert type(await memory.receive("one")) is dict
    finally:
        channels.install()
