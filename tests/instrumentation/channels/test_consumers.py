"""Test that Channels is patched only while it is traced, and works as before."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from channels import consumer
from channels.consumer import AsyncConsumer
from channels.layers import InMemoryChannelLayer
from channels.routing import ProtocolTypeRouter, URLRouter

from django_tracing.instrumentation import channels
from tests.conftest import Spans
from tests.instrumentation.channels.site import Page, application, connected, page

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
