"""Add the current trace to the context of every template."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from django_tracing.api.spans import current_trace_id, trace_url
from django_tracing.context.request import get_correlation_id

__all__ = ["tracing"]


def tracing(request: HttpRequest) -> dict[str, object]:
    """Return ``trace_id``, ``trace_url`` and ``correlation_id``, evaluated when used; "" if there is none."""
    return {
        "trace_id": SimpleLazyObject(lambda: current_trace_id() or ""),
        "trace_url": SimpleLazyObject(lambda: trace_url() or ""),
        "correlation_id": SimpleLazyObject(lambda: get_correlation_id() or ""),
    }
