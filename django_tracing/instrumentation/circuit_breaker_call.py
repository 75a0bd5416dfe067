"""Call a function through a circuit breaker, with a span and a fallback (``trace_circuit_breaker_call``)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, overload

from django_tracing import spans
from django_tracing.instrumentation.circuit_breaker import GuardedCall, iterated
from django_tracing.redaction import cut
from django_tracing.semconv.names import OPERATION_TYPE, Attributes

__all__ = ["trace_circuit_breaker_call"]

T = TypeVar("T")
F = TypeVar("F")


@overload
def trace_circuit_breaker_call(
    breaker: Any,
    func: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    service: str | None = None,
    fallback: None = None,
    **kwargs: Any,
) -> Coroutine[Any, Any, T]: ...


@overload
def trace_circuit_breaker_call(
    breaker: Any,
    func: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    service: str | None = None,
    fallback: Callable[[], Coroutine[Any, Any, F]],
    **kwargs: Any,
) -> Coroutine[Any, Any, T | F]: ...


@overload
def trace_circuit_breaker_call(
    breaker: Any,
    func: Callable[..., Coroutine[Any, Any, T]],
    *args: Any,
    service: str | None = None,
    fallback: Callable[[], F],
    **kwargs: Any,
) -> Coroutine[Any, Any, T | F]: ...


@overload
def trace_circuit_breaker_call(
    breaker: Any,
    func: Callable[..., T],
    *args: Any,
    service: str | None = None,
    fallback: None = None,
    **kwargs: Any,
) -> T: ...


@overload
def trace_circuit_breaker_call(
    breaker: Any,
    func: Callable[..., T],
    *args: Any,
    service: str | None = None,
    fallback: Callable[[], Coroutine[Any, Any, F]],
    **kwargs: Any,
) -> Coroutine[Any, Any, T | F]: ...


@overload
def trace_circuit_breaker_call(
    breaker: Any,
    func: Callable[..., T],
    *args: Any,
    service: str | None = None,
    fallback: Callable[[], F],
    **kwargs: Any,
) -> T | F: ...


def trace_circuit_breaker_call(
    breaker: Any,
    func: Callable[..., Any],
    *args: Any,
    service: str | None = None,
    fallback: Callable[[], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Call ``func(*args, **kwargs)`` through ``breaker`` in a span ``circuit_breaker.NAME``, and return its result.

    ``breaker`` is a ``pybreaker.CircuitBreaker``; ``service`` is what it protects (default: the breaker's name). If
    the call fails or is rejected, ``fallback()`` is called in a span ``fallback.NAME`` (its function's name) and
    returns the result; without a fallback the exception is raised. If ``func`` or ``fallback`` is an ``async def``,
    or ``func`` returns an awaitable, the result has to be awaited, and the breaker guards it to its end. This works
    the same when tracing is off or the trace is not sampled. Raises what ``func`` raises, and
    ``pybreaker.CircuitBreakerError`` if the breaker is open.
    """
    if _is_async(func) or (fallback is not None and _is_async(fallback)):
        return _guard_async(breaker, func, args, kwargs, service, fallback)
    awaitables: list[Awaitable[Any]] = []

    @functools.wraps(func)
    def run(*args: Any, **kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        if inspect.isawaitable(result):
            awaitables.append(result)
            # pybreaker counts a generator when it ends, as it does in calling().
            return _held()
        return result

    parent = spans.recording_span()
    guarded = None if parent is None else GuardedCall(parent, breaker, service, _name_of(fallback))
    try:
        result = breaker.call(run if guarded is None else guarded.guard(run), *args, **kwargs)
    except BaseException as error:
        if fallback is None or not isinstance(error, Exception):
            if guarded is not None:
                guarded.end(error)
            raise
        with _falling_back(guarded, error, fallback):
            return fallback()
    if awaitables:
        if guarded is not None:
            guarded.leave()
            guarded.detach()
        return _guard_rest(guarded, contextmanager(lambda: result)(), awaitables[0], fallback)
    if guarded is None:
        return result
    if inspect.isgenerator(result):
        guarded.leave()
        guarded.detach()
        return iterated(guarded, result)
    guarded.end()
    return result


def _held() -> Iterator[None]:
    yield


async def _guard_async(
    breaker: Any,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    service: str | None,
    fallback: Callable[[], Any] | None,
) -> Any:
    parent = spans.recording_span()
    guarded = None if parent is None else GuardedCall(parent, breaker, service, _name_of(fallback))
    return await _guard(guarded, breaker.calling(), lambda: func(*args, **kwargs), fallback)


async def _guard_rest(
    guarded: GuardedCall | None,
    calling: AbstractContextManager[Any],
    awaitable: Awaitable[Any],
    fallback: Callable[[], Any] | None,
) -> Any:
    if guarded is not None:
        guarded.attach()
    return await _guard(guarded, calling, lambda: awaitable, fallback)


async def _guard(
    guarded: GuardedCall | None,
    calling: AbstractContextManager[Any],
    work: Callable[[], Any],
    fallback: Callable[[], Any] | None,
) -> Any:
    try:
        with calling:
            if guarded is not None:
                guarded.ran = True
                guarded.leave()
            result = await _resolve(work())
    except BaseException as error:
        if fallback is None or not isinstance(error, Exception):
            if guarded is not None:
                guarded.end(error)
            raise
        with _falling_back(guarded, error, fallback):
            return await _resolve(fallback())
    if guarded is not None:
        guarded.end()
    return result


async def _resolve(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


@contextmanager
def _falling_back(guarded: GuardedCall | None, error: Exception, fallback: Callable[[], Any]) -> Iterator[None]:
    if guarded is None:
        yield
        return
    guarded.leave()
    guarded.describe(error)
    try:
        with spans.ChildSpan(*_fallback_span(fallback)):
            yield
    finally:
        guarded.detach()
        spans.end_span(guarded.span)


def _fallback_span(fallback: Callable[[], Any]) -> tuple[str, Attributes]:
    return f"fallback.{_name_of(fallback)}", {OPERATION_TYPE: "circuit_breaker"}


def _name_of(func: Callable[..., Any] | None) -> str | None:
    while isinstance(func, functools.partial):
        func = func.func
    if func is None:
        return None
    name = getattr(func, "__name__", None) or type(func).__name__
    return cut("anonymous" if name == "<lambda>" else str(name), 100)


def _is_async(func: Any) -> bool:
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)
