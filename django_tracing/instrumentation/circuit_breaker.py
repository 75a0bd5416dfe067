"""Trace calls through pybreaker's circuit breakers, as ``circuit_breaker.payment-service``.

pybreaker does not guard coroutines: a breaker whose ``call`` or decorator is given an ``async def`` counts a success
as soon as the coroutine is created. This app does not change that: the span lasts until the coroutine is done, and
has its outcome. ``trace_circuit_breaker_call`` and ``with breaker.calling():`` do guard coroutines. pybreaker guards
a generator until it ends, and its span lasts as long.
"""

from __future__ import annotations

import functools
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from importlib.util import find_spec
from types import CoroutineType, GeneratorType
from typing import Any, Final, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut, redact_text
from django_tracing.redaction.patterns import pattern
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

__all__ = ["GuardedCall", "install", "is_available", "iterated", "uninstall"]

T = TypeVar("T")

STATE_CHANGE_EVENT: Final = "circuit_breaker.state_change"

#: Ids in a breaker's name (one for each tenant): each would make a span name of its own.
_ID: Final = pattern(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|\d{3,}")

_patches: Final = Patches()
#: The breaker whose call has a span already. A breaker calls itself when it goes from open to half-open.
_inside: ContextVar[Any] = ContextVar("django_tracing.circuit_breaker", default=None)


def is_available() -> bool:
    return find_spec("pybreaker") is not None


def install() -> None:
    """Trace every breaker, existing and future, once pybreaker is imported."""
    if _patches.start():
        when_imported("pybreaker", _patch)


def _patch() -> None:
    from pybreaker import CircuitBreaker

    _patches.wrap(CircuitBreaker, "call", _traced_call)
    _patches.wrap(CircuitBreaker, "calling", _traced_calling)
    _patches.wrap(CircuitBreaker, "call_async", _traced_call_async)
    _patches.wrap(CircuitBreaker, "state", _traced_state)


def uninstall() -> None:
    """Stop tracing breakers."""
    _patches.stop()


_KEPT_LENGTH: Final = 512
#: Name and attributes of a call's span, by breaker, service, fallback and state; and the attributes of its outcome,
#: by outcome, the state after it and the number of failures.
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
    # Longer names are not kept, which bounds the memory.
    if len(breaker) + len(service or "") + len(fallback or "") > _KEPT_LENGTH:
        return described
    return _calls.keep((breaker, service, fallback, state), described)


def _describe_outcome(outcome: str, state: str, failures: int | None) -> tuple[SharedAttributes]:
    attributes: Attributes = {BREAKER_OUTCOME: outcome, BREAKER_STATE_AFTER: state}
    if failures is not None:
        attributes[BREAKER_FAILURES] = failures
    return _outcomes.keep((outcome, state, failures), (spans.share(attributes),))


class GuardedCall:
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
        """Make the span current."""
        if self.context is not None:
            self._token = spans.attach(self.context)

    def guard(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``func``, noting when it runs. Calls of the breaker inside it get spans of their own."""
        return _GuardedFunction(self, func)

    def leave(self) -> None:
        """Leave the breaker. The span goes on if a result has to be awaited or a fallback to be called."""
        if self._inside_token is not None:
            token, self._inside_token = self._inside_token, None
            # A coroutine that another task closes ends in a context that the token does not belong to.
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
                # For the breaker an excluded exception is not a failure.
                spans.record_error(self.span, error, status=not excluded)
        except Exception:
            spans.log_once("circuit_breaker", "A circuit breaker could not be traced.")

    def end(self, error: BaseException | None = None) -> None:
        self.leave()
        self.detach()
        self.describe(error)
        spans.end_span(self.span)


class _GuardedFunction:
    """The function that :meth:`GuardedCall.guard` returns. ``functools.wraps`` would cost as much as a span."""

    __slots__ = ("__wrapped__", "_guarded")

    def __init__(self, guarded: GuardedCall, func: Callable[..., Any]) -> None:
        self.__wrapped__ = func
        self._guarded = guarded

    def __getattr__(self, name: str) -> Any:
        # A breaker passes it to its listeners, which may read its name.
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
    except Exception:  # the user's predicate failed, most likely with this error
        return False


def _state(breaker: Any) -> str:
    storage = breaker._state_storage
    # A shared storage (Redis) would be read over the network. The state that the breaker saw last is used instead.
    return str(storage.state if type(storage).__name__ == _MEMORY else breaker._state.name)


def _figures(breaker: Any, outcome: str) -> tuple[str, int | None]:
    """Return the state, and the number of failures in a row if it is known."""
    storage = breaker._state_storage
    if type(storage).__name__ == _MEMORY:
        return storage.state, storage.counter
    state = str(breaker._state.name)
    if outcome != "failure":
        return state, None
    # Read for the span only, so reading it makes no span, whatever the storage is.
    token = spans.attach(spans.suppressed(trace.set_span_in_context(INVALID_SPAN)))
    try:
        return state, int(breaker.fail_counter)
    finally:
        spans.detach(token)


def _traced_state(original: property) -> property:
    set_original: Any = original.fset

    def set_state(self: Any, state: str) -> None:
        before = getattr(getattr(self, "_state", None), "name", None)
        set_original(self, state)
        if not _patches.active:
            return
        try:
            span = trace.get_current_span()
            after = self._state.name
            if before is not None and before != after and span.is_recording():
                change: Attributes = {"circuit_breaker.from": before, "circuit_breaker.to": after}
                spans.add_event(span, STATE_CHANGE_EVENT, change)
        except Exception:
            spans.log_once("circuit_breaker-state", "A circuit breaker's state change could not be traced.")

    return property(original.fget, set_state, original.fdel, original.__doc__)


def _traced_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        parent = spans.recording_span()
        if parent is None or _inside.get() is self or not _patches.active:
            return original(self, func, *args, **kwargs)
        guarded = GuardedCall(parent, self)
        try:
            result = original(self, guarded.guard(func), *args, **kwargs)
        except BaseException as error:
            guarded.end(error)
            raise
        if isinstance(result, (CoroutineType, GeneratorType)):
            guarded.leave()
            guarded.detach()
            return _awaited(guarded, result) if isinstance(result, CoroutineType) else iterated(guarded, result)
        guarded.end()
        return result

    return call


async def _awaited(guarded: GuardedCall, awaitable: Awaitable[T]) -> T:
    guarded.attach()
    try:
        result = await awaitable
    except BaseException as error:
        guarded.end(error)
        raise
    guarded.end()
    return result


def iterated(guarded: GuardedCall, generator: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    # The span is not current between two items, while the caller's code runs.
    try:
        result = yield from generator
    except BaseException as error:
        guarded.end(error)
        raise
    guarded.end()
    return result


def _traced_calling(original: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    @functools.wraps(original)
    def calling(self: Any) -> Iterator[Any]:
        parent = spans.recording_span()
        if parent is None or _inside.get() is self or not _patches.active:
            with original(self) as value:
                yield value
            return
        guarded = GuardedCall(parent, self)
        try:
            with original(self) as value:
                guarded.ran = True
                guarded.leave()
                yield value
        except BaseException as error:
            guarded.end(error)
            raise
        guarded.end()

    return calling


def _traced_call_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call_async(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        parent = spans.recording_span()
        if parent is None or _inside.get() is self or not _patches.active:
            return original(self, func, *args, **kwargs)
        guarded = GuardedCall(parent, self)
        try:
            future = original(self, guarded.guard(func), *args, **kwargs)
        except BaseException as error:
            guarded.end(error)
            raise
        guarded.leave()
        guarded.detach()
        future.add_done_callback(lambda done: guarded.end(CancelledError() if done.cancelled() else done.exception()))
        return future

    return call_async
