"""Set the attributes, the events and the name of a span."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from opentelemetry.trace import Span

from django_tracing.faults import log_once
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import RecordingSpan
from django_tracing.semconv.names import Attributes
from django_tracing.spans import runtime

__all__ = [
    "NAMED",
    "OF_REQUEST",
    "add_event",
    "remember_name",
    "set_attributes",
    "set_name",
    "set_request_attributes",
    "set_shared",
]


def set_shared(span: Span, shared: tuple[SharedAttributes, ...]) -> None:
    """Set shared attributes on a started span. Never raises."""
    try:
        if span.__class__ is RecordingSpan:
            span.set_shared(shared)
        else:
            for part in shared:
                span.set_attributes(part.attributes)
    except Exception:
        log_once("set_attributes", "A span's attributes could not be set.")


def set_attributes(span: Span, attributes: Attributes) -> None:
    """Set attributes under the names in force. Never raises."""
    try:
        attributes = runtime.current.convention.apply(attributes)
        if span.__class__ is RecordingSpan:
            span.set_own(attributes)
        else:
            span.set_attributes(attributes)
    except Exception:
        log_once("set_attributes", "A span's attributes could not be set.")


def set_name(span: Span, name: str) -> None:
    """Set a name that this app chose, which needs no redaction."""
    if span.__class__ is RecordingSpan and span.is_recording():
        span.span_name = name
    else:
        span.update_name(name)
        remember_name(span, name)


#: The attribute of an SDK span that holds the name this app gave it. Any other name is a user's, and is redacted.
NAMED: Final = "_django_tracing_name"


def remember_name(span: Span, name: str) -> None:
    # A span that records nothing may have no ``__dict__``.
    with suppress(AttributeError):
        span.__dict__[NAMED] = name


#: The attribute of an SDK span that holds what this app set for the request. Any other value is redacted.
OF_REQUEST: Final = "_django_tracing_of_request"


def set_request_attributes(span: Span, attributes: Attributes) -> None:
    """Set the request's attributes (correlation id, user) on a span of another tracer. May raise.

    A correlation id is random, and ``USER_EMAIL`` "full" asks for the e-mail address: neither is a secret here,
    though the sanitizer would take it for one.
    """
    span.set_attributes(attributes)
    # A span that records nothing may have no ``__dict__``.
    with suppress(AttributeError):
        span.__dict__.setdefault(OF_REQUEST, {}).update(attributes)


def add_event(span: Span, name: str, attributes: Attributes) -> None:
    """Add an event whose name and attributes this app chose, which need no redaction. Never raises."""
    try:
        if span.__class__ is RecordingSpan:
            span.add_own_event(name, attributes)
        else:
            span.add_event(name, attributes)
    except Exception:
        log_once("add_event", "An event could not be added to its span.")
