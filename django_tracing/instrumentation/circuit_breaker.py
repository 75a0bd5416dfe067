"""Circuit breakers of pybreaker: ``circuit_breaker.payment-service``, with state, outcome and state changes.

pybreaker does not guard coroutines: a breaker whose ``call`` or decorator is given an ``async def`` counts a success
as soon as the coroutine is made. That stays as it is; the span lasts until the coroutine is done and says how it
ended. ``trace_circuit_breaker_call`` and ``with breaker.calling():`` guard them. A generator is guarded by pybreaker
until it ends, and so long lasts its span.
"""

from __future__ import annotations

import functools
import inspect
import re
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar, Token
from importlib.util import find_spec
from types import CoroutineType, GeneratorType
from typing import Any, Final, TypeVar, overload

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.instrumentation.imports import when_imported
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut, redact_text
from django_tracing.semconv.names import (
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

__all__ = ["install", "is_available", "trace_circuit_breaker_call", "uninstall"]

T = TypeVar("T")
F = TypeVar("F")

STATE_CHANGE_EVENT: Final = "circuit_breaker.state_change"

#: An id in a breaker's name (one for each tenant) would make as many spans' names.
_ID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|\d{3,}")

_installed = False
#: What pybreaker has of its own; kept, for a call of another thread may be on its way when ours goes.
_originals: dict[str, Any] = {}
#: What of ours is there.
_patches: dict[str, Any] = {}
#: The breaker whose call has its span already: it calls itself again on its way from open to half-open.
_inside: ContextVar[Any] = ContextVar("django_tracing.circuit_breaker", default=None)


def is_available() -> bool:
    return find_spec("pybreaker") is not None


def install() -> None:
    """Traces every breaker, made already or to come. pybreaker is not imported for it: it is waited for."""
    global _installed
    if _installed:
        return
    _installed = True
    when_imported("pybreaker", _patch)


def _patch() -> None:
    if not _installed:
        return
    import pybreaker

    # Its stubs know nothing of being patched.
    breaker: Any = pybreaker.CircuitBreaker
    state = breaker.__dict__["state"]
    ours = {
        "call": _call,
        "calling": _calling,
        "call_async": _call_async,
        "state": property(state.fget, _set_state, state.fdel, state.__doc__),
    }
    for name in ours.keys() - _patches.keys():
        _originals[name] = breaker.__dict__[name]
        _patches[name] = ours[name]
        setattr(breaker, name, ours[name])


def uninstall() -> None:
    """Puts pybreaker back; what somebody else has put around ours stays, and ours in it, which then does nothing."""
    global _installed
    _installed = False
    if not _patches:
        return
    from pybreaker import CircuitBreaker

    for name, patch in list(_patches.items()):
        if CircuitBreaker.__dict__[name] is patch:
            setattr(CircuitBreaker, name, _originals[name])
            del _patches[name]


#: What a call's span is called and says: by breaker, service, fallback and state. And its outcome: with the state
#: after it and the failures.
_calls: Final[spans.Cache[tuple[str, str | None, str | None, str], tuple[str, SharedAttributes]]] = spans.Cache()
_outcomes: Final[spans.Cache[tuple[str, str, int | None], tuple[SharedAttributes]]] = spans.Cache()


def _describe_call(
    breaker: str, service: str | None, fallback: str | None, state: str
) -> tuple[str, SharedAttributes]:
    name = cut(redact_text(breaker), 100)
    attributes: Attributes = {
        OPERATION_TYPE: "circuit_breaker",
        BREAKER_NAME: name,
        BREAKER_SERVICE: cut(redact_text(service), 100) if service else name,
        BREAKER_STATE: state,
    }
    if fallback:
        attributes[BREAKER_FALLBACK] = fallback
    described = f"circuit_breaker.{_ID.sub('*', name)}", spans.share(attributes)
    return _calls.keep((breaker, service, fallback, state), described)


def _describe_outcome(outcome: str, state: str, failures: int | None) -> tuple[SharedAttributes]:
    attributes: Attributes = {BREAKER_OUTCOME: outcome, BREAKER_STATE_AFTER: state}
    if failures is not None:
        attributes[BREAKER_FAILURES] = failures
    return _outcomes.keep((outcome, state, failures), (spans.share(attributes),))


class _Guarded:
    """One call through a breaker. No method raises."""

    __slots__ = ("_inside_token", "_token", "breaker", "context", "ran", "span")

    def __init__(self, parent: Span, breaker: Any, service: str | None = None, fallback: str | None = None) -> None:
        self.breaker = breaker
        self.span: Span = INVALID_SPAN
        self.context: Context | None = None
        self.ran = False
        self._token: Token[Context] | None = None
        try:
            key = (str(getattr(breaker, "name", None) or "unnamed"), service, fallback, _state(breaker))
            name, part = _calls.get(key) or _describe_call(*key)
            self.span = spans.start_child(parent, name, SpanKind.INTERNAL, (part,))
            self.context = spans.with_span(self.span)
        except Exception:
            spans.log_once("circuit_breaker", "A circuit breaker could not be traced.")
        self.attach()
        self._inside_token: Token[Any] | None = _inside.set(breaker)

    def attach(self) -> None:
        if self.context is not None:
            self._token = spans.attach(self.context)

    def guard(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """``func`` that says that it ran, and in which the breaker may be used again with a span of its own."""
        return _GuardedFunction(self, func)

    def leave(self) -> None:
        """The breaker is done; the span goes on when something is still to be awaited, or a fallback to be run."""
        if self._inside_token is not None:
            token, self._inside_token = self._inside_token, None
            # A coroutine that another task closes ends in a context that never saw the token.
            with suppress(ValueError):
                _inside.reset(token)

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
            key = (outcome, *_figures(breaker, outcome))
            spans.set_shared(self.span, _outcomes.get(key) or _describe_outcome(*key))
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


class _GuardedFunction:
    """A function as :meth:`_Guarded.guard` gives it; ``functools.wraps`` would cost as much as a span."""

    __slots__ = ("__wrapped__", "_guarded")

    def __init__(self, guarded: _Guarded, func: Callable[..., Any]) -> None:
        self.__wrapped__ = func
        self._guarded = guarded

    def __getattr__(self, name: str) -> Any:
        # A breaker's listeners are given it, and may ask for its name.
        return getattr(self.__wrapped__, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._guarded.ran = True
        token = _inside.set(None)
        try:
            return self.__wrapped__(*args, **kwargs)
        finally:
            _inside.reset(token)


_MEMORY: Final = "CircuitMemoryStorage"


def _is_rejection(error: BaseException) -> bool:
    from pybreaker import CircuitBreakerError

    return isinstance(error, CircuitBreakerError)


def _is_excluded(breaker: Any, error: BaseException) -> bool:
    try:
        return not breaker.is_system_error(error)
    except Exception:  # the user's own predicate failed: with this error, most likely
        return False


def _state(breaker: Any) -> str:
    storage = breaker._state_storage
    # A shared storage (Redis) would be asked over the network: what the breaker last saw of it will do.
    return str(storage.state if type(storage).__name__ == _MEMORY else breaker._state.name)


def _figures(breaker: Any, outcome: str) -> tuple[str, int | None]:
    """The state, and the failures in a row."""
    storage = breaker._state_storage
    if type(storage).__name__ == _MEMORY:
        return storage.state, storage.counter
    state = str(breaker._state.name)
    if outcome != "failure":
        return state, None
    # Asked for the span only: whatever the storage is made of, that is no span.
    token = spans.attach(spans.suppressed(trace.set_span_in_context(INVALID_SPAN)))
    try:
        return state, int(breaker.fail_counter)
    finally:
        spans.detach(token)


def _set_state(self: Any, state: str) -> None:
    before = getattr(getattr(self, "_state", None), "name", None)
    _originals["state"].fset(self, state)
    if not _installed:
        return
    try:
        span = trace.get_current_span()
        after = self._state.name
        if before is not None and before != after and span.is_recording():
            spans.add_event(span, STATE_CHANGE_EVENT, {"circuit_breaker.from": before, "circuit_breaker.to": after})
    except Exception:
        spans.log_once("circuit_breaker-state", "A circuit breaker's state change could not be traced.")


def _call(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    original = _originals["call"]
    parent = spans.recording_span()
    if parent is None or _inside.get() is self or not _installed:
        return original(self, func, *args, **kwargs)
    guarded = _Guarded(parent, self)
    try:
        result = original(self, guarded.guard(func), *args, **kwargs)
    except BaseException as error:
        guarded.end(error)
        raise
    if isinstance(result, (CoroutineType, GeneratorType)):
        guarded.leave()
        guarded.detach()
        return _awaited(guarded, result) if isinstance(result, CoroutineType) else _iterated(guarded, result)
    guarded.end()
    return result


async def _awaited(guarded: _Guarded, awaitable: Awaitable[T]) -> T:
    guarded.attach()
    try:
        result = await awaitable
    except BaseException as error:
        guarded.end(error)
        raise
    guarded.end()
    return result


def _iterated(guarded: _Guarded, generator: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    # Not current while it is made: between two items the caller is at work.
    try:
        result = yield from generator
    except BaseException as error:
        guarded.end(error)
        raise
    guarded.end()
    return result


@contextmanager
def _calling(self: Any) -> Iterator[Any]:
    original = _originals["calling"]
    parent = spans.recording_span()
    if parent is None or _inside.get() is self or not _installed:
        with original(self) as value:
            yield value
        return
    guarded = _Guarded(parent, self)
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
    parent = spans.recording_span()
    if parent is None or _inside.get() is self or not _installed:
        return original(self, func, *args, **kwargs)
    guarded = _Guarded(parent, self)
    try:
        future = original(self, guarded.guard(func), *args, **kwargs)
    except BaseException as error:
        guarded.end(error)
        raise
    guarded.leave()
    guarded.detach()
    future.add_done_callback(lambda done: guarded.end(CancelledError() if done.cancelled() else done.exception()))
    return future


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
    """Calls ``func(*args, **kwargs)`` through ``breaker`` in a span ``circuit_breaker.NAME``; gives its result.

    ``breaker`` is a ``pybreaker.CircuitBreaker``; ``service`` is what it protects (its own name by default). When the
    call fails or is rejected, ``fallback()`` is called in a span ``fallback.NAME`` (its function's name) and gives
    the result; without one the exception goes on as it is. When ``func`` or ``fallback`` is an ``async def``, or
    ``func`` returns an awaitable, the result is to be awaited, and the breaker guards the whole of it. Works the same
    when tracing is off or the trace is not sampled. Raises what ``func`` raises, and
    ``pybreaker.CircuitBreakerError`` when the breaker is open.
    """
    if _is_async(func) or (fallback is not None and _is_async(fallback)):
        return _guard_async(breaker, func, args, kwargs, service, fallback)
    awaitables: list[Awaitable[Any]] = []

    @functools.wraps(func)
    def run(*args: Any, **kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        if inspect.isawaitable(result):
            awaitables.append(result)
            # With a generator pybreaker waits for its end before it counts; so it does in calling().
            return _held()
        return result

    parent = spans.recording_span()
    guarded = None if parent is None else _Guarded(parent, breaker, service, _name_of(fallback))
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
        return _iterated(guarded, result)
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
    guarded = None if parent is None else _Guarded(parent, breaker, service, _name_of(fallback))
    return await _guard(guarded, breaker.calling(), lambda: func(*args, **kwargs), fallback)


async def _guard_rest(
    guarded: _Guarded | None,
    calling: AbstractContextManager[Any],
    awaitable: Awaitable[Any],
    fallback: Callable[[], Any] | None,
) -> Any:
    if guarded is not None:
        guarded.attach()
    return await _guard(guarded, calling, lambda: awaitable, fallback)


async def _guard(
    guarded: _Guarded | None,
    calling: AbstractContextManager[Any],
    work: Callable[[], Any],
    fallback: Callable[[], Any] | None,
) -> Any:
    try:
        with calling:
            if guarded is not None:
                guarded.ran = True
                guarded.leave()
            result = await _settled(work())
    except BaseException as error:
        if fallback is None or not isinstance(error, Exception):
            if guarded is not None:
                guarded.end(error)
            raise
        with _falling_back(guarded, error, fallback):
            return await _settled(fallback())
    if guarded is not None:
        guarded.end()
    return result


async def _settled(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


@contextmanager
def _falling_back(guarded: _Guarded | None, error: Exception, fallback: Callable[[], Any]) -> Iterator[None]:
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
