"""Start, change and end spans. No error of this app leaves these functions."""

from __future__ import annotations

from contextvars import Token
from types import TracebackType
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, SpanKind

from django_tracing.conf.loading import get_settings
from django_tracing.context.current import (
    attach,
    current_context,
    detach,
    recording_in,
    recording_span,
    span_context,
    suppressed,
    with_span,
    without_outlived,
)
from django_tracing.context.marks import forget_marks, is_interruption
from django_tracing.context.request import RequestState, get_request_state, incoming_id, with_request_state
from django_tracing.context.user import identify
from django_tracing.faults import log_once
from django_tracing.recording.factory import new_child
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import SPAN_KEY, RecordingSpan
from django_tracing.semconv.names import Attributes
from django_tracing.spans import runtime
from django_tracing.spans.attributes import remember_name, set_shared
from django_tracing.spans.errors import record_error
from django_tracing.spans.locations import code_locations

__all__ = [
    "ChildSpan",
    "StartedSpan",
    "end_child",
    "end_open_span",
    "end_span",
    "link_to",
    "start_child",
    "start_current_child",
    "start_failed_request_span",
    "start_operation",
    "start_request_span",
    "start_span",
]


def start_span(
    name: str,
    attributes: Attributes | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    context: Context | None = None,
    start_time: int | None = None,
    shared: tuple[SharedAttributes, ...] = (),
) -> Span:
    """Start a span with the common attributes of its request. If that fails, return a span that records nothing.

    ``shared`` are attributes that many spans share (see :func:`runtime.share`), ``attributes`` its own.
    ``start_time`` is in nanoseconds since the epoch.
    """
    try:
        if context is None:
            context = current_context()
        state = get_request_state(context)
        if state is not None:
            if not state.user_known:
                identify(state, get_settings())
            shared += state.shared
        run = runtime.current
        if attributes is not None and not run.convention.unchanged:
            attributes = run.convention.apply(attributes)
        if run.factory is not None:
            return run.factory.start(name, context, kind, shared, attributes, start_time, state)
        merged: Attributes = {}
        for part in shared:
            merged.update(part.attributes)
        if attributes is not None:
            merged.update(attributes)
        span = run.tracer.start_span(name, context, kind, merged, start_time=start_time)
        remember_name(span, name)
        return span
    except Exception:
        log_once("start_span", "A span could not be started; it is left out.")
        return INVALID_SPAN


def start_child(
    parent: Span,
    name: str,
    kind: SpanKind,
    shared: tuple[SharedAttributes, ...],
    attributes: Attributes | None = None,
    start_time: int | None = None,
    context: Context | None = None,
) -> Span:
    """Start a span below ``parent``, which records and is current in ``context`` (default: the current one)."""
    try:
        run = runtime.current
        if parent.__class__ is RecordingSpan and parent.factory is run.factory:
            state = parent.request_state
            if state is not None:
                if not state.user_known:
                    identify(state, get_settings())
                shared += state.shared
            if attributes is not None and not run.convention.unchanged:
                attributes = run.convention.apply(attributes)
            return new_child(parent, name, kind, shared, attributes, start_time, context)
        return start_span(name, attributes, kind, context, start_time, shared)
    except Exception:
        log_once("start_span", "A span could not be started; it is left out.")
        return INVALID_SPAN


def start_current_child(
    parent: Span,
    name: str,
    kind: SpanKind,
    shared: tuple[SharedAttributes, ...],
    attributes: Attributes | None = None,
) -> tuple[Span, Token[Context] | None]:
    """Start a span below ``parent``, which is current, and make it current. Pass the token to ``detach``."""
    span = start_child(parent, name, kind, shared, attributes)
    return span, None if span is INVALID_SPAN else attach(with_span(span))


def end_child(span: Span, shared: tuple[SharedAttributes, ...] = ()) -> None:
    """Set shared attributes and end the span. Never raises."""
    try:
        if shared:
            if span.__class__ is RecordingSpan and span.own is None:
                span.shared += shared
            else:
                set_shared(span, shared)
        span.end()
    except Exception:
        log_once("end_span", "A span could not be ended; it is left out.")


def start_operation(
    name: str,
    attributes: Attributes,
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    context: Context | None = None,
    correlation_id: str | None = None,
) -> StartedSpan | None:
    """Start a span below the current one, or the first span of a trace with a request state of its own.

    Return None when tracing is off, or when the current trace is not sampled. A trace of another process that comes
    in with ``context`` (default: the current one) is continued with the caller's sampling decision. A context whose
    request ended long ago counts as none. ``correlation_id`` is for a new request state.
    """
    if not runtime.current.tracing:
        return None
    try:
        if context is None:
            parent = recording_span()
            context = current_context()
        else:
            parent = recording_in(context.get(SPAN_KEY))
        if parent is not None:
            shared: tuple[SharedAttributes, ...] = ()
            if kind is SpanKind.CLIENT and code_locations.on is not False:
                shared = code_locations.add_to(shared)
            span = start_child(parent, name, kind, shared, attributes, context=context)
            return None if span is INVALID_SPAN else StartedSpan(span, with_span(span, context), None)
        context = without_outlived(context)
        known = span_context(context)
        if known.is_valid and not known.is_remote:
            return None
        state = get_request_state(context)
        if state is None or correlation_id is not None:
            state = RequestState(correlation_id or incoming_id({}))
            context = with_request_state(state, context)
        span = start_span(name, attributes, kind, context)
        if span is INVALID_SPAN:
            return None
        if state.span is None:
            state.span = span
            state.ended_ns = None
        return StartedSpan(span, with_span(span, context), state)
    except Exception:
        log_once("start_operation", "A span could not be started; it is left out.")
        return None


class StartedSpan(NamedTuple):
    """What :func:`start_operation` started."""

    span: Span
    #: The context in which the span is current.
    context: Context
    #: Set on the first span of a trace in this process.
    state: RequestState | None

    def end(self, error: BaseException | None = None) -> None:
        """End the span and record ``error``. Never raises."""
        if error is not None:
            if is_interruption(error):
                forget_marks()
            record_error(self.span, error)
        end_open_span(self.span)
        if self.state is not None and self.state.span is self.span:
            # The span and the state would keep each other alive.
            self.state.end()


def start_request_span(
    name: str, state: RequestState, context: Context, shared: tuple[SharedAttributes, ...]
) -> Span:
    """Start the span of a request below ``context``. If that fails, return a span that records nothing.

    It gets ``shared`` alone: the user is not known when the request starts.
    """
    try:
        factory = runtime.current.factory
        if factory is not None:
            return factory.start(name, context, SpanKind.SERVER, shared, None, None, state)
        return start_span(name, None, SpanKind.SERVER, context, None, shared)
    except Exception:
        log_once("start_span", "A span could not be started; it is left out.")
        return INVALID_SPAN


def start_failed_request_span(
    name: str, state: RequestState, context: Context, shared: tuple[SharedAttributes, ...], start_time: int
) -> Span:
    """Start, afterwards, the span of a failed request whose caller, current in ``context``, did not sample the trace.

    Return a span that records nothing where this site's own sampling does not keep the request either.
    ``start_time`` is in nanoseconds since the epoch.
    """
    try:
        factory = runtime.current.factory
        return INVALID_SPAN if factory is None else factory.start_failed(name, context, shared, start_time, state)
    except Exception:
        log_once("start_span", "A span could not be started; it is left out.")
        return INVALID_SPAN


def link_to(span: Span, context: SpanContext) -> None:
    """Add a link to a span, if it records. Never raises."""
    try:
        if span.is_recording():
            span.add_link(context)
    except Exception:
        log_once("link_to", "A link of a span is left out.")


def end_open_span(span: Span) -> None:
    """End a span that may have ended already. Never raises."""
    try:
        if span.is_recording():
            span.end()
    except Exception:
        log_once("end_span", "A span could not be ended; it is left out.")


def end_span(span: Span, end_time: int | None = None) -> None:
    """End a span. Never raises, whatever the processors behind it do."""
    try:
        span.end(end_time)
    except Exception:
        log_once("end_span", "A span could not be ended; it is left out.")


class ChildSpan:
    """A context manager whose span is current in the block: ``with ChildSpan(name, attributes) as span``.

    Enter it only when :func:`context.current.recording` is true. An exception that leaves the block is recorded and
    raised on. ``suppress_upstream`` keeps OpenTelemetry's own instrumentations from making a second span of the same
    operation.
    """

    __slots__ = ("_token", "attributes", "kind", "name", "span", "suppress_upstream")

    def __init__(
        self,
        name: str,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        suppress_upstream: bool = False,
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.kind = kind
        self.suppress_upstream = suppress_upstream
        self.span: Span = INVALID_SPAN
        self._token: Token[Context] | None = None

    def __enter__(self) -> Span:
        self.span = span = start_span(self.name, self.attributes, self.kind)
        if span is not INVALID_SPAN:
            context = with_span(span)
            self._token = attach(suppressed(context) if self.suppress_upstream else context)
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        detach(self._token)
        if error is not None:
            record_error(self.span, error)
        end_span(self.span)
