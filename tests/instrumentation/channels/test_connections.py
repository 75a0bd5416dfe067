"""Test the spans of connections: handshakes of WebSockets, and HTTP requests that consumers answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from django.contrib.auth.models import User
from django.test import Client
from django.urls import path
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import spans as spans_module
from django_tracing.instrumentation.channels import connections
from django_tracing.semconv.names import Convention
from django_tracing.spans import runtime
from tests.conftest import Spans
from tests.instrumentation.channels.site import (
    HEADERS,
    Async,
    Socket,
    application,
    attributes_of,
    connected,
    failure,
    in_memory,
    page,
    refused,
    request,
    tracing,
)

OURS = (b"x-correlation-id", b"cid-1")
CALLER = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


async def test_a_handshake(spans: Spans) -> None:
    async with connected("/async/lobby/?page=2&token=s3cret", scheme="wss", client=["203.0.113.9", 55]):
        span = spans.one("WS /async/<room>/")
    assert span.kind is SpanKind.SERVER and span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    attributes = attributes_of(span)
    attributes.pop("sampling.rule", None), attributes.pop("sampling.rate", None)
    assert attributes == {
        "operation.type": "websocket",
        "correlation.id": "cid-1",
        "channels.consumer": f"{Async.__module__}.Async",
        "http.method": "GET",
        "http.route": "/async/<room>/",
        "http.status_code": 101,
        "http.url": "wss://shop.example/async/lobby/?page=2&token=[redacted]",
        "http.query.page": "2",
        "http.query.token": "[redacted]",
        "http.client_ip": "203.0.113.9",
        "http.user_agent": "pytest",
        "user.id": "7",
        "user.email": "a***@example.com",
    }


async def test_what_middleware_does_is_below_the_handshake(spans: Spans) -> None:
    async with connected("/async/lobby/"):
        span = spans.one("WS /async/<room>/")
    [found] = spans.named("cache.get.inner")
    assert found.parent is not None and found.parent.span_id == span.context.span_id


@pytest.mark.parametrize(("address", "trusted"), [("127.0.0.1", True), ("203.0.113.7", False), (None, False)])
async def test_a_callers_trace_is_continued_by_the_handshake_alone(
    spans: Spans, address: str | None, trusted: bool
) -> None:
    scope: dict[str, Any] = {} if address is None else {"client": (address, 5000)}
    client = await Socket("/async/lobby/", headers=[*HEADERS, CALLER], **scope).connect()
    await client.say("x")
    await client.disconnect()
    caller = 0x0AF7651916CD43DD8448EB211C80319C
    handshake = spans.one("WS /async/<room>/")
    assert (handshake.context.trace_id == caller) is trusted
    assert [link.context.trace_id for link in handshake.links] == ([] if trusted else [caller])
    assert spans.one("WS receive /async/<room>/").context.trace_id != caller


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/nested/12/async/", "WS /nested/<pk>/async/"),
        ("/wrapped/12/", "WS /wrapped/<int:pk>/"),
        ("/raw/", "WS /raw/"),
    ],
)
async def test_routes(spans: Spans, url: str, name: str) -> None:
    await Socket(url).connect()
    assert attributes_of(spans.one(name))["http.route"] == name[3:]


async def test_routes_below_a_prefix(spans: Spans) -> None:
    async with connected("/site/async/lobby/", root_path="/site"):
        assert attributes_of(spans.one("WS /async/<room>/"))["http.url"].endswith("/site/async/lobby/")


async def test_a_consumer_without_a_router(spans: Spans) -> None:
    async with connected("/anything/", Async.as_asgi()):
        assert "http.route" not in attributes_of(spans.one("WS (no route)"))


async def test_a_secret_in_the_path(spans: Spans) -> None:
    async with connected("/reset/3f9ab2c4d5/") as client:
        await client.say("x")
    assert attributes_of(spans.one("WS /reset/<token>/"))["http.url"] == "ws://shop.example/reset/[redacted]/"
    assert not any("3f9ab2c4d5" in span.to_json() for span in spans)


async def test_a_refused_connection_is_no_error(spans: Spans) -> None:
    assert await refused("/refusing/") == 4401
    span = spans.one("WS /refusing/")
    assert attributes_of(span)["http.status_code"] == 403
    assert span.status.status_code is StatusCode.UNSET


async def test_a_refused_origin_has_the_route_that_it_asked_for(spans: Spans) -> None:
    from channels.security.websocket import OriginValidator

    app = OriginValidator(URLRouter([path("async/<room>/", Async.as_asgi())]), ["https://shop.example"])
    await refused("/async/lobby/", connections_router(app), [(b"origin", b"https://evil.example")])
    assert attributes_of(spans.one("WS /async/<room>/"))["http.status_code"] == 403


def connections_router(app: Any) -> Any:
    from channels.routing import ProtocolTypeRouter

    return ProtocolTypeRouter({"websocket": app})


async def test_a_path_without_a_route(spans: Spans) -> None:
    client = Socket("/nowhere/")
    await client.send_input({"type": "websocket.connect"})
    await failure(client)
    span = spans.one("WS (no route)")
    assert span.status.status_code is StatusCode.ERROR, "the server answers with a status of 500"
    assert attributes_of(span)["error.type"] == "ValueError"


async def test_an_exception_in_connect_is_one_error(spans: Spans) -> None:
    client = Socket("/failing/")
    await client.send_input({"type": "websocket.connect"})
    await failure(client)
    span = spans.one("WS /failing/")
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for span in spans for event in span.events] == ["exception"]
    assert spans.names[-1] == "WS /failing/"


async def test_a_connection_that_is_cancelled_is_no_error(spans: Spans) -> None:
    class Waiting(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            await self.accept()
            await asyncio.Event().wait()

    client = await Socket("/", URLRouter([path("", Waiting.as_asgi())])).connect()
    assert spans.names == []
    client.future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.future
    span = spans.one("WS /")
    assert span.status.status_code is StatusCode.UNSET
    assert attributes_of(span)["http.client_disconnected"] is True


async def test_the_span_of_a_handshake_does_not_wait_for_a_connect_that_goes_on(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_LONGEST_CONNECT_NS", 0)
    async with connected("/pushing/"):
        pass
    assert spans.names.index("WS /pushing/") < spans.names.index("two")
    root = spans.one("WS /pushing/")
    assert {span.context.trace_id for span in spans if span.name in ("one", "two", "three")} == {
        root.context.trace_id
    }
    assert attributes_of(root)["http.status_code"] == 101


async def test_a_connect_of_a_moment_is_one_span(spans: Spans) -> None:
    async with connected("/pushing/"):
        pass
    assert spans.names.index("WS /pushing/") > spans.names.index("three")
    assert attributes_of(spans.one("WS /pushing/"))["websocket.sent"] == 3


@in_memory
@pytest.mark.parametrize("url", ["/async/lobby/", "/room/", "/page/one/"])
async def test_ignored_paths(spans: Spans, url: str) -> None:
    with tracing(IGNORE_PATHS=["/async", "/room", "/page"]):
        if url.startswith("/page"):
            assert (await page(url))[0]["status"] == 200
        else:
            async with connected(url) as client:
                await client.say('{"a": 1}')
    assert [span.name for span in spans if not span.name.startswith("cache.")] == []


@pytest.mark.parametrize("scope", [{"headers": [(1, 2)]}, {"path": None}, {"query_string": "text"}, {"asgi": 3}])
async def test_a_malformed_scope_costs_the_span_alone(spans: Spans, scope: dict[str, Any]) -> None:
    seen = []

    class Any_(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            seen.append(self.scope)
            await self.accept()

    async with connected("/", Any_.as_asgi(), **scope):
        pass
    assert len(seen) == 1


async def test_the_span_of_another_middleware_gets_the_attributes(spans: Spans) -> None:
    tracer = trace.get_tracer("opentelemetry.instrumentation.asgi")

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span(scope["path"], kind=SpanKind.SERVER):
            await application(scope, receive, send)

    async with connected("/async/lobby/", traced) as client:
        await client.say("x")
    theirs = spans.one("/async/lobby/")
    assert [span.name for span in spans if span.kind is SpanKind.SERVER] == ["/async/lobby/"]
    attributes = attributes_of(theirs)
    assert (attributes["http.route"], attributes["correlation.id"]) == ("/async/<room>/", "cid-1")
    message = spans.one("WS receive /async/<room>/")
    assert message.context.trace_id != theirs.context.trace_id
    assert [link.context.span_id for link in message.links] == [theirs.context.span_id]


async def test_a_name_that_the_site_gives_stays(spans: Spans) -> None:
    class Naming(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            trace.get_current_span().update_name("the lobby")
            await self.accept()

        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            trace.get_current_span().update_name("a greeting")
            await self.send(text_data="x")

    async with connected("/", URLRouter([path("", Naming.as_asgi())])) as client:
        await client.say("x")
    assert spans.names == ["the lobby", "a greeting", "WS disconnect /"]


@pytest.mark.parametrize(
    ("asgi", "given"), [({"spec_version": "2.3"}, True), ({"spec_version": "2.0"}, False), ({}, False)]
)
async def test_the_correlation_id_is_in_the_answer(asgi: dict[str, str], given: bool) -> None:
    async with connected("/async/lobby/", asgi=asgi) as client:
        headers = dict(client.answer.get("headers", ()))
    assert headers == ({b"x-correlation-id": b"cid-1"} if given else {})


@pytest.mark.parametrize(
    ("headers", "given"),
    [
        (None, [OURS]),
        ([(b"a", b"b")], [(b"a", b"b"), OURS]),
        (((b"a", b"b"),), [(b"a", b"b"), OURS]),
        # These as they are: there is one, or they are nothing that this app reads.
        ([(b"X-Correlation-ID", b"own")], None),
        (iter([(b"a", b"b")]), None),
        ([3], None),
        (3, None),
    ],
)
async def test_headers_that_the_site_sends_are_sent(headers: Any, given: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": headers})

    client = await Socket("/", URLRouter([path("", app)]), asgi={"spec_version": "2.3"}).connect()
    sent = client.answer["headers"]
    assert sent == given if given is not None else sent is headers


async def test_what_the_server_refuses_it_refuses_as_before() -> None:
    """Not this app, whatever the site's code passes to it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send("no message")

    sent = []

    async def server(message: Any) -> None:
        sent.append(message)

    await URLRouter([path("", app)])({"type": "websocket", "path": "/", "headers": []}, None, server)
    assert sent == [{"type": "websocket.accept"}, "no message"]


@pytest.mark.django_db(transaction=True)
async def test_the_user_of_the_session(spans: Spans) -> None:
    @database_sync_to_async
    def logged_in() -> tuple[str, str]:
        user = User.objects.create(username="bo", email="bo@example.com")
        client = Client()
        client.force_login(user)
        return str(user.pk), client.cookies["sessionid"].value

    key, session = await logged_in()
    spans.clear()
    app = connections_router(AuthMiddlewareStack(URLRouter([path("<room>/", Async.as_asgi())])))
    client = await Socket("/lobby/", app, [(b"cookie", f"sessionid={session}".encode())]).connect()
    await client.say("x")
    await client.disconnect()
    root, message = spans.one("WS /<room>/"), spans.one("WS receive /<room>/")
    assert attributes_of(root)["user.id"] == attributes_of(message)["user.id"] == key
    below = {span.name for span in spans if span.parent is not None and span.parent.span_id == root.context.span_id}
    assert {"db.select.auth_user", "db.select.django_session"} <= below
    assert session not in "".join(span.to_json() for span in spans)


async def test_stable_names_on_the_spans_of_the_sdk(spans: Spans) -> None:
    """As where another tracer than this app's own records."""
    changed = runtime.current.replace(
        tracer=trace.get_tracer("django_tracing"), factory=None, convention=Convention(["http"])
    )
    before = runtime.use(changed)
    spans_module.clear_caches()
    try:
        async with connected("/async/lobby/", client=["203.0.113.9", 55]) as client:
            await client.say("x")
    finally:
        runtime.use(before)
        spans_module.clear_caches()
    root, message = spans.one("WS /async/<room>/"), spans.one("WS receive /async/<room>/")
    attributes = attributes_of(root)
    assert (attributes["http.request.method"], attributes["http.response.status_code"]) == ("GET", 101)
    assert (attributes["url.full"], attributes["client.address"]) == ("ws://shop.example/async/lobby/", "203.0.113.9")
    assert [link.context for link in message.links] == [root.context]
    assert attributes_of(message)["url.full"] == "ws://shop.example/async/lobby/"


# ----- HTTP


async def test_a_request_that_a_consumer_answers(spans: Spans) -> None:
    start, body = await page("/page/one/?token=s3cret")
    assert body == b"a page"
    assert start["headers"] == [(b"x-correlation-id", b"cid-1")]
    span = spans.one("POST /page/<name>/")
    assert span.kind is SpanKind.SERVER
    attributes = attributes_of(span)
    assert (attributes["operation.type"], attributes["http.status_code"], attributes["user.id"]) == ("http", 200, "7")
    assert attributes["http.url"] == "http://shop.example/page/one/?token=[redacted]"
    assert [found.parent and found.parent.span_id for found in spans.named("cache.get.inner")] == [
        span.context.span_id
    ]


async def test_an_error_of_a_consumer_that_answers(spans: Spans) -> None:
    await failure(await request("/page/one/", b"fail"))
    assert spans.one("POST /page/<name>/").status.status_code is StatusCode.ERROR
    spans.clear()
    await page("/page/one/", b"500")
    assert attributes_of(spans.one("POST /page/<name>/"))["error.type"] == "500"


async def test_a_request_that_django_answers_has_one_span(spans: Spans) -> None:
    assert (await page("/nowhere/"))[0]["status"] == 404
    assert [span.name for span in spans if span.kind is SpanKind.SERVER] == ["POST (no route)"]


async def test_route_name(spans: Spans) -> None:
    with tracing(ROUTE_NAME=lambda request: request.path):
        await page("/page/one/")
        async with connected("/async/lobby/"):
            pass
    assert [span.name for span in spans if span.kind is SpanKind.SERVER] == ["POST /page/one/", "WS /async/<room>/"]
