"""Read and set the current OpenTelemetry context and the current span."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, Final

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext

from django_tracing.recording.span import SPAN_KEY, RecordingSpan, context_of
from django_tracing.untraced import SUPPRESSED

__all__ = [
    "SuppressedUpstream",
    "attach",
    "current_context",
    "detach",
    "recording",
    "recording_in",
    "recording_span",
    "span_context",
    "suppressed",
    "with_span",
    "with_suppressed_span",
]


def _current_variable() -> ContextVar[Context] | None:
    """Return the variable that holds OpenTelemetry's current context; None where it is held in another way."""
    token = context_api.attach(context_api.get_current())
    context_api.detach(token)
    variable = getattr(token, "var", None)
    return variable if isinstance(variable, ContextVar) else None


_variable: Final = _current_variable()


#: The current context. The API's own way to it is three calls of Python long.
current_context: Final[Callable[[], Context]] = context_api.get_current if _variable is None else _variable.get


def span_context(context: Context | None = None) -> SpanContext:
    """Return the SpanContext of the span in ``context`` (default: the current one), invalid if there is none."""
    return context_of((current_context() if context is None else context).get(SPAN_KEY))


def recording() -> bool:
    """Return whether an instrumented call should make a span: the current span records."""
    return recording_span() is not None


def recording_span() -> Span | None:
    """Return the current span if it records, as the parent for ``start_child``. Call this before anything else."""
    span: Any = current_context().get(SPAN_KEY)
    if span.__class__ is RecordingSpan:
        return span if span.end_ns is None else None
    return None if span is None else recording_in(span)


def recording_in(span: Any) -> Span | None:
    """Return ``span`` if it is a span that records. OpenTelemetry's API accepts any object as the current span."""
    try:
        return span if isinstance(span, Span) and span.is_recording() is True else None
    except Exception:  # a span of another library
        return None


#: Make a context current. Pass the token that it returns to :func:`detach`.
attach: Final[Callable[[Context], Token[Context]]] = context_api.attach if _variable is None else _variable.set


def detach(token: Token[Context] | None) -> None:
    """Undo what :func:`attach` did.

    A generator that is closed by another task or by the garbage collector calls this in a context that the token does
    not belong to. OpenTelemetry's own ``detach`` logs an error each time; this function does not.
    """
    if token is not None:
        try:  # noqa: SIM105 - it costs a third of suppress()
            token.var.reset(token)
        except (ValueError, RuntimeError):
            pass


def with_span(span: Span, context: Context | None = None) -> Context:
    """Return ``context`` (default: the current one) with ``span`` as the current span."""
    return Context({**(current_context() if context is None else context), SPAN_KEY: span})


def suppressed(context: Context | None = None) -> Context:
    """Return ``context`` in which OpenTelemetry's own instrumentations make no spans."""
    return Context({**(current_context() if context is None else context), **SUPPRESSED})


def with_suppressed_span(span: Span) -> Context:
    """Return the current context with ``span`` as the current span, in which OpenTelemetry's own make no spans."""
    return Context({**current_context(), SPAN_KEY: span, **SUPPRESSED})


class SuppressedUpstream:
    """A context manager in whose block OpenTelemetry's own instrumentations make no spans."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = attach(suppressed())

    def __exit__(self, *exc_info: Any) -> None:
        detach(self._token)
