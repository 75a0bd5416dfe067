"""Keep the trace current while a streamed body is created, and while a response is closed.

The parts of a body are created one at a time, when the view has long returned; between two of them the server is at
work. Each part is created in the OpenTelemetry context that the part before it left: a span that a generator opens is
current until it is closed, and never outside the generator. Other context variables are left alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import Token
from functools import partial, wraps
from typing import Any, Final

from opentelemetry.context import Context

from django_tracing import spans
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches

__all__ = ["AsyncBody", "Body", "Closer", "Responding", "install", "uninstall"]

_patches: Final = Patches()


class Responding:
    """A request whose response is being sent. A :class:`Closer` of the response calls its method ``closed``."""

    __slots__ = ("context", "ended", "exhausted", "started")

    #: That of the view: current while the response is closed.
    context: Context
    #: Whether the server took the first part of a streamed body, and its last.
    started: bool
    exhausted: bool
    #: Whether its span has ended.
    ended: bool

    def close_with(self, closers: list[Any]) -> None:
        """Have ``closed`` called when the response is closed, after its other ``closers``."""
        # A site may return one response again and again, and not each of them is closed.
        closers[:] = [each for each in closers if not (isinstance(each, Closer) and each.responding.ended)]
        closers.append(Closer(self, self.closed))

    def closed(self) -> None:
        raise NotImplementedError

    def stream_ended(self) -> None:
        raise NotImplementedError

    def stream_failed(self, error: BaseException) -> None:
        raise NotImplementedError


class Closer:
    """One of the functions that Django calls when it closes a response. In a copy of the response it does nothing."""

    __slots__ = ("_close", "responding")

    def __init__(self, responding: Responding, close: Callable[[], None]) -> None:
        self.responding = responding
        self._close = close

    def __call__(self) -> None:
        self._close()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Caches pickle responses. What they keep can be read without this app.
        return partial, (int,)


class _Stream:
    """A body, and the context that its last part has left."""

    __slots__ = ("_body", "_context", "_responding", "_token")

    def __init__(self, responding: Responding, body: Any, closers: list[Any]) -> None:
        self._responding = responding
        self._body: Any = body
        self._context = responding.context
        self._token: Token[Context] | None = None
        # The generator, and those that it is wrapped around, are closed in between. Their last lines may close spans,
        # and make some.
        closers.insert(0, Closer(responding, self._resume))
        closers.append(Closer(responding, self._close))

    def _resume(self) -> None:
        self._token = spans.attach(self._context)

    def _pause(self) -> None:
        self._context = spans.current_context()
        token, self._token = self._token, None
        spans.detach(token)

    def _close(self) -> None:
        # Django does not close an async generator whose client has gone. asyncio does when the last reference to it
        # is given up, in a task of its own, which copies the context in which that happens.
        self._body = None
        self._pause()


class Body(_Stream, Iterator[Any]):
    """A sync body whose parts are created while the request's span is current."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return iter, (self._body,)

    def __next__(self) -> Any:
        if self._body is None:
            raise StopIteration
        before = spans.current_context()
        try:
            return self._next()
        except BaseException as error:
            spans.put_back(before, error)
            raise

    def _next(self) -> Any:
        self._responding.started = True
        self._resume()
        try:
            return next(self._body)
        except StopIteration:
            self._responding.stream_ended()
            raise
        except BaseException as error:
            self._responding.stream_failed(error)
            raise
        finally:
            self._pause()


class AsyncBody(_Stream, AsyncIterator[Any]):
    """An async body whose parts are created while the request's span is current."""

    __slots__ = ()

    async def __anext__(self) -> Any:
        if self._body is None:
            raise StopAsyncIteration
        self._responding.started = True
        self._resume()
        try:
            return await self._body.__anext__()
        except StopAsyncIteration:
            self._responding.stream_ended()
            raise
        except BaseException as error:
            self._responding.stream_failed(error)
            raise
        finally:
            self._pause()


def install() -> None:
    """Keep the trace current while a response is closed: for its closers and for receivers of request_finished."""
    if _patches.start():
        when_imported("django.http.response", _patch)


def uninstall() -> None:
    """Close responses as Django does."""
    _patches.stop()


def _patch() -> None:
    from django.http.response import HttpResponseBase

    _patches.wrap(HttpResponseBase, "close", _traced_close)


def _traced_close(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def close(self: Any) -> Any:
        responding = _responding(self) if _patches.active else None
        if responding is None:
            return original(self)
        before = spans.current_context()
        try:
            token = spans.attach(responding.context)
            try:
                return original(self)
            finally:
                spans.detach(token)
        except BaseException as error:
            spans.put_back(before, error)
            raise

    return close


def _responding(response: Any) -> Responding | None:
    # A response may be of any type, and so may what closes it.
    with suppress(Exception):
        for closer in reversed(response._resource_closers):
            if isinstance(closer, Closer):
                return closer.responding
    return None
