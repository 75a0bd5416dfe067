"""Record exceptions on spans."""

from __future__ import annotations

from asyncio import CancelledError
from time import time_ns
from typing import Any, Final

from opentelemetry.trace import Span, StatusCode

from django_tracing.context.request import RequestState, get_request_state
from django_tracing.faults import log_once
from django_tracing.recording.span import RecordingSpan
from django_tracing.redaction import cut, redact_db_error, redacted_stack
from django_tracing.redaction.attributes import MESSAGE_LENGTH, STACKTRACE_LENGTH
from django_tracing.semconv.names import (
    ERROR_PROPAGATED,
    ERROR_TYPE,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
    Attributes,
)
from django_tracing.spans.attributes import add_event, set_attributes
from django_tracing.spans.locations import is_of_user, is_where_django_is_called

__all__ = ["record_error"]

#: What ends work that is not wanted any more: a client has gone away, a generator is closed.
_NO_ERRORS: Final = (CancelledError, GeneratorExit)
#: How many of a request's latest exceptions are remembered. Several may be on their way outwards at once.
_MOST_REMEMBERED: Final = 16


def record_error(span: Span, error: BaseException, *, status: bool = True, again: bool = False) -> None:
    """Record an exception on ``span``: type, message and stack, all redacted. Set the error status.

    An exception has one event in a trace: on the first span that records it, which is the innermost one. The spans
    that it passes after that get the status. With ``again`` it has an event on this span in any case, with
    ``status=False`` an event alone. A cancellation is not recorded. Never raises. Convention:
    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    """
    try:
        if not span.is_recording() or isinstance(error, _NO_ERRORS):
            return
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        message = cut(redact_db_error(_text_of(error)), MESSAGE_LENGTH)
        recorded_on = None if again else _recorded_on(span, error)
        if recorded_on is None:
            _remember(span, error)
            event: Attributes = {
                EXCEPTION_TYPE: name,
                EXCEPTION_MESSAGE: message,
                EXCEPTION_STACKTRACE: redacted_stack(
                    error, STACKTRACE_LENGTH, is_of_user=is_of_user, is_top=is_where_django_is_called
                ),
            }
            add_event(span, "exception", event)
        if status:
            span.set_status(StatusCode.ERROR, cut(f"{name}: {message}", MESSAGE_LENGTH))
            attributes: Attributes = {ERROR_TYPE: name}
            if recorded_on is not None and recorded_on != span.get_span_context().span_id:
                attributes[ERROR_PROPAGATED] = True
            set_attributes(span, attributes)
    except Exception:
        log_once("record_error", "An exception could not be recorded on its span.")


def _state_of(span: Span) -> RequestState | None:
    return span.request_state if span.__class__ is RecordingSpan else get_request_state()


def _mark_of(error: BaseException) -> tuple[Any, ...] | None:
    """Return what tells ``error`` from others; None if it was not raised.

    The exception itself would keep its frames alive, with all their variables, and an attribute of it would be sent
    on by code that serializes exceptions. Two can have the same mark only if one is gone and one line raised both.
    """
    innermost = error.__traceback__
    if innermost is None:
        return None
    while innermost.tb_next is not None:
        innermost = innermost.tb_next
    return id(error), type(error), id(innermost), innermost.tb_frame.f_code, innermost.tb_lasti


def _recorded_on(span: Span, error: BaseException) -> int | None:
    """Return the id of the span that recorded ``error`` while ``span`` was open; None if there is none."""
    state = _state_of(span)
    if state is None or state.recorded is None:
        return None
    span_id, recorded_at = state.recorded.get(_mark_of(error), (None, 0))
    # A span that started later is no place that the exception comes by: it is another one.
    return span_id if (getattr(span, "start_time", None) or 0) < recorded_at else None


def _remember(span: Span, error: BaseException) -> None:
    state, mark = _state_of(span), _mark_of(error)
    if state is None or mark is None:
        return
    if state.recorded is None or len(state.recorded) >= _MOST_REMEMBERED:
        state.recorded = {}
    state.recorded[mark] = span.get_span_context().span_id, time_ns()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception whose __str__ raises
        return ""
