"""Trace every cache of CACHES, as ``cache.get.blueprint:*``, with hit or miss. Values are never read.

A cache object's class is replaced by a subclass of it whose methods make spans, so that its own methods and
``isinstance`` keep working. One call by the user is one span, whatever the backend calls to answer it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import Token
from functools import update_wrapper
from types import MethodType
from typing import Any, Final

from django.core.cache import CacheHandler, caches
from django.core.cache.backends.base import BaseCache
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.context.marks import make_mark
from django_tracing.instrumentation.cache_server import server_of
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut, key_pattern
from django_tracing.semconv.names import (
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
from django_tracing.spans.locations import code_locations

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

_COUNTED: Final = frozenset({"incr", "decr", "incr_version", "decr_version"})
_ONE_KEY: Final = ("get", "set", "add", "delete", "touch", "has_key", "get_or_set", *sorted(_COUNTED))
_MANY_KEYS: Final = ("get_many", "set_many", "delete_many")
_ONE_KEY_SET: Final = frozenset(_ONE_KEY)
#: Operations whose result shows whether the key existed.
_TELLING: Final = frozenset({"has_key", "touch", "delete"})
#: Operations for which :func:`_traced_method` has a fast path.
_QUICK: Final = frozenset({"get", "set", "add", *_TELLING})
_OPERATIONS: Final = (*_ONE_KEY, *_MANY_KEYS, "clear")
#: Additional operations of django-redis, on a key or on a pattern of keys.
_REDIS_OPERATIONS: Final = (
    *("ttl", "pttl", "expire", "expire_at", "pexpire", "pexpire_at", "persist"),
    *("keys", "delete_pattern"),
)
_EVERY_OPERATION: Final = frozenset({*_OPERATIONS, *_REDIS_OPERATIONS})
#: The names of their first parameter.
_KEY_NAMES: Final = ("key", "keys", "data", "pattern", "search")
#: Backends that only return a default. Others may use it: they get the one that the caller passed.
_WELL_KNOWN: Final = ("django.core.cache.", "django_redis.")

_MISSING: Final = object()

_patches: Final = Patches()
#: Backend class -> its traced subclass.
_classes: dict[type, type] = {}
#: Whether a backend is handling a call that has a span already.
_inside: Final = make_mark("cache", False)


def is_available() -> bool:
    return True


def install() -> None:
    """Trace every cache object, existing and future."""
    if not _patches.start():
        return
    _patches.wrap(CacheHandler, "create_connection", _traced_create_connection)
    handler: Any = caches
    for alias in caches:
        # caches[alias] alone would create those that have not been used yet.
        if hasattr(handler._connections, alias):
            _trace_cache(caches[alias], alias)


def uninstall() -> None:
    """Stop tracing caches. Objects of other threads keep the traced class, whose methods do nothing more then."""
    if not _patches.stop():
        return
    for cache in caches.all(initialized_only=True):
        original = vars(type(cache)).get("_django_tracing_original")
        if original is not None:
            try:
                cache.__class__ = original
            except Exception:
                spans.log_once("cache-restore", "The class of a cache could not be restored; it traces nothing.")


def _traced_create_connection(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_connection(self: CacheHandler, alias: str) -> Any:
        cache = original(self, alias)
        if _patches.active:
            _trace_cache(cache, alias)
        return cache

    return update_wrapper(create_connection, original)


def _trace_cache(cache: Any, alias: str) -> None:
    try:
        backend = type(cache)
        if "_django_tracing_original" in vars(backend):
            return
        traced = _classes.get(backend)
        if traced is None:
            traced = _classes[backend] = _traced_class(backend)
        cache.__class__ = traced
        cache._django_tracing_alias = alias
        _trace_own_methods(cache)
    except Exception:
        # A backend with __slots__, or written in C: it is not traced.
        spans.log_once("cache-class", 'The cache "%s" could not be traced.', alias)


def _trace_own_methods(cache: Any) -> None:
    """Trace methods that were set on the object itself (Sentry does), where those of its class are not used."""
    own = vars(cache)
    static: Attributes = cache._django_tracing_static
    for name in [name for name in own if name in _EVERY_OPERATION or name.removeprefix("a") in _EVERY_OPERATION]:
        theirs = own[name]
        if not callable(theirs) or getattr(theirs, "_django_tracing_own", False):
            continue
        if inspect.iscoroutinefunction(theirs):
            method = _traced_async_method(name.removeprefix("a"), _unbound(theirs), static, False)
        else:
            method = _general_method(name, _unbound(theirs), static, False)
        method._django_tracing_own = True  # type: ignore[attr-defined]
        own[name] = MethodType(method, cache)


def _unbound(method: Callable[..., Any]) -> Callable[..., Any]:
    def function(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return update_wrapper(function, method)


def _traced_class(backend: type) -> type:
    system = next((_SYSTEMS[base.__name__] for base in backend.__mro__ if base.__name__ in _SYSTEMS), None)
    static: Attributes = {OPERATION_TYPE: "cache", CACHE_SYSTEM: system or backend.__name__.lower()}

    own_reduce: Any = backend.__reduce_ex__

    def reduce(self: Any, protocol: int) -> Any:
        # Pickle finds a class by its name, which leads to the backend's own class. (From protocol 2 on, pickle
        # requires it to be the object's class.)
        reduced = own_reduce(self, 1)
        if not isinstance(reduced, tuple):
            return reduced
        make, arguments, *state = reduced
        return (make, tuple(backend if argument is type(self) else argument for argument in arguments), *state)

    body: dict[str, Any] = {
        "_django_tracing_original": backend,
        "_django_tracing_static": static,
        "__module__": backend.__module__,
        "__qualname__": backend.__qualname__,
        "__doc__": backend.__doc__,
        "__reduce_ex__": reduce,
    }
    for operation in (*_OPERATIONS, *_REDIS_OPERATIONS) if system == "redis" else _OPERATIONS:
        original = getattr(backend, operation, None)
        well_known = _is_well_known(original)
        if inspect.isfunction(original) and not inspect.iscoroutinefunction(original):
            method = _traced_method(operation, original, static, well_known)
            inherited = original is getattr(BaseCache, operation, None)
            body[operation] = _HiddenInside(method, original) if inherited else method
        original = getattr(backend, f"a{operation}", None)
        if inspect.iscoroutinefunction(original):
            # Django's async methods call the sync ones, so both must be well known.
            well_known = well_known and _is_well_known(original)
            body[f"a{operation}"] = _traced_async_method(operation, original, static, well_known)
    return type(backend)(backend.__name__, (backend,), body)


def _is_well_known(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).startswith(_WELL_KNOWN)


class _HiddenInside:
    """A method that is the backend's own again while the backend is handling a call.

    Django's ``aget_many`` and others check whether ``get_many`` is still ``BaseCache``'s, and run it in a thread if
    it is not. There it fails for a backend that has only async methods.
    """

    def __init__(self, method: Callable[..., Any], original: Callable[..., Any]) -> None:
        self.method = method
        self.original = original

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.method
        return MethodType(self.original if _inside.get() else self.method, instance)


#: Name and attributes of spans, by operation, system, alias and pattern of keys.
_Described = tuple[str, SpanKind, tuple[SharedAttributes, ...], str]
_calls: Final[spans.Cache[tuple[str, Any, str, str], _Described]] = spans.Cache()
#: These have the same name in every convention.
_HITS: Final = {hit: (SharedAttributes({CACHE_HIT: hit}),) for hit in (True, False)}


def _describe(key: tuple[str, Any, str, str], static: Attributes) -> _Described:
    """Return name, kind and attributes of a call's span, and the alias of its cache."""
    operation, system, alias, pattern = key
    attributes: Attributes = {**static, CACHE_OPERATION: operation, CACHE_ALIAS: alias, **server_of(alias, system)}
    name = f"cache.{operation}"
    if pattern:
        attributes[CACHE_KEY] = pattern
        name = f"{name}.{pattern}"
    kind = SpanKind.CLIENT if system in _NETWORKED else SpanKind.INTERNAL
    return _calls.keep(key, (cut(name, 120), kind, (spans.share(attributes),), alias))


class _Call:
    """One traced call of a cache. No method raises."""

    __slots__ = (
        *("_inside_token", "_span_context", "_token", "_unique"),
        *("args", "default", "kwargs", "made", "operation", "sent", "span"),
    )

    def __init__(
        self,
        parent: Span,
        cache: Any,
        operation: str,
        static: Attributes,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        well_known: bool,
    ) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        #: What the caller gets for a missing key, and whether the backend was given a default of ours instead.
        self.default: Any = None
        self.sent = False
        #: Whether ``get_or_set`` had to make the value; None if that is not known.
        self.made: bool | None = None
        self.span: Span = INVALID_SPAN
        self._unique = 0
        self._token: Token[Context] | None = None
        self._inside_token: Token[bool] | None = None
        self._span_context: Context | None = None
        try:
            if operation in _ONE_KEY_SET and args and args[0].__class__ is str:
                pattern, attributes = key_pattern(args[0]), None
            else:
                pattern, attributes = self._keys()
            key = (operation, static[CACHE_SYSTEM], getattr(cache, "_django_tracing_alias", "default"), pattern)
            name, kind, shared, _ = _calls.get(key) or _describe(key, static)
            if code_locations.on is not False:
                shared = code_locations.add_to(shared)
            if operation == "get":
                self._take_default(well_known)
            elif operation == "get_or_set":
                self._let_default_out(well_known)
            self.span = span = spans.start_child(parent, name, kind, shared, attributes)
            # The statements of a cache in the database are spans of their own; the commands of other caches are not.
            self._span_context = context = (
                spans.with_span(span) if key[1] == "database" else spans.with_suppressed_span(span)
            )
            self._token = spans.attach(context)
        except Exception:
            spans.log_once("cache", "A cache call could not be traced.")
        self._inside_token = _inside.set(True)

    def _keys(self) -> tuple[str, Attributes | None]:
        """Return the pattern of the keys, empty if they have no common one, and this call's attributes about them."""
        operation = self.operation
        if operation == "clear":
            return "", None
        given = self.args[0] if self.args else _first(self.args, self.kwargs)
        if given is None:
            return "", None
        if operation not in _MANY_KEYS:
            return key_pattern(given if given.__class__ is str else str(given)), None
        if operation == "set_many" and not isinstance(given, Mapping):
            return "", None
        keys = list(given)
        if operation == "get_many":
            self._unique = len(set(keys))
        # Only the first keys are compared.
        patterns = {key_pattern(str(key)) for key in keys[:20]}
        return patterns.pop() if len(patterns) == 1 else "", {CACHE_KEYS: len(keys)}

    def _take_default(self, well_known: bool) -> None:
        """Give the backend a default of ours, which cannot have been stored: 0, "" and None are hits."""
        self.default = self.args[1] if len(self.args) > 1 else self.kwargs.get("default")
        if well_known:
            self._replace_default(_MISSING)
            self.sent = True

    def _let_default_out(self, well_known: bool) -> None:
        """Trace what a callable default does, which is the user's code, as children of this span."""
        default = self.args[1] if len(self.args) > 1 else self.kwargs.get("default")
        if not callable(default) and not well_known:
            return
        self.made = False

        def traced_default() -> Any:
            self.made = True
            if not callable(default):
                return default
            token = spans.attach(self._span_context) if self._span_context is not None else None
            inside = _inside.set(False)
            try:
                return default()
            finally:
                spans.detach(inside)
                spans.detach(token)

        if len(self.args) > 1 or "default" in self.kwargs:
            self._replace_default(traced_default)

    def _replace_default(self, default: Any) -> None:
        if len(self.args) > 1:
            self.args = (self.args[0], default, *self.args[2:])
        else:
            self.kwargs = {**self.kwargs, "default": default}

    def leave(self) -> None:
        """Leave the call: what comes next is not the backend's work."""
        if self._inside_token is not None:
            spans.detach(self._inside_token)
        spans.detach(self._token)

    def answer(self, result: Any) -> Any:
        self.leave()
        hit: bool | None = None
        if self.sent:
            hit = result is not _MISSING
            if not hit:
                result = self.default
        try:
            if not self.sent:
                hit = self._hit(result)
            if hit is not None:
                spans.set_shared(self.span, _HITS[hit])
            if self.operation == "get_many":
                spans.set_attributes(self.span, {CACHE_HITS: len(result)})
        except Exception:
            spans.log_once("cache-answer", "A cache call's answer could not be traced.")
        spans.end_span(self.span)
        return result

    def _hit(self, result: Any) -> bool | None:
        """Return whether the key existed; None if the result does not show it. Never compare values."""
        operation = self.operation
        if operation == "get":
            if result is not self.default:
                return True
            # It may be the default, or a stored value that is the same object, as small numbers and "" are.
            return False if self.default is None or type(self.default) is object else None
        if operation == "get_or_set":
            return None if self.made is None else not self.made
        if operation == "get_many":
            return isinstance(result, Mapping) and len(result) == self._unique
        if operation in _TELLING:
            return bool(result) if isinstance(result, int) else None
        return True if operation in _COUNTED and result is not None else None

    def fail(self, error: BaseException) -> None:
        self.leave()
        if type(error) is ValueError and self.operation in _COUNTED:
            # Django raises it for a missing key.
            spans.set_attributes(self.span, {CACHE_HIT: False})
        else:
            spans.record_error(self.span, error)
        spans.end_span(self.span)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next((kwargs[name] for name in _KEY_NAMES if name in kwargs), None)


def _read_once(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments, with an iterator of keys read into a list. What that raises goes to the caller."""
    given = _first(args, kwargs)
    try:
        if not isinstance(given, Iterator):
            return args, kwargs
    except Exception:  # an object that does not tell its class
        return args, kwargs
    keys = list(given)
    return ((keys, *args[1:]), kwargs) if args else (args, {k: keys if v is given else v for k, v in kwargs.items()})


def _traced_method(
    operation: str, original: Callable[..., Any], static: Attributes, well_known: bool
) -> Callable[..., Any]:
    general = _general_method(operation, original, static, well_known)
    if operation not in _QUICK or not well_known:
        return general
    system = static[CACHE_SYSTEM]
    is_get = operation == "get"
    with_context = spans.with_span if system == "database" else spans.with_suppressed_span
    #: By key. A key that two caches of this class use is looked up by its pattern each time: few sites have two.
    keys: spans.Cache[str, _Described] = spans.Cache()

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Nearly every call: one key, passed by position. The general method does the same, step by step.
        if not args or args[0].__class__ is not str or (is_get and kwargs):
            return general(self, *args, **kwargs)
        parent = spans.recording_span()
        if parent is None or _inside.get() or not _patches.active:
            return original(self, *args, **kwargs)
        try:
            key = args[0]
            described = keys.get(key)
            if described is None or described[3] != self._django_tracing_alias:
                call = (operation, system, self._django_tracing_alias, key_pattern(key))
                described = _calls.get(call) or _describe(call, static)
                if len(key) <= 250:
                    keys.keep(key, described)
            name, kind, shared, _ = described
            if code_locations.on is not False:
                shared = code_locations.add_to(shared)
            span = spans.start_child(parent, name, kind, shared)
            token = spans.attach(with_context(span))
        except Exception:
            spans.log_once("cache", "A cache call could not be traced.")
            return original(self, *args, **kwargs)
        inside = _inside.set(True)
        try:
            # A default of ours, which cannot have been stored: 0, "" and None are hits.
            result = original(self, key, _MISSING, *args[2:]) if is_get else original(self, *args, **kwargs)
        except BaseException as error:
            spans.detach(inside)
            spans.detach(token)
            spans.record_error(span, error)
            spans.end_span(span)
            raise
        spans.detach(inside)
        spans.detach(token)
        if is_get:
            if result is _MISSING:
                result = args[1] if len(args) > 1 else None
                spans.end_child(span, _HITS[False])
            else:
                spans.end_child(span, _HITS[True])
        elif operation in _TELLING:
            spans.end_child(span, _HITS[bool(result)] if issubclass(type(result), int) else ())
        else:
            spans.end_child(span)
        return result

    return update_wrapper(method, original)


def _general_method(
    operation: str, original: Callable[..., Any], static: Attributes, well_known: bool
) -> Callable[..., Any]:
    many = operation in _MANY_KEYS

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        parent = spans.recording_span()
        if parent is None or _inside.get() or not _patches.active:
            return original(self, *args, **kwargs)
        if many:
            args, kwargs = _read_once(args, kwargs)
        call = _Call(parent, self, operation, static, args, kwargs, well_known)
        try:
            result = original(self, *call.args, **call.kwargs)
        except BaseException as error:
            call.fail(error)
            raise
        return call.answer(result)

    return update_wrapper(method, original)


def _traced_async_method(
    operation: str, original: Callable[..., Any], static: Attributes, well_known: bool
) -> Callable[..., Any]:
    many = operation in _MANY_KEYS

    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _inside.get():
            return await original(self, *args, **kwargs)
        parent = spans.recording_span()
        if parent is None or not _patches.active:
            # _HiddenInside reads it.
            inside = _inside.set(True)
            try:
                return await original(self, *args, **kwargs)
            finally:
                spans.detach(inside)
        if many:
            args, kwargs = _read_once(args, kwargs)
        call = _Call(parent, self, operation, static, args, kwargs, well_known)
        try:
            result = await original(self, *call.args, **call.kwargs)
        except BaseException as error:
            call.fail(error)
            raise
        return call.answer(result)

    return update_wrapper(method, original)
