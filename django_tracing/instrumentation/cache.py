"""Every cache of CACHES: ``cache.get.blueprint:*``, with hit or miss. Values are never looked at.

A cache object's class is replaced by a subclass of itself whose methods make spans, so that its own methods and
``isinstance`` go on working. One call of the user's is one span, whatever the backend calls to answer it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from typing import Any, Final

from django.core.cache import CacheHandler, caches
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.attributes import (
    CACHE_ALIAS,
    CACHE_HIT,
    CACHE_HITS,
    CACHE_KEY,
    CACHE_KEYS,
    CACHE_OPERATION,
    CACHE_SYSTEM,
    OPERATION_TYPE,
    Attributes,
)
from django_tracing.redaction import cut, key_pattern

__all__ = ["install", "is_available", "uninstall"]

#: Class name, anywhere among a backend's bases -> ``cache.system``.
_SYSTEMS: Final = {
    "RedisCache": "redis",
    "BaseMemcachedCache": "memcached",
    "LocMemCache": "memory",
    "FileBasedCache": "file",
    "DatabaseCache": "database",
    "DummyCache": "dummy",
}
_NETWORKED: Final = frozenset({"redis", "memcached"})

_ONE_KEY: Final = ("get", "set", "add", "delete", "touch", "incr", "decr", "has_key", "get_or_set")
_MANY_KEYS: Final = ("get_many", "set_many", "delete_many")
_OPERATIONS: Final = (*_ONE_KEY, *_MANY_KEYS, "clear")

_MISSING: Final = object()

_original_create: Callable[..., Any] | None = None
#: Backend class -> its traced subclass.
_classes: dict[type, type] = {}
#: Whether a backend is at work on a call that has its span already.
_inside: ContextVar[bool] = ContextVar("django_tracing.cache", default=False)


def is_available() -> bool:
    return True


def install() -> None:
    """Makes every cache object, there already or to come, a traced one."""
    global _original_create
    if _original_create is not None:
        return
    _original_create = CacheHandler.create_connection
    CacheHandler.create_connection = _create  # type: ignore[method-assign]
    handler: Any = caches
    for alias in caches:
        # Not caches[alias]: that would make the ones nobody has used yet.
        if hasattr(handler._connections, alias):
            _trace_cache(caches[alias], alias)


def uninstall() -> None:
    """Takes it back; objects of other threads keep their class, whose methods then call straight through."""
    global _original_create
    if _original_create is None:
        return
    CacheHandler.create_connection = _original_create  # type: ignore[method-assign]
    _original_create = None
    for cache in caches.all(initialized_only=True):
        original = getattr(type(cache), "_django_tracing_original", None)
        if original is not None:
            cache.__class__ = original


def _create(self: CacheHandler, alias: str) -> Any:
    assert _original_create is not None
    cache = _original_create(self, alias)
    _trace_cache(cache, alias)
    return cache


def _trace_cache(cache: Any, alias: str) -> None:
    try:
        backend = type(cache)
        if hasattr(backend, "_django_tracing_original"):
            return
        traced = _classes.get(backend)
        if traced is None:
            traced = _classes[backend] = _traced_class(backend)
        cache.__class__ = traced
        cache._django_tracing_alias = alias
    except Exception:
        # A backend with __slots__, or in C: it goes on untraced.
        spans.log_once("cache-class", 'The cache "%s" could not be traced.', alias)


def _traced_class(backend: type) -> type:
    system = next((_SYSTEMS[base.__name__] for base in backend.__mro__ if base.__name__ in _SYSTEMS), None)
    static: Attributes = {OPERATION_TYPE: "cache", CACHE_SYSTEM: system or backend.__name__.lower()}
    body: dict[str, Any] = {
        "_django_tracing_original": backend,
        "__module__": backend.__module__,
        "__qualname__": backend.__qualname__,
        "__doc__": backend.__doc__,
    }
    for operation in _OPERATIONS:
        original = getattr(backend, operation, None)
        if original is not None:
            body[operation] = _traced_method(operation, original, static)
        original = getattr(backend, f"a{operation}", None)
        if original is not None and inspect.iscoroutinefunction(original):
            body[f"a{operation}"] = _traced_async_method(operation, original, static)
    return type(backend)(backend.__name__, (backend,), body)


class _Call:
    """One traced call of a cache. No method raises."""

    __slots__ = ("_inside_token", "_span_context", "_token", "args", "kwargs", "operation", "sentinel", "span")

    def __init__(
        self, cache: Any, operation: str, static: Attributes, args: tuple[Any, ...], kwargs: dict[str, Any], get: bool
    ) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        #: What the caller gets for a missing key; set when a default of ours goes down instead.
        self.sentinel: Any = _MISSING
        self.span: Span = INVALID_SPAN
        self._token: Token[Context] | None = None
        self._inside_token: Token[bool] | None = None
        self._span_context: Context | None = None
        try:
            attributes: Attributes = {
                **static,
                CACHE_OPERATION: operation,
                CACHE_ALIAS: getattr(cache, "_django_tracing_alias", "default"),
            }
            name = f"cache.{operation}"
            pattern = self._keys(attributes)
            if pattern:
                attributes[CACHE_KEY] = pattern
                name = f"{name}.{pattern}"
            if get:
                self._take_default()
            elif operation == "get_or_set":
                self._let_default_out()
            kind = SpanKind.CLIENT if attributes[CACHE_SYSTEM] in _NETWORKED else SpanKind.INTERNAL
            self.span = spans.start_span(cut(name, 120), attributes, kind)
            self._span_context = trace.set_span_in_context(self.span)
            self._token = spans.attach(spans.suppressed(self._span_context))
        except Exception:
            spans.log_once("cache", "A cache call could not be traced.")
        self._inside_token = _inside.set(True)

    def _keys(self, attributes: Attributes) -> str:
        operation = self.operation
        if operation == "clear":
            return ""
        name = "data" if operation == "set_many" else "keys" if operation in _MANY_KEYS else "key"
        given = self.args[0] if self.args else self.kwargs.get(name)
        if operation not in _MANY_KEYS:
            return key_pattern(str(given))
        if not isinstance(given, (Mapping, list, tuple, set, frozenset)) and isinstance(given, Iterable):
            # An iterator can be read once: the backend gets the list.
            given = list(given)
            if self.args:
                self.args = (given, *self.args[1:])
            else:
                self.kwargs = {**self.kwargs, name: given}
        keys = list(given or ())
        attributes[CACHE_KEYS] = len(keys)
        # One pattern for all, or none: the first ones tell.
        patterns = {key_pattern(str(key)) for key in keys[:20]}
        return patterns.pop() if len(patterns) == 1 else ""

    def _take_default(self) -> None:
        """Sends a default of ours down, which nobody can have stored: 0, "" and None are hits."""
        if len(self.args) > 1:
            self.sentinel = self.args[1]
            self.args = (self.args[0], _MISSING, *self.args[2:])
        else:
            self.sentinel = self.kwargs.get("default")
            self.kwargs = {**self.kwargs, "default": _MISSING}

    def _let_default_out(self) -> None:
        """A callable default is the user's code: what it does is traced, as children of this span."""
        default = self.args[1] if len(self.args) > 1 else self.kwargs.get("default")
        if not callable(default):
            return

        def traced_default() -> Any:
            self.span.set_attribute(CACHE_HIT, False)
            token = spans.attach(self._span_context) if self._span_context is not None else None
            inside = _inside.set(False)
            try:
                return default()
            finally:
                _inside.reset(inside)
                spans.detach(token)

        if len(self.args) > 1:
            self.args = (self.args[0], traced_default, *self.args[2:])
        else:
            self.kwargs = {**self.kwargs, "default": traced_default}

    def leave(self) -> None:
        """The backend is done: what comes next is the user's again."""
        if self._inside_token is not None:
            try:
                _inside.reset(self._inside_token)
            except ValueError:
                _inside.set(False)
        spans.detach(self._token)

    def answer(self, result: Any) -> Any:
        self.leave()
        try:
            operation = self.operation
            if operation == "get":
                missing = result is _MISSING
                if missing:
                    result = None if self.sentinel is _MISSING else self.sentinel
                self.span.set_attribute(CACHE_HIT, not missing)
            elif operation == "has_key":
                self.span.set_attribute(CACHE_HIT, bool(result))
            elif operation in ("touch", "delete", "incr", "decr") and result is not None:
                self.span.set_attribute(CACHE_HIT, bool(result) if operation in ("touch", "delete") else True)
            elif operation == "get_many":
                keys = self.args[0] if self.args else self.kwargs.get("keys", ())
                self.span.set_attributes({CACHE_HITS: len(result), CACHE_HIT: len(result) == len(set(keys))})
        except Exception:
            spans.log_once("cache-answer", "A cache call's answer could not be traced.")
        spans.end_span(self.span)
        return result

    def fail(self, error: BaseException) -> None:
        self.leave()
        if isinstance(error, ValueError) and self.operation in ("incr", "decr"):
            # Django's answer for a key that is not there.
            spans.set_attributes(self.span, {CACHE_HIT: False})
        else:
            spans.record_error(self.span, error)
        spans.end_span(self.span)


def _takes_default(method: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = [parameter.kind for parameter in parameters]
    return any(parameter.name == "default" for parameter in parameters) or (
        inspect.Parameter.VAR_POSITIONAL in kinds and inspect.Parameter.VAR_KEYWORD in kinds
    )


def _traced_method(operation: str, original: Callable[..., Any], static: Attributes) -> Callable[..., Any]:
    get = operation == "get" and _takes_default(original)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not spans.recording() or _inside.get() or _original_create is None:
            return original(self, *args, **kwargs)
        call = _Call(self, operation, static, args, kwargs, get)
        try:
            result = original(self, *call.args, **call.kwargs)
        except BaseException as error:
            call.fail(error)
            raise
        return call.answer(result)

    return _like(method, original)


def _traced_async_method(operation: str, original: Callable[..., Any], static: Attributes) -> Callable[..., Any]:
    get = operation == "get" and _takes_default(original)

    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not spans.recording() or _inside.get() or _original_create is None:
            return await original(self, *args, **kwargs)
        call = _Call(self, operation, static, args, kwargs, get)
        try:
            result = await original(self, *call.args, **call.kwargs)
        except BaseException as error:
            call.fail(error)
            raise
        return call.answer(result)

    return _like(method, original)


def _like(method: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    from functools import update_wrapper

    return update_wrapper(method, original)
