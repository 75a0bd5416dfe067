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
from django_tracing.exceptions import TracingError
from django_tracing.faults import contained
from django_tracing.redaction.printable import printable

__all__ = ["PROPAGATOR_GROUP", "CorrelationPropagator", "PropagatorError", "available_propagator"]

#: OpenTelemetry's entry points of propagators.
PROPAGATOR_GROUP: Final = "opentelemetry_propagator"
#: Name -> (module, class) of the API's own propagators: searching the entry points would take milliseconds.
_OWN: Final = {
    "tracecontext": ("opentelemetry.trace.propagation.tracecontext", "TraceContextTextMapPropagator"),
    "baggage": ("opentelemetry.baggage.propagation", "W3CBaggagePropagator"),
}
#: Name -> package of the other propagators that the specification names.
_PACKAGES: Final = {
    "b3": "opentelemetry-propagator-b3",
    "b3multi": "opentelemetry-propagator-b3",
    "jaeger": "opentelemetry-propagator-jaeger",
    "xray": "opentelemetry-propagator-aws-xray",
    "ottrace": "opentelemetry-propagator-ot-trace",
}


class PropagatorError(TracingError):
    """A propagator of ``PROPAGATORS`` can't be used. The message names it and the package to install.

    It becomes a check message and a line of the log; nothing raises it to the user's code.
    """


class CorrelationPropagator(TextMapPropagator):
    """Send the current request's correlation id to called services as ``X-Correlation-ID``, and read a caller's.

    If a trace has no id yet, the code that starts it makes one, such as the middleware or a command.
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


def available_propagator(names: Iterable[str]) -> tuple[TextMapPropagator, list[PropagatorError]]:
    """Return one propagator made of the available ``names`` (as in ``OTEL_PROPAGATORS``), and the problems.

    The propagator of the correlation id is the last one.
    """
    found: list[TextMapPropagator] = []
    missing: list[PropagatorError] = []
    for name in names:
        try:
            found.append(_propagator(name))
        except PropagatorError as error:
            missing.append(error)
    return CompositePropagator([*found, CorrelationPropagator()]), missing


def _propagator(name: str) -> TextMapPropagator:
    module, attribute = _OWN.get(name, ("", ""))
    shown = printable(name, 60)
    point = None if module else find_entry_point(PROPAGATOR_GROUP, name)
    if not module and point is None:
        package = _PACKAGES.get(name)
        remedy = f"needs the package {package}: pip install {package}." if package else "is not installed here."
        raise PropagatorError(f'The propagator "{shown}" {remedy}')
    try:
        # As the API itself does it: an entry point is a class, or a function that makes a propagator.
        with contained():
            factory: Any = getattr(import_module(module), attribute) if point is None else point.load()
            propagator = factory()
            usable = all(callable(getattr(propagator, method, None)) for method in ("extract", "inject"))
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}", 200)
        raise PropagatorError(f'The propagator "{shown}" can\'t be imported ({reason}).') from error
    if not usable:
        raise PropagatorError(
            f'The propagator "{shown}" has the type {type(propagator).__name__}, which is no propagator.'
        )
    return propagator  # type: ignore[no-any-return]
