"""Choose the propagators: OpenTelemetry's by name, and the correlation id beside them."""

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

from django_tracing.conf.entry_points import find_entry_point
from django_tracing.context.current import span_context
from django_tracing.context.request import HEADER, RequestState, get_request_state, well_formed, with_request_state
from django_tracing.exceptions import MissingExtra
from django_tracing.redaction.printable import printable

__all__ = ["PROPAGATOR_GROUP", "CorrelationPropagator", "MissingPropagator", "available_propagator"]

#: OpenTelemetry's entry points of propagators.
PROPAGATOR_GROUP: Final = "opentelemetry_propagator"
#: Name -> (module, class), of those that the API itself provides: looking for entry points takes milliseconds.
_OWN: Final = {
    "tracecontext": ("opentelemetry.trace.propagation.tracecontext", "TraceContextTextMapPropagator"),
    "baggage": ("opentelemetry.baggage.propagation", "W3CBaggagePropagator"),
}
#: Name -> the package that provides it, of those that the specification names.
_PACKAGES: Final = {
    "b3": "opentelemetry-propagator-b3",
    "b3multi": "opentelemetry-propagator-b3",
    "jaeger": "opentelemetry-propagator-jaeger",
    "xray": "opentelemetry-propagator-aws-xray",
    "ottrace": "opentelemetry-propagator-ot-trace",
}


class MissingPropagator(MissingExtra):
    """A propagator of ``PROPAGATORS`` that is not available here. The message names it and what to install."""


class CorrelationPropagator(TextMapPropagator):
    """Send the current request's correlation id to called services as ``X-Correlation-ID``, and read a caller's.

    Where a trace has no id yet, the code that starts it makes one: the middleware, a command.
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
        if state is not None and (not state.is_over() or span_context(context).is_valid):
            setter.set(carrier, HEADER, state.correlation_id)

    @property
    def fields(self) -> set[str]:
        return {HEADER}


def available_propagator(names: Iterable[str]) -> tuple[TextMapPropagator, list[MissingPropagator]]:
    """Return one propagator of those ``names`` (as in ``OTEL_PROPAGATORS``) that are available, and the problems.

    The correlation id's own propagator is the last one.
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
    module, attribute = _OWN.get(name, ("", ""))
    point = None if module else find_entry_point(PROPAGATOR_GROUP, name)
    if not module and point is None:
        package = _PACKAGES.get(name)
        remedy = f"needs the package {package}: pip install {package}." if package else "is not installed here."
        raise MissingPropagator(f'The propagator "{name}" {remedy}')
    try:
        # As the API itself does it: an entry point is a class, or a function that makes a propagator.
        factory: Any = getattr(import_module(module), attribute) if point is None else point.load()
        propagator = factory()
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}", 200)
        raise MissingPropagator(f'The propagator "{name}" can\'t be imported ({reason}).') from error
    if not all(callable(getattr(propagator, method, None)) for method in ("extract", "inject")):
        raise MissingPropagator(f'The propagator "{name}" is {type(propagator).__name__}, which is none.')
    return propagator  # type: ignore[no-any-return]
