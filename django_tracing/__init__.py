"""Tracing for Django: add ``"django_tracing"`` to INSTALLED_APPS and every request becomes a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_tracing.conf.environment import prepare
from django_tracing.version import __version__

if TYPE_CHECKING:
    from django_tracing.api.spans import (
        add_span_event,
        bind_trace_context,
        create_span,
        current_trace_id,
        get_baggage,
        get_trace_context,
        record_span_error,
        set_baggage,
        set_span_attributes,
        trace,
        trace_cache_operation,
        trace_database_operation,
        trace_external_call,
        trace_function,
        trace_rate_limit_check,
        trace_url,
        use_trace_context,
    )
    from django_tracing.context.request import get_correlation_id
    from django_tracing.instrumentation.circuit_breaker_call import trace_circuit_breaker_call

__all__ = [
    "__version__",
    "add_span_event",
    "bind_trace_context",
    "create_span",
    "current_trace_id",
    "get_baggage",
    "get_correlation_id",
    "get_trace_context",
    "record_span_error",
    "set_baggage",
    "set_span_attributes",
    "trace",
    "trace_cache_operation",
    "trace_circuit_breaker_call",
    "trace_database_operation",
    "trace_external_call",
    "trace_function",
    "trace_rate_limit_check",
    "trace_url",
    "use_trace_context",
]

_MANUAL = "django_tracing.api.spans"
#: Public name -> module. Resolved when asked for: Django imports this package before settings may be read.
_HOMES = {
    "get_correlation_id": "django_tracing.context.request",
    "trace_circuit_breaker_call": "django_tracing.instrumentation.circuit_breaker_call",
    "add_span_event": _MANUAL,
    "bind_trace_context": _MANUAL,
    "create_span": _MANUAL,
    "current_trace_id": _MANUAL,
    "get_baggage": _MANUAL,
    "get_trace_context": _MANUAL,
    "record_span_error": _MANUAL,
    "set_baggage": _MANUAL,
    "set_span_attributes": _MANUAL,
    "trace": _MANUAL,
    "trace_cache_operation": _MANUAL,
    "trace_database_operation": _MANUAL,
    "trace_external_call": _MANUAL,
    "trace_function": _MANUAL,
    "trace_rate_limit_check": _MANUAL,
    "trace_url": _MANUAL,
    "use_trace_context": _MANUAL,
}


# Before any module here imports OpenTelemetry, and whichever is imported first.
prepare()
del prepare


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
