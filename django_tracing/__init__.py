"""Tracing for Django: add ``"django_tracing"`` to INSTALLED_APPS and every request becomes a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django_tracing.version import __version__

if TYPE_CHECKING:
    from django_tracing.correlation import get_correlation_id
    from django_tracing.instrumentation.circuit_breaker import trace_circuit_breaker_call

__all__ = ["__version__", "get_correlation_id", "trace_circuit_breaker_call"]

#: Public name -> module. Resolved when asked for: Django imports this package before settings may be read.
_HOMES = {
    "get_correlation_id": "django_tracing.correlation",
    "trace_circuit_breaker_call": "django_tracing.instrumentation.circuit_breaker",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
