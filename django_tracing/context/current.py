"""Read and set the current OpenTelemetry context and the current span."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from time import time_ns
from typing import Any, Final
from weakref import WeakValueDictionary

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, SpanContext, SpanKind

from django_tracing.context.marks import forget_marks, is_interruption
from django_tracing.context.request import LATE_NS, get_request_state, without_trace
from django_tracing.faults import log_once
from django_tracing.recording.span import SPAN_KEY, RecordingSpan, UnsampledSpan, context_of
from django_tracing.recording.undecided import undecided_traces
from django_tracing.untraced import SUPPRESSED

__all__ = [
    "SuppressedUpstream",
    "attach",
    "current_context",
    "detach",
    "open_span",
    "outlived",
    "put_back",
    "recording",
    "recording_in",
    "recording_span",
    "server_spans",
    "span_context",
    "span_of_server",
    "suppressed",
    "with_span",
    "with_suppressed_span",
    "without_outlived",
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
    """Return whether an instrumented call should make a span: one below the current span is recorded."""
    return recording_span() is not None


def recording_span() -> Span | None:
    """Return the current span if it is recorded, as the parent for ``start_child``. Call this before anything else.

    It may have ended, for threads and tasks outlive the response. To change the current span, use :func:`open_span`.
    """
    # Each hook asks this first, outside its own try.
    try:
        span: Any = current_context().get(SPAN_KEY)
        if span.__class__ is RecordingSpan:
            return span if span.end_ns is None or _has_late_children(span) else None
        return None if span is None or span.__class__ is UnsampledSpan else recording_in(span)
    except Exception:
        log_once("recording", "It could not be found out whether a call is traced; it is not.")
        return None


def recording_in(span: Any) -> Span | None:
    """Return ``span`` if it is a span that is recorded. The current span of OpenTelemetry's API may be any object."""
    try:
        if not isinstance(span, Span):
            return None
        return span if span.is_recording() is True or _has_late_children(span) else None
    except Exception:  # a span of another library
        return None


class _ServerSpans:
    """The open spans of requests that other libraries have started with this process's provider, by their ids."""

    def __init__(self) -> None:
        #: None as long as this app's processors are not told of them: then all spans count as the provider's.
        self.known: WeakValueDictionary[tuple[int, int], Span] | None = None

    def start(self, span: Span) -> None:
        """Remember a span that a processor of this app was given."""
        if self.known is not None:
            context = span.get_span_context()
            self.known[context.trace_id, context.span_id] = span

    def is_one(self, span: Any) -> bool:
        if not isinstance(span, Span) or span.is_recording() is not True:
            return False
        if getattr(span, "kind", None) is not SpanKind.SERVER:
            return False
        context = span.get_span_context()
        # By its ids: Logfire's are objects around those of the SDK.
        return (
            span.__class__ is RecordingSpan or self.known is None or (context.trace_id, context.span_id) in self.known
        )


server_spans: Final = _ServerSpans()


def span_of_server(context: Context) -> Span | None:
    """Return the span of a request that another library has started and made current in ``context``.

    None for that of another provider, which sends its spans elsewhere.
    """
    span: Any = context.get(SPAN_KEY)
    try:
        return span if server_spans.is_one(span) else None
    except Exception:  # a span of another library
        return None


def open_span() -> Span | None:
    """Return the current span if attributes and events can still be set on it."""
    span: Any = current_context().get(SPAN_KEY)
    try:
        return span if isinstance(span, Span) and span.is_recording() is True else None
    except Exception:  # a span of another library
        return None


def _has_late_children(span: Any) -> bool:
    """Return whether a child of ``span``, which records nothing any more, is recorded.

    The end of the request counts, not that of ``span``: a task that starts its successor would go on for ever.
    """
    if span.__class__ is RecordingSpan:
        undecided = span.undecided
        if undecided is not None and undecided.decided and not undecided.kept:
            return False
        state = span.request_state
    elif isinstance(span, ReadableSpan) and span.end_time is not None:
        known = context_of(span)
        if not known.trace_flags.sampled and known.trace_id not in undecided_traces:
            return False
        state = get_request_state()
    else:
        return False
    return time_ns() - (span.end_time or 0) < LATE_NS if state is None else not state.is_over()


def outlived(context: Context | None = None) -> bool:
    """Return whether ``context`` (default: the current one) is that of a request whose trace is over.

    Such a context counts as none: what starts in it belongs to no trace, or to a new one.
    """
    context = current_context() if context is None else context
    span: Any = context.get(SPAN_KEY)
    state = get_request_state(context)
    if state is None:
        ended = span.end_time if isinstance(span, ReadableSpan) else None
        return ended is not None and time_ns() - ended >= LATE_NS
    if not state.is_over():
        return False
    known = context_of(span)
    return known.is_valid and not known.is_remote and recording_in(span) is None


def without_outlived(context: Context | None = None) -> Context:
    """Return ``context`` (default: the current one), without a trace that is over."""
    context = current_context() if context is None else context
    return without_trace(context) if outlived(context) else context


#: Make a context current. Pass the token that it returns to :func:`detach`.
attach: Final[Callable[[Context], Token[Context]]] = context_api.attach if _variable is None else _variable.set


def detach(token: Token[Any] | None) -> None:
    """Undo what :func:`attach` did, or what set another context variable.

    A generator that is closed by another task or by the garbage collector calls this in a context that the token does
    not belong to. OpenTelemetry's own ``detach`` logs an error each time; this function does not.
    """
    if token is not None:
        try:  # noqa: SIM105 - it costs a third of suppress()
            token.var.reset(token)
        except Exception:
            pass


def put_back(context: Context, error: BaseException) -> None:
    """Make ``context``, in which an outermost hook was called, current again if ``error`` interrupted the hook.

    An interruption may have come just before :func:`detach`. The next request of the thread must not see its context.
    """
    if is_interruption(error):
        forget_marks()
        attach(context)


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
