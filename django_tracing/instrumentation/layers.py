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
from functools import lru_cache, wraps
from time import time_ns
from typing import Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.handlers import base
from django.utils.deprecation import MiddlewareMixin
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span

from django_tracing import spans
from django_tracing.attributes import (
    CODE_FUNCTION,
    CODE_NAMESPACE,
    MIDDLEWARE_PHASE,
    OPERATION_TYPE,
    Attributes,
)
from django_tracing.conf import get_settings

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
        "attributes",
        "has_request",
        "has_response",
        "name",
        "response_attributes",
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
        self.attributes: Attributes = {
            OPERATION_TYPE: kind,
            CODE_NAMESPACE: namespace,
            CODE_FUNCTION: function,
        }
        self.response_attributes: Attributes = self.attributes
        if kind == "middleware":
            self.response_attributes = {**self.attributes, MIDDLEWARE_PHASE: "response"}
            self.attributes = {**self.attributes, MIDDLEWARE_PHASE: "request"}


class _Phase:
    """One phase of one layer in one request. No method raises."""

    __slots__ = ("attributes", "layer", "parent", "span", "started", "token")

    def __init__(self, layer: _Layer, attributes: Attributes, parent: Context) -> None:
        self.layer = layer
        self.attributes = attributes
        self.parent = parent
        self.token: Token[Context] | None = None
        self.span: Span = INVALID_SPAN
        self.started = time_ns()
        if layer.spans_all:
            self.span = spans.start_span(layer.name, attributes, context=parent)
            if self.span is not INVALID_SPAN:
                self.token = spans.attach(trace.set_span_in_context(self.span, parent))

    def end(self, error: BaseException | None = None) -> None:
        span = self.span
        if span is INVALID_SPAN:
            now = time_ns()
            if self.layer.spans_all or now - self.started < self.layer.slow_ns:
                return
            span = spans.start_span(self.layer.name, self.attributes, context=self.parent, start_time=self.started)
            if error is not None:
                spans.record_error(span, error)
            spans.end_span(span, now)
            return
        spans.detach(self.token)
        if error is not None and _is_fault(error):
            spans.record_error(span, error)
        spans.end_span(span)


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

    __slots__ = ("parent", "phase")

    def __init__(self, phase: _Phase | None, parent: Context) -> None:
        self.phase = phase
        self.parent = parent


#: The innermost running middleware's, so that its call of the next layer can end its request phase.
_current: ContextVar[_Cell | None] = ContextVar("django_tracing.layer", default=None)


def _begin(layer: _Layer) -> _Cell | None:
    """The layer's request phase begins; None where nothing is recorded."""
    if not spans.recording():
        return None
    try:
        parent = context_api.get_current()
        return _Cell(_Phase(layer, layer.attributes, parent) if layer.has_request else None, parent)
    except Exception:
        spans.log_once("layer", "A layer could not be traced.")
        return None


def _return(cell: _Cell | None, layer: _Layer) -> None:
    """The next layer has answered: the response phase begins."""
    if cell is None or not layer.has_response:
        return
    try:
        cell.phase = _Phase(layer, layer.response_attributes, cell.parent)
    except Exception:
        spans.log_once("layer", "A layer could not be traced.")


def _finish(cell: _Cell | None, error: BaseException | None = None) -> None:
    """The phase that the layer is in ends: it calls the next layer, or has answered, or failed."""
    if cell is None or cell.phase is None:
        return
    phase, cell.phase = cell.phase, None
    try:
        phase.end(error)
    except Exception:
        spans.log_once("layer", "A layer could not be traced.")


def _traced_factory(factory: Any, path: str) -> Any:
    """``factory`` as Django sees it, its instances and the layer below it wrapped."""
    module, _, attribute = path.rpartition(".")
    layer = _Layer(f"middleware.{_short_name(attribute, 'Middleware')}", "middleware", module, attribute)

    def traced_factory(get_response: Callable[..., Any]) -> Any:
        # What the user's factory answers with, or raises (MiddlewareNotUsed), is Django's to judge.
        instance = factory(_traced_next(get_response, layer))
        if instance is None:
            return None
        try:
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
        cell = _begin(layer)
        try:
            response = view(*args, **kwargs)
        except BaseException as error:
            _finish(cell, error)
            raise
        _finish(cell)
        return response

    return traced


def _view_layer(view: Callable[..., Any]) -> _Layer | None:
    settings = get_settings()
    if settings.layers == "off":
        return None
    # as_view() keeps the class; a decorated function keeps its name by functools.wraps.
    named = getattr(view, "view_class", None) or getattr(view, "cls", None) or view
    name = getattr(named, "__name__", None) or type(named).__name__
    module = getattr(named, "__module__", "") or ""
    return _view_layer_of(module, str(name), settings.layers, settings.slow_layer_ms)


@lru_cache(maxsize=2048)
def _view_layer_of(module: str, name: str, mode: str, slow_ms: float) -> _Layer:
    # mode and slow_ms are in the key only, so that changed settings make new layers.
    return _Layer(f"view.{_short_name(name, 'View')}", "view", module, name)


def _short_name(name: str, suffix: str) -> str:
    """``RateLimitMiddleware`` -> ``rate_limit``, ``blueprint_detail`` as it is."""
    bare = name.removesuffix(suffix) or name
    bare = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", bare).lower()
    return bare.removesuffix(f"_{suffix.lower()}")
