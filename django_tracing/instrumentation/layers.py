"""Trace middleware and views, as ``middleware.NAME`` and ``view.NAME`` spans.

A middleware's own time has two parts: until it calls the next layer (phase ``request``), and from then on (phase
``response``). With ``LAYERS = "all"`` each phase and the view is a span, current while the layer works, so that the
spans of what it calls are its children. With ``"slow"`` only a phase that took ``SLOW_LAYER_MS`` becomes a span, made
afterwards: a request of quick layers costs two clock readings a layer and no span.
"""

from __future__ import annotations

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
from django_tracing.context.marks import make_mark
from django_tracing.instrumentation.patching import Patches
from django_tracing.instrumentation.view_names import ViewName, short_name, view_names
from django_tracing.recording.shared import SharedAttributes
from django_tracing.semconv.names import CODE_FUNCTION, CODE_NAMESPACE, MIDDLEWARE_PHASE, OPERATION_TYPE, Attributes

__all__ = ["install", "is_available", "is_fault", "record_afterwards", "uninstall"]

#: Tracing itself is not a layer of the site.
_SKIPPED: Final = ("django_tracing.", "opentelemetry.")

_patches: Final = Patches()


def is_available() -> bool:
    return True


def install() -> None:
    """Wrap middleware as the handler loads it, and views as the handler calls them."""
    _patches.start()
    # The handler's module calls its import_string for MIDDLEWARE only.
    _patches.wrap(base, "import_string", _traced_import)
    _patches.wrap(base.BaseHandler, "make_view_atomic", _traced_make_view_atomic)


def uninstall() -> None:
    """Restore the handler. Middleware that is loaded already keeps its wrappers, as the handler keeps them."""
    _patches.stop()


def _traced_import(original: Callable[[str], Any]) -> Callable[[str], Any]:
    @wraps(original)
    def import_string(path: str) -> Any:
        factory = original(path)
        try:
            if not _patches.active or path.startswith(_SKIPPED) or get_settings().layers == "off":
                return factory
            return _traced_factory(factory, path)
        except Exception:
            spans.log_once("layers", "A middleware could not be wrapped; it is not traced.")
            return factory

    return import_string


class _Layer:
    """The facts about one middleware or view that are the same for every request."""

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
        attributes: Attributes = {OPERATION_TYPE: kind, CODE_NAMESPACE: namespace, CODE_FUNCTION: function}
        # These have the same names in every convention.
        if kind == "middleware":
            self.request_part = SharedAttributes({**attributes, MIDDLEWARE_PHASE: "request"})
            self.response_part = SharedAttributes({**attributes, MIDDLEWARE_PHASE: "response"})
        else:
            self.request_part = self.response_part = SharedAttributes(attributes)

    def record_if_slow(
        self, part: SharedAttributes, parent: Context, started: int, error: BaseException | None = None
    ) -> None:
        """Make the span of a phase that ends now, if it was slow."""
        ended = time_ns()
        if ended - started < self.slow_ns:
            return
        record_afterwards(self.name, part, parent, started, ended, error)


def record_afterwards(
    name: str, part: SharedAttributes, parent: Context, started: int, ended: int, error: BaseException | None = None
) -> None:
    """Make the span of a layer that has ended already. Times are in nanoseconds since the epoch. Never raises."""
    try:
        span = spans.start_child(
            trace.get_current_span(parent), name, SpanKind.INTERNAL, (part,), None, started, parent
        )
        if error is not None and is_fault(error):
            spans.record_error(span, error)
        spans.end_span(span, ended)
    except Exception:
        spans.log_once("layer", "A layer could not be traced.")


def is_fault(error: BaseException) -> bool:
    """Return whether Django answers it with a 5xx: Http404, PermissionDenied and bad requests are not errors."""
    from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
    from django.http import Http404
    from django.http.multipartparser import MultiPartParserError

    return not isinstance(
        error,
        (Http404, PermissionDenied, BadRequest, SuspiciousOperation, MultiPartParserError, GeneratorExit),
    )


class _Cell:
    """One layer in one request: its current phase, and the context in which that started."""

    __slots__ = ("layer", "part", "parent", "span", "started", "token")

    def __init__(self, layer: _Layer, parent: Context) -> None:
        self.layer = layer
        self.parent = parent
        #: The start of the phase in nanoseconds since the epoch; 0 between two phases.
        self.started = 0
        self.part: SharedAttributes | None = None
        self.span: Span | None = None
        self.token: Token[Context] | None = None

    def start(self, part: SharedAttributes) -> None:
        """Start a phase, whose span has the attributes ``part``."""
        self.part = part
        self.started = time_ns()
        layer = self.layer
        if layer.spans_all:
            self.span = spans.start_span(layer.name, context=self.parent, shared=(part,))
            if self.span is not INVALID_SPAN:
                self.token = spans.attach(spans.with_span(self.span, self.parent))

    def end(self, error: BaseException | None) -> None:
        """End the phase."""
        started, self.started = self.started, 0
        span, self.span = self.span, None
        if span is None:
            assert self.part is not None
            self.layer.record_if_slow(self.part, self.parent, started, error)
            return
        spans.detach(self.token)
        if error is not None and is_fault(error):
            spans.record_error(span, error)
        spans.end_span(span)


#: The cell of the innermost running middleware: its call of the next layer ends its request phase.
_current: Final[ContextVar[_Cell | None]] = make_mark("layer", None)


def _start(layer: _Layer) -> _Cell | None:
    """Start the layer's request phase. Return None if nothing is recorded."""
    parent = spans.current_context()
    if spans.recording_span() is None:
        return None
    cell = _Cell(layer, parent)
    if layer.has_request:
        try:
            cell.start(layer.request_part)
        except Exception:
            spans.log_once("layer", "A layer could not be traced.")
    return cell


def _continue(cell: _Cell | None, layer: _Layer) -> None:
    """Start the response phase: the next layer has returned."""
    if cell is None or not layer.has_response:
        return
    try:
        cell.start(layer.response_part)
    except Exception:
        spans.log_once("layer", "A layer could not be traced.")


def _end(cell: _Cell | None, error: BaseException | None = None) -> None:
    """End the layer's current phase: it calls the next layer, or returns, or has failed."""
    if cell is None or not cell.started:
        return
    try:
        cell.end(error)
    except Exception:
        spans.log_once("layer", "A layer could not be traced.")


def _traced_factory(factory: Any, path: str) -> Any:
    """Return ``factory`` with its instances and the layer below it wrapped."""
    module, _, attribute = path.rpartition(".")
    layer = _Layer(f"middleware.{short_name(attribute, 'Middleware')}", "middleware", module, attribute)

    def traced_factory(get_response: Callable[..., Any]) -> Any:
        plain = _is_plain_mixin(factory) and not layer.spans_all and not iscoroutinefunction(get_response)
        # Django handles what the factory returns, and what it raises (MiddlewareNotUsed).
        instance = factory(get_response if plain else _traced_next(get_response, layer))
        if instance is None:
            return None
        try:
            if plain and not iscoroutinefunction(instance):
                return _MixinInstance(instance, layer)
            return _traced_instance(instance, layer)
        except Exception:
            spans.log_once("layers", "A middleware could not be wrapped; it is not traced.")
            return instance

    traced_factory.__name__ = traced_factory.__qualname__ = getattr(factory, "__qualname__", attribute)
    traced_factory.__module__ = getattr(factory, "__module__", module)
    # Django reads these from the factory before it makes an instance.
    traced_factory.sync_capable = getattr(factory, "sync_capable", True)  # type: ignore[attr-defined]
    traced_factory.async_capable = getattr(factory, "async_capable", False)  # type: ignore[attr-defined]
    return traced_factory


def _traced_next(get_response: Callable[..., Any], layer: _Layer) -> Callable[..., Any]:
    if iscoroutinefunction(get_response):

        async def next_async(request: Any) -> Any:
            cell = _current.get()
            _end(cell)
            response = await get_response(request)
            _continue(cell, layer)
            return response

        return wraps(get_response, updated=())(next_async)

    def next_sync(request: Any) -> Any:
        cell = _current.get()
        _end(cell)
        response = get_response(request)
        _continue(cell, layer)
        return response

    return wraps(get_response, updated=())(next_sync)


class _SyncInstance:
    """A middleware instance whose calls are traced; all other attributes are the instance's own."""

    def __init__(self, instance: Any, layer: _Layer) -> None:
        self._instance = instance
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        # Django looks up process_view and similar methods here.
        return getattr(self._instance, name)

    def __call__(self, request: Any) -> Any:
        cell = _start(self._layer)
        if cell is None:
            return self._instance(request)
        token = _current.set(cell)
        try:
            response = self._instance(request)
        except BaseException as error:
            _end(cell, error)
            raise
        finally:
            _reset(token)
        _end(cell)
        return response


def _is_plain_mixin(factory: Any) -> bool:
    return (
        isinstance(factory, type)
        and issubclass(factory, MiddlewareMixin)
        and factory.__call__ is MiddlewareMixin.__call__
    )


class _MixinInstance(_SyncInstance):
    """A middleware with ``process_request`` and ``process_response``, in ``"slow"`` mode.

    It does what ``MiddlewareMixin.__call__`` does between the two: most middleware is of this kind, and a request
    through ten of them would take twenty more calls.
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
                layer.record_if_slow(layer.request_part, context, started, error)
                raise
            if time_ns() - started >= layer.slow_ns:
                layer.record_if_slow(layer.request_part, context, started)
        response = response or instance.get_response(request)
        if self._has_response:
            started = time_ns()
            try:
                response = instance.process_response(request, response)
            except BaseException as error:
                layer.record_if_slow(layer.response_part, context, started, error)
                raise
            if time_ns() - started >= layer.slow_ns:
                layer.record_if_slow(layer.response_part, context, started)
        return response


class _AsyncInstance(_SyncInstance):
    def __init__(self, instance: Any, layer: _Layer) -> None:
        super().__init__(instance, layer)
        markcoroutinefunction(self)

    async def __call__(self, request: Any) -> Any:
        cell = _start(self._layer)
        if cell is None:
            return await self._instance(request)
        token = _current.set(cell)
        try:
            response = await self._instance(request)
        except BaseException as error:
            _end(cell, error)
            raise
        finally:
            _reset(token)
        _end(cell)
        return response


def _reset(token: Token[_Cell | None]) -> None:
    try:
        _current.reset(token)
    except Exception:  # another context: asgiref copied the value into it, and resets it
        _current.set(None)


def _traced_instance(instance: Any, layer: _Layer) -> Any:
    if isinstance(instance, MiddlewareMixin):
        # Without such a method, no time is spent there.
        layer.has_request = hasattr(instance, "process_request")
        layer.has_response = hasattr(instance, "process_response")
    # Django decides by the instance, not by the factory, whether to await it.
    return (_AsyncInstance if iscoroutinefunction(instance) else _SyncInstance)(instance, layer)


def _traced_make_view_atomic(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def make_view_atomic(self: base.BaseHandler, view: Callable[..., Any]) -> Callable[..., Any]:
        atomic: Callable[..., Any] = original(self, view)
        # Django calls this once a request, just before the view.
        if not spans.recording() or not _patches.active:
            return atomic
        try:
            layers = _layers_of(view)
            if layers is None:
                return atomic
            return _traced_view(atomic, layers)
        except Exception:
            spans.log_once("view", "A view could not be wrapped; it is not traced.")
            return atomic

    return make_view_atomic


def _traced_view(view: Callable[..., Any], layers: _ViewLayers) -> Callable[..., Any]:
    if iscoroutinefunction(view):

        async def traced_async(*args: Any, **kwargs: Any) -> Any:
            cell = _start(layers.of(args))
            try:
                response = await view(*args, **kwargs)
            except BaseException as error:
                _end(cell, error)
                raise
            _end(cell)
            return response

        return traced_async

    def traced(*args: Any, **kwargs: Any) -> Any:
        layer = layers.of(args)
        if layer.spans_all:
            return _call_view(layer, view, args, kwargs)
        context = spans.current_context()
        started = time_ns()
        try:
            response = view(*args, **kwargs)
        except BaseException as error:
            layer.record_if_slow(layer.request_part, context, started, error)
            raise
        if time_ns() - started >= layer.slow_ns:
            layer.record_if_slow(layer.request_part, context, started)
        return response

    return traced


def _call_view(layer: _Layer, view: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    cell = _start(layer)
    try:
        response = view(*args, **kwargs)
    except BaseException as error:
        _end(cell, error)
        raise
    _end(cell)
    return response


class _ViewLayers:
    """The layers of a view: one, or one for each HTTP method whose function is another."""

    __slots__ = ("by_method", "layer", "settings")

    def __init__(self, view: Callable[..., Any], settings: Settings) -> None:
        self.settings = settings
        name, by_method = view_names(view)
        self.layer = _layer_of(name)
        self.by_method = {method: _layer_of(name) for method, name in by_method.items()}

    def of(self, arguments: tuple[Any, ...]) -> _Layer:
        """Return the layer of a call of the view, whose first argument is the request."""
        if self.by_method and arguments:
            return self.by_method.get(getattr(arguments[0], "method", None) or "", self.layer)
        return self.layer


def _layer_of(name: ViewName) -> _Layer:
    return _Layer(f"view.{name.shown}", "view", name.module, name.function)


#: The layers of each view.
_view_layers: Final[spans.Cache[Any, _ViewLayers]] = spans.Cache()


def _layers_of(view: Callable[..., Any]) -> _ViewLayers | None:
    settings = get_settings()
    if settings.layers == "off":
        return None
    try:
        known = _view_layers.get(view)
    except TypeError:  # a view that cannot be hashed
        return _ViewLayers(view, settings)
    if known is None or known.settings is not settings:
        known = _view_layers.keep(view, _ViewLayers(view, settings))
    return known
