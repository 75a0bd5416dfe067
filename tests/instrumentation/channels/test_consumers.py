"""Test that Channels is patched only while it is traced, and works as before."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from channels import consumer
from channels.consumer import AsyncConsumer
from channels.layers import InMemoryChannelLayer, get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter

from django_tracing import create_span
from django_tracing.instrumentation import channels
from django_tracing.instrumentation.channels import connections, layers, messages
from tests.conftest import Spans
from tests.instrumentation.channels.site import Page, application, connected, in_memory, page

PATCHED: list[tuple[Any, str]] = [
    (AsyncConsumer, "__call__"),
    (ProtocolTypeRouter, "__call__"),
    (URLRouter, "__call__"),
    (consumer, "await_many_dispatch"),
    (InMemoryChannelLayer, "send"),
    (InMemoryChannelLayer, "group_send"),
    (InMemoryChannelLayer, "receive"),
]


async def test_after_uninstall_channels_is_as_before(spans: Spans) -> None:
    channels.uninstall()
    try:
        assert not any(hasattr(vars(owner)[name], "__wrapped__") for owner, name in PATCHED)
        async with connected("/async/lobby/") as client:
            assert await client.say("x") == "x"
        await page("/page/one/")
        assert spans.names == []
    finally:
        channels.install()
        channels.install()
    async with connected("/async/lobby/"):
        pass
    assert spans.names.count("WS /async/<room>/") == 1


async def test_a_connection_goes_on_when_it_is_switched_off(spans: Spans) -> None:
    async with connected("/async/lobby/") as client:
        channels.uninstall()
        try:
            assert await client.say("x") == "x"
        finally:
            channels.install()
    assert "WS receive /async/<room>/" not in spans.names


@pytest.mark.parametrize(("owner", "name"), PATCHED)
def test_servers_see_coroutine_functions(owner: Any, name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(owner, name))


def test_what_channels_tells_of_an_application_is_as_before() -> None:
    app: Any = Page.as_asgi()
    assert app.consumer_class is Page
    assert inspect.iscoroutinefunction(application.__call__)


@in_memory
@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((connections, name) for name in ("describe", "identify", "matched_route", "span_name", "incoming_id")),
        *(
            (connections, name)
            for name in ("is_left_out", "urlconf_of_app", "read_caller", "class_path", "get_settings")
        ),
        *((messages, name) for name in ("describe", "identify", "extract", "class_path", "with_request_state")),
        *((messages, name) for name in ("shown_type", "get_settings", "incoming_id")),
        *((layers, name) for name in ("inject", "key_pattern", "class_path", "shown_type")),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_an_error_of_this_app_costs_a_span_alone(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch, spans: Spans
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(module, name, broken)
    with create_span("around"):
        async with connected("/room/") as client:
            assert json.loads(await client.say('{"text": "x"}')) == {"type": "chat.message", "text": "x"}
        async with connected("/sync/lobby/") as client:
            assert await client.say("x") == "x"
        assert (await page("/page/one/"))[1] == b"a page"
        await get_channel_layer().send("one", {"type": "x"})
        assert await get_channel_layer().receive("one") == {"type": "x"}
