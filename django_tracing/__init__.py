"""Trace Django: add ``"django_tracing"`` to INSTALLED_APPS, and every request becomes a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_tracing.conf.environment import prepare
from django_tracing.version import __version__

if TYPE_CHECKING:
    from django_tracing.api.decorator import trace
    from django_tracing.api.operations import (
        trace_cache_operation,
        trace_database_operation,
        trace_external_call,
        trace_rate_limit_check,
    )
    from django_tracing.api.propagation import (
        bind_trace_context,
        get_baggage,
        get_trace_context,
        set_baggage,
        use_trace_context,
    )
    from django_tracing.api.spans import (
        add_span_event,
        create_span,
        current_trace_id,
        record_span_error,
        set_span_attributes,
        trace_function,
        trace_url,
    )
    from django_tracing.context.request import get_correlation_id
    from django_tracing.instrumentation.circuit_breaker_call import trace_circuit_breaker_call
    from django_tracing.process_health import health

__all__ = [
    "__version__",
    "add_span_event",
    "bind_trace_context",
    "create_span",
    "current_trace_id",
    "get_baggage",
    "get_correlation_id",
    "get_trace_context",
    "health",
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

_API = "django_tracing.api"
#: Public name -> module, imported on first use: Django imports this package before settings can be read.
_MODULES = {
    "health": "django_tracing.process_health",
    "get_correlation_id": "django_tracing.context.request",
    "trace_circuit_breaker_call": "django_tracing.instrumentation.circuit_breaker_call",
    "trace": f"{_API}.decorator",
    "trace_cache_operation": f"{_API}.operations",
    "trace_database_operation": f"{_API}.operations",
    "trace_external_call": f"{_API}.operations",
    "trace_rate_limit_check": f"{_API}.operations",
    "bind_trace_context": f"{_API}.propagation",
    "get_baggage": f"{_API}.propagation",
    "get_trace_context": f"{_API}.propagation",
    "set_baggage": f"{_API}.propagation",
    "use_trace_context": f"{_API}.propagation",
    "add_span_event": f"{_API}.spans",
    "create_span": f"{_API}.spans",
    "current_trace_id": f"{_API}.spans",
    "record_span_error": f"{_API}.spans",
    "set_span_attributes": f"{_API}.spans",
    "trace_function": f"{_API}.spans",
    "trace_url": f"{_API}.spans",
}


# Before any module of this package imports OpenTelemetry, whichever of them is imported first.
prepare()
del prepare


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)
