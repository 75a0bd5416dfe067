"""Middleware and view layers: where a request's time goes, as ``middleware.NAME`` and ``view.NAME`` spans.

A middleware's own time falls in two: until it calls the next layer (phase ``request``), and from then on (phase
``response``). With ``LAYERS = "all"`` each phase and the view is a span, current while the layer works, so that
what it calls hangs below it. With ``"slow"`` only a phase that took ``SLOW_LAYER_MS`` becomes a span, made
afterwards, so that a request of quick layers pays two clock readings a layer and no span.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import wraps
from time import time_ns
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.handlers import base
from django.utils.deprecation import MiddlewareMixin
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.conf.values import Settings
from django_tracing.recording.shared import SharedAttributes
from django_tracing.semconv.names import CODE_FUNCTION, CODE_NAMESPACE, MIDDLEWARE_PHASE, OPERATION_TYPE, Attributes

__all__ = ["install", "is_available", "uninstall"]

#: Not layers of the user's: the tracing itself.
_SKIPPED: Final = ("django_tracing.", "opentelemetry.")

#: The module whose ``import_string`` loads middleware; its stubs do not know the name.
_handlers: Any = base
_original_import_string: Callable[[str], Any] | None = None
_original_make_view_atomic: Callable[..., Any] | None = None


def is_available() -> bool:
    return True


def install() -> None:
    """Wraps middleware as the handler loads it, and views as the handler calls them."""
    global _original_import_string, _original_make_view_atomic
    if _original_import_string is not None:
        return
    _original_import_string = _handlers.import_string
    _original_make_view_atomic = base.BaseHandler.make_view_atomic
    _handlers.import_string = _import_middleware
    base.BaseHandler.make_view_atomic = _make_view_atomic  # type: ignore[method-assign]


def uninstall() -> None:
    global _original_import_string, _original_make_view_atomic
    if _original_import_string is None or _original_make_view_atomic is None:
        return
    _handlers.import_string = _original_import_string
    base.BaseHandler.make_view_atomic = _original_make_view_atomic  # type: ignore[method-assign]
    _original_import_string = None
    _original_make_view_atomic = None


def _import_middleware(path: str) -> Any:
    # The handler calls this for MIDDLEWARE only.
    assert _original_import_string is not None
    factory = _original_import_string(path)
    try:
        if path.startswith(_SKIPPED) or get_settings().layers == "off":
            return factory
        return _traced_factory(factory, path)
    except Exception:
        spans.log_once("layers", "A middleware could not be wrapped; it goes without spans.")
        return factory


class _Layer:
    """What is the same for every request through one middleware or view."""

    __slots__ = (
        "has_request",
        "has_response",
        "name",
        "request_part",
        "response_part",
        "slow_ns",
        "spans_all",
    )

    def __init__(self, name: str, kind: str, namespace: str, function: str) -> None:
        settings = get_settings()
        self.name = name
        self.has_request = True
        self.has_response = True
        self.spans_all = settings.layers == "all"
        self.slow_ns = int(settings.slow_layer_ms * 1_000_000)
        said: Attributes = {OPERATION_TYPE: kind, CODE_NAMESPACE: namespace, CODE_FUNCTION: function}
        # Under the same names in every convention.
        if kind == "middleware":
            self.request_part = SharedAttributes({**said, MIDDLEWARE_PHASE: "request"})
            self.response_part = SharedAttributes({**said, MIDDLEWARE_PHASE: "response"})
        else:
            self.request_part = self.response_part = SharedAttributes(said)

    def may_have_been_slow(
        self, part: SharedAttributes, parent: Context, started: int, error: BaseException | None = None
    ) -> None:
        """Makes the span of a phase that is over now, when it was slow."""
        ended = time_ns()
        if ended - started < self.slow_ns:
            return
        try:
            span = spans.start_child(
                trace.get_current_span(parent), self.name, SpanKind.INTERNAL, (part,), None, started, parent
            )
            if error is not None and _is_fault(error):
                spans.record_error(span, error)
            spans.end_span(span, ended)
        except Exception:
            spans.log_once("layer", "A layer could not be traced.")


def _is_fault(error: BaseException) -> bool:
    """Whether Django makes a 5xx of it: Http404, PermissionDenied and bad requests are answers, not errors."""
    from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
    from django.http import Http404
    from django.http.multipartparser import MultiPartParserError

    return not isinstance(
        error,
        (Http404, PermissionDenied, BadRequest, SuspiciousOperation, MultiPartParserError, GeneratorExit),
    )


class _Cell:
    """One layer in one request: the phase that it is in, and the context that it began in."""

    __slots__ = ("layer", "part", "parent", "span", "started", "token")

    def __init__(self, layer: _Layer, parent: Context) -> None:
        self.layer = layer
        self.parent = parent
        #: When the phase began, in nanoseconds since the epoch; 0 between two phases.
        self.started = 0
        self.part: SharedAttributes | None = None
        self.span: Span | None = None
        self.token: Token[Context] | None = None

    def begin(self, part: SharedAttributes) -> None:
        """A phase begins, whose span says ``part``."""
        self.part = part
        self.started = time_ns()
        layer = self.layer
        if layer.spans_all:
            self.span = spans.start_span(layer.name, context=self.parent, shared=(part,))
            if self.span is not INVALID_SPAN:
                self.token = spans.attach(spans.with_span(self.span, self.parent))

    def end(self, error: BaseException | None) -> None:
        """The phase ends."""
        started, self.started = self.started, 0
        span, self.span = self.span, None
        if span is None:
            assert self.part is not None
            self.layer.may_have_been_slow(self.part, self.parent, started, error)
            return
        spans.detach(self.token)
        if error is not None and _is_fault(error):
            spans.record_error(span, error)
        spans.end_span(span)


#: The innermost running middleware's, so that its call of the next layer can end its request phase.
_current: ContextVar[_Cell | None] = ContextVar("django_tracing.layer", default=None)


def _begin(layer: _Layer) -> _Cell | None:
    """The layer's request phase begins; None where nothing is recorded."""
    parent = spans.current_context()
    if spans.recording_span() is None:
        return None
    cell = _Cell(layer, parent)
    if layer.has_request:
        try:
            cell.begin(layer.request_part)
        except Exception:
            spans.log_once("layer", "A layer could not be traced.")
    return cell


def _return(cell: _Cell | None, layer: _Layer) -> None:
    """The next layer has answered: the response phase begins."""
    if cell is None or not layer.has_response:
        return
    try:
        cell.begin(layer.response_part)
    except Exception:
        spans.log_once("layer", "A layer could not be traced.")


def _finish(cell: _Cell | None, error: BaseException | None = None) -> None:
    """The phase that the layer is in ends: it calls the next layer, or has answered, or failed."""
    if cell is None or not cell.started:
        return
    try:
        cell.end(error)
    except Exception:
        spans.log_once("layer", "A layer could not be traced.")


def _traced_factory(factory: Any, path: str) -> Any:
    """``factory`` as Django sees it, its instances and the layer below it wrapped."""
    module, _, attribute = path.rpartition(".")
    layer = _Layer(f"middleware.{_short_name(attribute, 'Middleware')}", "middleware", module, attribute)

    def traced_factory(get_response: Callable[..., Any]) -> Any:
        plain = _is_plain_mixin(factory) and not layer.spans_all and not iscoroutinefunction(get_response)
        # What the user's factory answers with, or raises (MiddlewareNotUsed), is Django's to judge.
        instance = factory(get_response if plain else _traced_next(get_response, layer))
        if instance is None:
            return None
        try:
            if plain and not iscoroutinefunction(instance):
                return _MixinInstance(instance, layer)
            return _traced_instance(instance, layer)
        except Exception:
            spans.log_once("layers", "A middleware could not be wrapped; it goes without spans.")
            return instance

    traced_factory.__name__ = traced_factory.__qualname__ = getattr(factory, "__qualname__", attribute)
    traced_factory.__module__ = getattr(factory, "__module__", module)
    # Django asks the factory, before it makes an instance.
    traced_factory.sync_capable = getattr(factory, "sync_capable", True)  # type: ignore[attr-defined]
    traced_factory.async_capable = getattr(factory, "async_capable", False)  # type: ignore[attr-defined]
    return traced_factory


def _traced_next(get_response: Callable[..., Any], layer: _Layer) -> Callable[..., Any]:
    if iscoroutinefunction(get_response):

        async def next_async(request: Any) -> Any:
            cell = _current.get()
            _finish(cell)
            response = await get_response(request)
            _return(cell, layer)
            return response

        return wraps(get_response, updated=())(next_async)

    def next_sync(request: Any) -> Any:
        cell = _current.get()
        _finish(cell)
        response = get_response(request)
        _return(cell, layer)
        return response

    return wraps(get_response, updated=())(next_sync)


class _SyncInstance:
    """A middleware instance, called through its layer; everything else is the instance's own."""

    def __init__(self, instance: Any, layer: _Layer) -> None:
        self._instance = instance
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        # process_view and its kin: Django looks them up here, and must find the instance's.
        return getattr(self._instance, name)

    def __call__(self, request: Any) -> Any:
        cell = _begin(self._layer)
        if cell is None:
            return self._instance(request)
        token = _current.set(cell)
        try:
            response = self._instance(request)
        except BaseException as error:
            _finish(cell, error)
            raise
        finally:
            _reset(token)
        _finish(cell)
        return response


def _is_plain_mixin(factory: Any) -> bool:
    return (
        isinstance(factory, type)
        and issubclass(factory, MiddlewareMixin)
        and factory.__call__ is MiddlewareMixin.__call__
    )


class _MixinInstance(_SyncInstance):
    """A middleware of ``process_request`` and ``process_response``, in ``"slow"`` mode.

    It does itself what ``MiddlewareMixin.__call__`` does, which stands between the two: most middlewares are such,
    and a request through ten of them would pay for twenty more calls.
    """

    def __init__(self, instance: Any, layer: _Layer) -> None:
        super().__init__(instance, layer)
        self._has_request = hasattr(instance, "process_request")
        self._has_response = hasattr(instance, "process_response")

    def __call__(self, request: Any) -> Any:
        instance = self._instance
        context = spans.current_context()
        if spans.recording_span() is None:
            response = instance.process_request(request) if self._has_request else None
            response = response or instance.get_response(request)
            return instance.process_response(request, response) if self._has_response else response
        layer = self._layer
        response = None
        if self._has_request:
            started = time_ns()
            try:
                response = instance.process_request(request)
            except BaseException as error:
                layer.may_have_been_slow(layer.request_part, context, started, error)
                raise
            if time_ns() - started >= layer.slow_ns:
                layer.may_have_been_slow(layer.request_part, context, started)
        response = response or instance.get_response(request)
        if self._has_response:
            started = time_ns()
            try:
                response = instance.process_response(request, response)
            except BaseException as error:
                layer.may_have_been_slow(layer.response_part, context, started, error)
                raise
            if time_ns() - started >= layer.slow_ns:
                layer.may_have_been_slow(layer.response_part, context, started)
        return response


class _AsyncInstance(_SyncInstance):
    def __init__(self, instance: Any, layer: _Layer) -> None:
        super().__init__(instance, layer)
        markcoroutinefunction(self)

    async def __call__(self, request: Any) -> Any:
        cell = _begin(self._layer)
        if cell is None:
            return await self._instance(request)
        token = _current.set(cell)
        try:
            response = await self._instance(request)
        except BaseException as error:
            _finish(cell, error)
            raise
        finally:
            _reset(token)
        _finish(cell)
        return response


def _reset(token: Token[_Cell | None]) -> None:
    try:
        _current.reset(token)
    except ValueError:  # another context: asgiref carried the value over, and takes it back itself
        _current.set(None)


def _traced_instance(instance: Any, layer: _Layer) -> Any:
    if isinstance(instance, MiddlewareMixin):
        # What has no such method spends no time there.
        layer.has_request = hasattr(instance, "process_request")
        layer.has_response = hasattr(instance, "process_response")
    # Django asks the instance, not the factory, whether to await it.
    return (_AsyncInstance if iscoroutinefunction(instance) else _SyncInstance)(instance, layer)


def _make_view_atomic(self: base.BaseHandler, view: Callable[..., Any]) -> Callable[..., Any]:
    assert _original_make_view_atomic is not None
    atomic: Callable[..., Any] = _original_make_view_atomic(self, view)
    # Django calls this once a request, just before the view.
    if not spans.recording():
        return atomic
    try:
        layer = _view_layer(view)
        if layer is None:
            return atomic
        return _traced_view(atomic, layer)
    except Exception:
        spans.log_once("view", "A view could not be wrapped; it goes without a span.")
        return atomic


def _traced_view(view: Callable[..., Any], layer: _Layer) -> Callable[..., Any]:
    if iscoroutinefunction(view):

        async def traced_async(*args: Any, **kwargs: Any) -> Any:
            cell = _begin(layer)
            try:
                response = await view(*args, **kwargs)
            except BaseException as error:
                _finish(cell, error)
                raise
            _finish(cell)
            return response

        return traced_async

    def traced(*args: Any, **kwargs: Any) -> Any:
        if layer.spans_all:
            return _call_view(layer, view, args, kwargs)
        context = spans.current_context()
        started = time_ns()
        try:
            response = view(*args, **kwargs)
        except BaseException as error:
            layer.may_have_been_slow(layer.request_part, context, started, error)
            raise
        if time_ns() - started >= layer.slow_ns:
            layer.may_have_been_slow(layer.request_part, context, started)
        return response

    return traced


def _call_view(layer: _Layer, view: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    cell = _begin(layer)
    try:
        response = view(*args, **kwargs)
    except BaseException as error:
        _finish(cell, error)
        raise
    _finish(cell)
    return response


#: The layer of a view, and the settings that it follows.
_view_layers: Final[spans.Cache[Any, tuple[Settings, _Layer | None]]] = spans.Cache()


def _view_layer(view: Callable[..., Any]) -> _Layer | None:
    settings = get_settings()
    try:
        known = _view_layers.get(view)
    except TypeError:  # a view that cannot be hashed
        return _make_view_layer(view, settings)
    if known is None or known[0] is not settings:
        known = _view_layers.keep(view, (settings, _make_view_layer(view, settings)))
    return known[1]


def _make_view_layer(view: Callable[..., Any], settings: Settings) -> _Layer | None:
    if settings.layers == "off":
        return None
    # as_view() keeps the class; a decorated function keeps its name by functools.wraps.
    named = getattr(view, "view_class", None) or getattr(view, "cls", None) or view
    name = str(getattr(named, "__name__", None) or type(named).__name__)
    module = getattr(named, "__module__", "") or ""
    return _Layer(f"view.{_short_name(name, 'View')}", "view", module, name)


#: Between two words that are written together.
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _short_name(name: str, suffix: str) -> str:
    """``RateLimitMiddleware`` -> ``rate_limit``, ``blueprint_detail`` as it is."""
    bare = name.removesuffix(suffix) or name
    bare = _HUMP.sub("_", bare).lower()
    return bare.removesuffix(f"_{suffix.lower()}")
