"""``{% load tracing %}``: the current trace in a template, for error pages and support messages."""

from __future__ import annotations

from django import template

from django_tracing.api.spans import current_trace_id
from django_tracing.api.spans import trace_url as current_trace_url
from django_tracing.spans import runtime

__all__ = ["register", "trace_id", "trace_url", "tracing_trouble"]

register = template.Library()


@register.simple_tag
def trace_id() -> str:
    """The current trace's id; empty outside a trace."""
    return current_trace_id() or ""


@register.simple_tag
def trace_url() -> str:
    """Where a person sees the current trace; empty where there is nothing to see."""
    return current_trace_url() or ""


@register.simple_tag
def tracing_trouble() -> str:
    """Why this process traces nothing, or sends nothing; empty where it does. The admin's pages show it."""
    return str(runtime.current.trouble)
