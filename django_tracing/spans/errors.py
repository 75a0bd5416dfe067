"""Record exceptions on spans."""

from __future__ import annotations

from opentelemetry.trace import Span, StatusCode

from django_tracing.context.request import RequestState, get_request_state
from django_tracing.faults import log_once
from django_tracing.recording.span import RecordingSpan
from django_tracing.redaction import cut, redact_db_error, redacted_stack
from django_tracing.redaction.attributes import MESSAGE_LENGTH, STACKTRACE_LENGTH
from django_tracing.semconv.names import (
    ERROR_TYPE,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from django_tracing.spans.attributes import add_event, set_attributes

__all__ = ["record_error"]


def record_error(span: Span, error: BaseException, *, status: bool = True) -> None:
    """Record an exception on ``span``: type, message and stack, all redacted. Set the error status.

    With ``status=False`` only the event is recorded. Never raises. Convention:
    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    """
    try:
        if not span.is_recording():
            return
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        message = cut(redact_db_error(_text_of(error)), MESSAGE_LENGTH)
        if not _is_recorded(span, error, remember=not status):
            add_event(
                span,
                "exception",
                {
                    EXCEPTION_TYPE: name,
                    EXCEPTION_MESSAGE: message,
                    EXCEPTION_STACKTRACE: redacted_stack(error, STACKTRACE_LENGTH),
                },
            )
        if status:
            span.set_status(StatusCode.ERROR, cut(f"{name}: {message}", MESSAGE_LENGTH))
            set_attributes(span, {ERROR_TYPE: name})
    except Exception:
        log_once("record_error", "An exception could not be recorded on its span.")


def _is_recorded(span: Span, error: BaseException, *, remember: bool) -> bool:
    """Return whether ``span`` has ``error`` already: it was logged with LOG_ERRORS, and then raised.

    The request state remembers it. An attribute of the exception would be sent on by code that serializes exceptions.
    """
    state: RequestState | None = span.request_state if span.__class__ is RecordingSpan else get_request_state()
    if state is None:
        return False
    span_id = span.get_span_context().span_id
    recorded = state.last_error is not None and state.last_error[0] == span_id and state.last_error[1] is error
    if remember:
        state.last_error = span_id, error
    return recorded


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception whose __str__ raises
        return ""
