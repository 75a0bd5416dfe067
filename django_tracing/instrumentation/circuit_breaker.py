"""Circuit breakers of pybreaker: ``circuit_breaker.payment-service``, with state, outcome and state changes.

pybreaker does not guard coroutines: a breaker whose ``call`` or decorator is given an ``async def`` counts a success
as soon as the coroutine is made. That stays as it is; the span lasts until the coroutine is done and says how it
ended. ``trace_circuit_breaker_call`` and ``with breaker.calling():`` guard them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from importlib.util import find_spec
from typing import Any, Final, ParamSpec, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span

from django_tracing import spans
from django_tracing.attributes import (
    BREAKER_FAILURES,
    BREAKER_FALLBACK,
    BREAKER_NAME,
    BREAKER_OUTCOME,
    BREAKER_SERVICE,
    BREAKER_STATE,
    BREAKER_STATE_AFTER,
    OPERATION_TYPE,
    Attributes,
)
from django_tracing.redaction import cut, redact_text

__all__ = ["install", "is_available", "trace_circuit_breaker_call", "uninstall"]

P = ParamSpec("P")
T = TypeVar("T")

STATE_CHANGE_EVENT: Final = "circuit_breaker.state_change"

_originals: dict[str, Any] = {}
#: The breaker whose call has its span already: it calls itself again on its way from open to half-open.
_inside: ContextVar[Any] = ContextVar("django_tracing.circuit_breaker", default=None)


def is_available() -> bool:
    return find_spec("pybreaker") is not None


def install() -> None:
    """Traces every breaker, made already or to come."""
    if _originals:
        return
    import pybreaker

    # Its stubs know nothing of being patched.
    breaker: Any = pybreaker.CircuitBreaker
    for name in ("call", "calling", "call_async", "state"):
        _originals[name] = breaker.__dict__[name]
    breaker.call = _call
    breaker.calling = _calling
    breaker.call_async = _call_async
    state = _originals["state"]
    breaker.state = property(state.fget, _set_state, state.fdel, state.__doc__)


def uninstall() -> None:
    if not _originals:
        return
    from pybreaker import CircuitBreaker

    for name, original in _originals.items():
        setattr(CircuitBreaker, name, original)
    _originals.clear()


class _Guarded:
    """One call through a breaker. No method raises."""

    __slots__ = ("_inside_token", "_token", "breaker", "context", "ran", "span")

    def __init__(self, breaker: Any, service: str | None = None, fallback: str | None = None) -> None:
        self.breaker = breaker
        self.span: Span = INVALID_SPAN
        self.context: Context | None = None
        self.ran = False
        self._token: Token[Context] | None = None
        try:
            name = cut(redact_text(str(getattr(breaker, "name", None) or "unnamed")), 100)
            attributes: Attributes = {
                OPERATION_TYPE: "circuit_breaker",
                BREAKER_NAME: name,
                BREAKER_SERVICE: cut(redact_text(service), 100) if service else name,
                BREAKER_STATE: _state(breaker),
            }
            if fallback:
                attributes[BREAKER_FALLBACK] = fallback
            self.span = spans.start_span(f"circuit_breaker.{name}", attributes)
            self.context = trace.set_span_in_context(self.span)
            self._token = spans.attach(self.context)
        except Exception:
            spans.log_once("circuit_breaker", "A circuit breaker could not be traced.")
        self._inside_token: Token[Any] | None = _inside.set(breaker)

    def guard(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """``func`` that says that it ran, and in which the breaker may be used again with a span of its own."""

        @functools.wraps(func)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.ran = True
            token = _inside.set(None)
            try:
                return func(*args, **kwargs)
            finally:
                _inside.reset(token)

        return guarded

    def leave(self) -> None:
        """The breaker is done; the span goes on when something is still to be awaited, or a fallback to be run."""
        if self._inside_token is not None:
            token, self._inside_token = self._inside_token, None
            try:
                _inside.reset(token)
            except ValueError:
                _inside.set(None)

    def detach(self) -> None:
        token, self._token = self._token, None
        spans.detach(token)

    def describe(self, error: BaseException | None) -> None:
        try:
            breaker = self.breaker
            rejected = error is not None and not self.ran and _is_rejection(error)
            excluded = (
                error is not None and not rejected and not _is_rejection(error) and _is_excluded(breaker, error)
            )
            outcome = "rejected" if rejected else "success" if error is None or excluded else "failure"
            attributes: Attributes = {BREAKER_OUTCOME: outcome, BREAKER_STATE_AFTER: _state(breaker)}
            failures = _failures(breaker, outcome)
            if failures is not None:
                attributes[BREAKER_FAILURES] = failures
            self.span.set_attributes(attributes)
            if error is not None:
                # An excluded exception is an answer to the breaker, not a failure.
                spans.record_error(self.span, error, status=not excluded)
        except Exception:
            spans.log_once("circuit_breaker", "A circuit breaker could not be traced.")

    def end(self, error: BaseException | None = None) -> None:
        self.leave()
        self.detach()
        self.describe(error)
        spans.end_span(self.span)


def _is_rejection(error: BaseException) -> bool:
    from pybreaker import CircuitBreakerError

    return isinstance(error, CircuitBreakerError)


def _is_excluded(breaker: Any, error: BaseException) -> bool:
    return not breaker.is_system_error(error)


def _in_memory(breaker: Any) -> bool:
    return type(breaker._state_storage).__name__ == "CircuitMemoryStorage"


def _state(breaker: Any) -> str:
    # A shared storage (Redis) would be asked over the network: what the breaker last saw of it will do.
    return str(breaker.current_state if _in_memory(breaker) else breaker._state.name)


def _failures(breaker: Any, outcome: str) -> int | None:
    if _in_memory(breaker):
        return int(breaker.fail_counter)
    if outcome != "failure":
        return None
    with spans.SuppressedUpstream():
        return int(breaker.fail_counter)


def _set_state(self: Any, state: str) -> None:
    before = getattr(getattr(self, "_state", None), "name", None)
    _originals_state(self, state)
    try:
        span = trace.get_current_span()
        after = self._state.name
        if before is not None and before != after and span.is_recording():
            span.add_event(STATE_CHANGE_EVENT, {"circuit_breaker.from": before, "circuit_breaker.to": after})
    except Exception:
        spans.log_once("circuit_breaker-state", "A circuit breaker's state change could not be traced.")


def _originals_state(breaker: Any, state: str) -> None:
    _originals["state"].fset(breaker, state)


def _call(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    original = _originals["call"]
    if not spans.recording() or _inside.get() is self:
        return original(self, func, *args, **kwargs)
    guarded = _Guarded(self)
    try:
        result = original(self, guarded.guard(func), *args, **kwargs)
    except BaseException as error:
        guarded.end(error)
        raise
    if inspect.iscoroutine(result):
        guarded.leave()
        guarded.detach()
        return _awaited(guarded, result)
    guarded.end()
    return result


async def _awaited(guarded: _Guarded, awaitable: Awaitable[T]) -> T:
    token = spans.attach(guarded.context) if guarded.context is not None else None
    try:
        result = await awaitable
    except BaseException as error:
        spans.detach(token)
        guarded.end(error)
        raise
    spans.detach(token)
    guarded.end()
    return result


@contextmanager
def _calling(self: Any) -> Iterator[Any]:
    original = _originals["calling"]
    if not spans.recording() or _inside.get() is self:
        with original(self) as value:
            yield value
        return
    guarded = _Guarded(self)
    try:
        with original(self) as value:
            guarded.ran = True
            guarded.leave()
            yield value
    except BaseException as error:
        guarded.end(error)
        raise
    guarded.end()


def _call_async(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    original = _originals["call_async"]
    if not spans.recording() or _inside.get() is self:
        return original(self, func, *args, **kwargs)
    guarded = _Guarded(self)
    try:
        future = original(self, guarded.guard(func), *args, **kwargs)
    except BaseException as error:
        guarded.end(error)
        raise
    guarded.leave()
    guarded.detach()
    future.add_done_callback(lambda done: guarded.end(done.exception()))
    return future


def trace_circuit_breaker_call(
    breaker: Any,
    func: Callable[..., Any],
    *args: Any,
    service: str | None = None,
    fallback: Callable[[], Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Calls ``func(*args, **kwargs)`` through ``breaker`` in a span ``circuit_breaker.NAME``; gives its result.

    ``breaker`` is a ``pybreaker.CircuitBreaker``; ``service`` is what it protects (its own name by default). When the
    call fails or is rejected, ``fallback()`` is called in a span ``fallback.NAME`` (its function's name) and gives the
    result; without one the exception goes on as it is. When ``func`` or ``fallback`` is an ``async def``, the result
    is to be awaited, and the breaker guards the whole of it. Works the same when tracing is off or the trace is not
    sampled. Raises what ``func`` raises, and ``pybreaker.CircuitBreakerError`` when the breaker is open.
    """
    if _is_async(func):
        return _guard_async(breaker, func, args, kwargs, service, fallback)
    if not spans.recording():
        try:
            return breaker.call(func, *args, **kwargs)
        except Exception:
            if fallback is None:
                raise
            return fallback()
    guarded = _Guarded(breaker, service, _name_of(fallback))
    try:
        result = breaker.call(guarded.guard(func), *args, **kwargs)
    except BaseException as error:
        guarded.leave()
        if fallback is None or not isinstance(error, Exception):
            guarded.end(error)
            raise
        guarded.describe(error)
        try:
            return _run_fallback(fallback)
        finally:
            guarded.detach()
            spans.end_span(guarded.span)
    guarded.end()
    return result


async def _guard_async(
    breaker: Any,
    func: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    service: str | None,
    fallback: Callable[[], Any] | None,
) -> Any:
    guarded = _Guarded(breaker, service, _name_of(fallback)) if spans.recording() else None
    try:
        with breaker.calling():
            if guarded is not None:
                guarded.ran = True
                guarded.leave()
            result = await func(*args, **kwargs)
    except BaseException as error:
        if guarded is not None:
            guarded.leave()
        if fallback is None or not isinstance(error, Exception):
            if guarded is not None:
                guarded.end(error)
            raise
        if guarded is None:
            result = fallback()
            return await result if inspect.isawaitable(result) else result
        guarded.describe(error)
        try:
            with spans.ChildSpan(*_fallback_span(fallback)):
                result = fallback()
                return await result if inspect.isawaitable(result) else result
        finally:
            guarded.detach()
            spans.end_span(guarded.span)
    if guarded is not None:
        guarded.end()
    return result


def _run_fallback(fallback: Callable[[], T]) -> T:
    with spans.ChildSpan(*_fallback_span(fallback)):
        return fallback()


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
