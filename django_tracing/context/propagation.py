"""Trace context in and out: W3C tracecontext and baggage, B3, Jaeger, and the correlation id beside them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, Final, cast

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

from django_tracing.context.request import HEADER, RequestState, get_request_state, well_formed, with_request_state

__all__ = ["CorrelationPropagator", "MissingPropagator", "available_propagator"]

#: Name in OTEL_PROPAGATORS -> (module, class, package to install).
_CLASSES: Final = {
    "tracecontext": ("opentelemetry.trace.propagation.tracecontext", "TraceContextTextMapPropagator", ""),
    "baggage": ("opentelemetry.baggage.propagation", "W3CBaggagePropagator", ""),
    "b3": ("opentelemetry.propagators.b3", "B3SingleFormat", "opentelemetry-propagator-b3"),
    "b3multi": ("opentelemetry.propagators.b3", "B3MultiFormat", "opentelemetry-propagator-b3"),
    "jaeger": ("opentelemetry.propagators.jaeger", "JaegerPropagator", "opentelemetry-propagator-jaeger"),
}


class MissingPropagator(ImportError):
    """A propagator of ``PROPAGATORS`` that can't be had here; the message says which, and what to install."""


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
        if get_request_state(context) is None:
            values = getter.get(carrier, HEADER)
            if values and well_formed(values[0]):
                return with_request_state(RequestState(values[0]), context)
        return context

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        state = get_request_state(context)
        if state is not None:
            setter.set(carrier, HEADER, state.correlation_id)

    @property
    def fields(self) -> set[str]:
        return {HEADER}


def available_propagator(names: Iterable[str]) -> tuple[TextMapPropagator, list[MissingPropagator]]:
    """Those of ``names`` (as in ``OTEL_PROPAGATORS``) that are installed, as one, and what is wrong with the others.

    The correlation id's own stands at the end.
    """
    found: list[TextMapPropagator] = []
    missing: list[MissingPropagator] = []
    for name in names:
        try:
            found.append(_propagator(name))
        except MissingPropagator as error:
            missing.append(error)
    return CompositePropagator([*found, CorrelationPropagator()]), missing


def _propagator(name: str) -> TextMapPropagator:
    module, attribute, package = _CLASSES.get(name, ("", "", ""))
    try:
        found: Any = getattr(import_module(module), attribute) if module else _named(name)
        return cast(TextMapPropagator, found())
    except Exception as error:
        remedy = f"needs the package {package}: pip install {package}." if package else "is not installed here."
        raise MissingPropagator(f'The propagator "{name}" {remedy}') from error


def _named(name: str) -> Any:
    """A propagator that a package provides under ``name``, as the OpenTelemetry API finds it."""
    from importlib.metadata import entry_points

    return next(iter(entry_points(group="opentelemetry_propagator", name=name))).load()
