"""Trace the receivers of signals, as ``signal.post_save.RECEIVER``. Off by default.

``Signal`` has no hook. Its four methods that send ask ``_live_receivers`` whom to call, which is wrapped: each
receiver is called through an object that makes its span. The methods are wrapped, too, to return the receivers
themselves. A subclass with such a method of its own gets the receivers as they are, without spans.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import partial, wraps
from types import FunctionType, MethodType
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.dispatch import Signal
from opentelemetry.trace import Span, SpanKind

from django_tracing import spans
from django_tracing.context.marks import make_mark
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut
from django_tracing.semconv.names import CODE_FUNCTION, CODE_NAMESPACE, OPERATION_TYPE, SIGNAL_NAME

__all__ = ["install", "is_available", "uninstall"]

#: Receivers of these packages are not the site's code.
_SKIPPED: Final = ("django.", "django_tracing.", "opentelemetry.")
#: Signals that are sent for each object that is made: a query of 1,000 rows sends 2,000 of them.
_FOR_EACH_OBJECT: Final = frozenset({"pre_init", "post_init"})
_UNNAMED: Final = "(unnamed)"
#: More decorators than these are not looked under.
_MOST_WRAPPERS: Final = 32

_patches: Final = Patches()
#: The signal that one of the four methods sends.
_sending: Final[ContextVar[Signal | None]] = make_mark("signals", None)


def is_available() -> bool:
    return True


def install() -> None:
    """Trace the receivers of every signal."""
    if not _patches.start():
        return
    _patches.wrap(Signal, "_live_receivers", _traced_live_receivers)
    for name in ("send", "send_robust"):
        _patches.wrap(Signal, name, _unwrapping)
    for name in ("asend", "asend_robust"):
        _patches.wrap(Signal, name, _unwrapping_async)


def uninstall() -> None:
    """Stop tracing receivers."""
    _patches.stop()


# ----- names


#: The names of signals, which do not know them.
_names: Final[WeakKeyDictionary[Signal, str]] = WeakKeyDictionary()


def _name_of(signal: Signal, receivers: list[Any]) -> str:
    name = _names.get(signal)
    if name is None:
        name = _names[signal] = _find_name(signal, receivers)
    return name


def _find_name(signal: Signal, receivers: list[Any]) -> str:
    """Return the name of a signal in the module that defines it, or in that of a receiver."""
    places: list[Any] = [module for path, module in list(sys.modules.items()) if "signal" in path.rpartition(".")[2]]
    places += [sys.modules.get(str(getattr(receiver, "__module__", ""))) for receiver in receivers]
    for place in places:
        with suppress(AttributeError):  # anything may stand in sys.modules
            # Not getattr(), with which a module that is imported lazily would be imported now.
            for name, value in list(object.__getattribute__(place, "__dict__").items()):
                if value is signal:
                    return cut(name, 100)
    return _UNNAMED


class _Kind:
    """The facts about a receiver of a signal."""

    __slots__ = ("name", "shared")

    def __init__(self, signal: str, named: Any) -> None:
        if not hasattr(named, "__name__"):
            named = type(named)  # an object that can be called
        name = str(named.__name__)
        if name == "<lambda>":
            name = "(lambda)"
        elif not name.isidentifier():
            name = _UNNAMED
        self.name = f"signal.{signal}.{cut(name, 100)}"
        # These have the same names in every convention.
        self.shared = SharedAttributes(
            {
                OPERATION_TYPE: "signal",
                SIGNAL_NAME: signal,
                CODE_NAMESPACE: cut(str(named.__module__), 100),
                CODE_FUNCTION: cut(str(named.__qualname__), 100),
            }
        )


def _inner(receiver: Any) -> Any:
    """Return the function under partials, bound methods and decorators."""
    for _ in range(_MOST_WRAPPERS):
        if isinstance(receiver, partial):
            receiver = receiver.func
        elif isinstance(receiver, MethodType):
            receiver = receiver.__func__
        elif isinstance(receiver, FunctionType) and "__wrapped__" in receiver.__dict__:
            receiver = receiver.__dict__["__wrapped__"]
        else:
            break
    return receiver


#: By the signal's name and the receiver's code; None for receivers that are not traced.
_kinds: Final[spans.Cache[tuple[str, Any], _Kind | None]] = spans.Cache()


def _kind_of(signal: str, receiver: Any) -> _Kind | None:
    inner = _inner(receiver)
    # Not the receiver: it may be an object that would be kept alive, or that cannot be hashed.
    key = (signal, getattr(inner, "__code__", None) or type(inner))
    if key in _kinds:
        return _kinds[key]
    module = str(getattr(inner, "__module__", "") or "")
    return _kinds.keep(key, None if module.startswith(_SKIPPED) else _Kind(signal, inner))


# ----- calls


class _Receiver:
    """A receiver whose call is traced; otherwise it is itself."""

    __slots__ = ("_kind", "_parent", "receiver")

    def __init__(self, receiver: Any, kind: _Kind, parent: Span) -> None:
        self.receiver = receiver
        self._kind = kind
        self._parent = parent

    def __getattr__(self, name: str) -> Any:
        # Django logs the __qualname__ of one that fails.
        return getattr(self.receiver, name)

    def __call__(self, **named: Any) -> Any:
        parent = spans.recording_span()
        if parent is None:
            return self.receiver(**named)
        kind = self._kind
        span, token = spans.start_current_child(parent, kind.name, SpanKind.INTERNAL, (kind.shared,))
        try:
            response = self.receiver(**named)
        except BaseException as error:
            spans.detach(token)
            spans.record_error(span, error)
            spans.end_span(span)
            raise
        spans.detach(token)
        spans.end_child(span)
        return response


class _AsyncReceiver(_Receiver):
    """An async receiver. Its span is not the current one.

    Django 6.1 runs async receivers at the same time in one context: the span of one would be current in the others.
    """

    __slots__ = ()

    async def __call__(self, **named: Any) -> Any:
        kind = self._kind
        span = spans.start_child(self._parent, kind.name, SpanKind.INTERNAL, (kind.shared,))
        try:
            response = await self.receiver(**named)
        except BaseException as error:
            spans.record_error(span, error)
            spans.end_span(span)
            raise
        spans.end_child(span)
        return response


_RECEIVERS: Final = (_Receiver, _AsyncReceiver)


def _traced_live_receivers(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def _live_receivers(self: Signal, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        parent = spans.recording_span()
        if parent is None or not _patches.active or _sending.get() is not self:
            return found
        try:
            sync_receivers, async_receivers = found
            name = _name_of(self, [*sync_receivers, *async_receivers])
            if name in _FOR_EACH_OBJECT:
                return found
            return (
                list(_traced(sync_receivers, name, parent, _Receiver)),
                list(_traced(async_receivers, name, parent, _AsyncReceiver)),
            )
        except Exception:
            spans.log_once("signals", "The receivers of a signal could not be traced.")
            return found

    return _live_receivers


def _traced(receivers: list[Any], signal: str, parent: Span, wrapper: type[_Receiver]) -> Iterator[Any]:
    for receiver in receivers:
        kind = _kind_of(signal, receiver)
        yield receiver if kind is None else wrapper(receiver, kind, parent)


def _unwrapping(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def send(self: Signal, *args: Any, **kwargs: Any) -> Any:
        token = _sending.set(self)
        try:
            responses = _unwrapped(original(self, *args, **kwargs))
            spans.detach(token)
            return responses
        except BaseException:
            spans.detach(token)
            raise

    return send


def _unwrapping_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def asend(self: Signal, *args: Any, **kwargs: Any) -> Any:
        token = _sending.set(self)
        try:
            return _unwrapped(await original(self, *args, **kwargs))
        finally:
            spans.detach(token)

    return asend


def _unwrapped(responses: Any) -> Any:
    """Return what a signal's method returns, with the receivers themselves."""
    if not responses or responses.__class__ is not list:
        return responses
    return [
        # By its type: a receiver may be an object that pretends to be another.
        (receiver.receiver, response) if type(receiver) in _RECEIVERS else (receiver, response)
        for receiver, response in responses
    ]
