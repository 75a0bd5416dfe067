"""Wrap what Channels calls for a connection: its routers, its consumers, and their way to handle messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final

from opentelemetry.context import Context

from django_tracing import spans
from django_tracing.context.request import without_trace
from django_tracing.instrumentation.channels.connections import Connection, open_connection
from django_tracing.instrumentation.channels.messages import start_handling
from django_tracing.instrumentation.patching import Patches

__all__ = ["patch_consumers", "patch_routers"]

#: The connection whose application is being called.
_current: Final[ContextVar[Connection | None]] = ContextVar("django_tracing.connection", default=None)
#: The connection and the consumer whose loop is about to start. A worker's consumer has no connection.
_serving: Final[ContextVar[tuple[Connection | None, Any] | None]] = ContextVar("django_tracing.serving", default=None)
#: The routers that an HTTP request has passed, with their scopes. Whether it reaches a consumer is not known before.
_passed: Final[ContextVar[tuple[tuple[Any, Any], ...]]] = ContextVar("django_tracing.routers", default=())


def patch_routers(patches: Patches) -> None:
    """Trace WebSockets from Channels' outermost router on, and find their routes."""
    from channels.routing import ProtocolTypeRouter, URLRouter

    patches.wrap(ProtocolTypeRouter, "__call__", lambda original: _traced_router(patches, original, routes=False))
    patches.wrap(URLRouter, "__call__", lambda original: _traced_router(patches, original, routes=True))


def patch_consumers(patches: Patches) -> None:
    """Trace consumers, and each message that they handle."""
    from channels import consumer

    patches.wrap(consumer.AsyncConsumer, "__call__", lambda original: _traced_consumer(patches, original))
    patches.wrap(consumer, "await_many_dispatch", lambda original: _traced_loop(patches, original))


def _connection_of(scope: Any) -> Connection | None:
    connection = _current.get()
    return connection if connection is not None and connection.is_of(scope) else None


async def _call(
    opened: tuple[Connection | None, Context | None], original: Any, self: Any, scope: Any, receive: Any, send: Any
) -> Any:
    """Call an application for a connection that was opened."""
    connection, context = opened
    token = None if context is None else spans.attach(context)
    current = _current.set(connection)
    try:
        return await original(self, scope, receive, send if connection is None else connection.send)
    except BaseException as error:
        if connection is not None:
            connection.end(error)
        raise
    finally:
        spans.detach(current)
        spans.detach(token)
        if connection is not None:
            connection.close()


def _traced_router(patches: Patches, original: Callable[..., Any], *, routes: bool) -> Callable[..., Any]:
    async def route(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        connection = _connection_of(scope)
        if connection is not None:
            connection.route(self, scope)
            return await original(self, scope, receive, send)
        token = _passed.set((*_passed.get(), (self, scope)))
        try:
            return await original(self, scope, receive, send)
        finally:
            spans.detach(token)

    inner = route if routes else original

    @wraps(original)
    async def call(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        if not patches.active:
            return await original(self, scope, receive, send)
        if scope.get("type") != "websocket" or _connection_of(scope) is not None:
            return await inner(self, scope, receive, send)
        return await _call(open_connection(self, scope, send), inner, self, scope, receive, send)

    return call


def _traced_consumer(patches: Patches, original: Callable[..., Any]) -> Callable[..., Any]:
    async def serve(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        connection = _connection_of(scope)
        serving: tuple[Connection | None, Any] | None = None
        if connection is not None:
            connection.serve(self, scope)
            serving = connection, self
        elif scope.get("type") == "channel":
            serving = None, self
        token = _serving.set(serving)
        try:
            return await original(self, scope, receive, send)
        finally:
            spans.detach(token)

    @wraps(original)
    async def call(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        if not patches.active:
            return await original(self, scope, receive, send)
        if scope.get("type") not in ("websocket", "http") or _connection_of(scope) is not None:
            return await serve(self, scope, receive, send)
        passed = _passed.get()
        opened = open_connection(passed[0][0] if passed else self, scope, send)
        if opened[0] is not None:
            for router, its_scope in passed:
                opened[0].route(router, its_scope)
        return await _call(opened, serve, self, scope, receive, send)

    return call


def _traced_loop(patches: Patches, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def await_many_dispatch(consumer_callables: Any, dispatch: Any) -> Any:
        serving = _serving.get()
        if serving is None or not patches.active:
            return await original(consumer_callables, dispatch)
        connection, consumer = serving
        # What waits for messages is no part of a trace, and neither is what a handler starts a part of this loop.
        token = _serving.set(None)
        base = without_trace(spans.current_context()) if connection is None else connection.base
        attached = spans.attach(base)
        try:
            return await original(consumer_callables, _traced_dispatch(patches, connection, consumer, dispatch))
        finally:
            spans.detach(attached)
            spans.detach(token)

    return await_many_dispatch


def _traced_dispatch(
    patches: Patches, connection: Connection | None, consumer: Any, dispatch: Callable[[Any], Awaitable[Any]]
) -> Callable[[Any], Awaitable[Any]]:
    async def traced(message: Any) -> Any:
        handling = start_handling(connection, consumer, message) if patches.active else None
        if handling is None:
            return await dispatch(message)
        try:
            result = await dispatch(message)
        except BaseException as error:
            handling.end(error)
            raise
        handling.end(None)
        return result

    return traced
