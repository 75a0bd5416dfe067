"""Show the current trace in a template, for error pages and support messages: ``{% load tracing %}``."""

from __future__ import annotations

from django import template

from django_tracing.api.spans import current_trace_id
from django_tracing.api.spans import trace_url as current_trace_url
from django_tracing.spans import runtime

__all__ = ["register", "trace_id", "trace_url", "tracing_trouble"]

register = template.Library()


@register.simple_tag
def trace_id() -> str:
    """Return the id of the current trace; "" outside a trace."""
    return current_trace_id() or ""


@register.simple_tag
def trace_url() -> str:
    """Return the address where a person sees the current trace; "" if there is none."""
    return current_trace_url() or ""


@register.simple_tag
def tracing_trouble() -> str:
    """Return why this process traces or exports nothing; "" if it does. The admin's pages show it."""
    return str(runtime.current.trouble)
