"""Trace context in and out: W3C tracecontext and baggage, B3, Jaeger, and the correlation id beside them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from django_tracing.correlation import HEADER, Scope, get_scope, well_formed, with_scope

__all__ = ["CorrelationPropagator", "MissingPropagator", "build_propagator"]

#: Name in OTEL_PROPAGATORS -> (module, class, package to install).
_CLASSES: Final = {
    "tracecontext": ("opentelemetry.trace.propagation.tracecontext", "TraceContextTextMapPropagator", ""),
    "baggage": ("opentelemetry.baggage.propagation", "W3CBaggagePropagator", ""),
    "b3": ("opentelemetry.propagators.b3", "B3SingleFormat", "opentelemetry-propagator-b3"),
    "b3multi": ("opentelemetry.propagators.b3", "B3MultiFormat", "opentelemetry-propagator-b3"),
    "jaeger": ("opentelemetry.propagators.jaeger", "JaegerPropagator", "opentelemetry-propagator-jaeger"),
}


class MissingPropagator(ImportError):
    """A propagator of ``PROPAGATORS`` whose package is not installed; the message says which."""


class CorrelationPropagator(TextMapPropagator):
    """Hands the current request's correlation id to called services as ``X-Correlation-ID``, and takes one in.

    What begins a trace with nobody's id makes one of its own: the middleware, a command.
    """

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        context = Context() if context is None else context
        if get_scope(context) is None:
            values = getter.get(carrier, HEADER)
            if values and well_formed(values[0]):
                return with_scope(Scope(values[0]), context)
        return context

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        scope = get_scope(context)
        if scope is not None:
            setter.set(carrier, HEADER, scope.correlation_id)

    @property
    def fields(self) -> set[str]:
        return {HEADER}


def build_propagator(names: Iterable[str]) -> TextMapPropagator:
    """The propagators called ``names`` (as in ``OTEL_PROPAGATORS``) as one, the correlation id's at the end.

    Raises :class:`MissingPropagator` when a package is missing.
    """
    propagators: list[TextMapPropagator] = []
    for name in names:
        module, attribute, package = _CLASSES[name]
        try:
            found: Any = getattr(import_module(module), attribute)
        except ImportError as error:
            raise MissingPropagator(
                f'The propagator "{name}" needs the package {package}: pip install {package}'
            ) from error
        propagators.append(found())
    return CompositePropagator([*propagators, CorrelationPropagator()])
