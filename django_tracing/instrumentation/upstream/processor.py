"""Complete and redact the spans of other tracers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Final
from weakref import WeakValueDictionary

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from django_tracing.conf.loading import get_settings
from django_tracing.context.current import current_context, server_spans
from django_tracing.context.request import get_request_state
from django_tracing.context.user import identify
from django_tracing.faults import log_once
from django_tracing.instrumentation.upstream import http_client
from django_tracing.instrumentation.upstream.span_redaction import UPSTREAM_SCOPES, redact_content, scope_name
from django_tracing.recording.copies import SpanCopy, copy_span
from django_tracing.recording.sdk import EndingProcessor, clear, set_context
from django_tracing.recording.span import RecordingSpan
from django_tracing.recording.undecided import undecided_traces
from django_tracing.semconv.names import (
    OPERATION_TYPE,
    Attributes,
)
from django_tracing.spans.attributes import set_request_attributes
from django_tracing.spans.locations import code_locations
from django_tracing.spans.runtime import SCOPE_NAME
from django_tracing.untraced import SUPPRESS

__all__ = ["RedactedProcessor", "UpstreamProcessor"]

#: The instrumentation scope of the spans of Celery's tasks.
_CELERY: Final = f"{UPSTREAM_SCOPES}celery"


#: The prefix of the names under which this app stores values in the ``__dict__`` of a span.
_NOTES: Final = "_django_tracing_"
#: The note of what a span contained when it was redacted in place.
_REDACTED: Final = f"{_NOTES}redacted"
#: The note that a span is of an operation that another span describes already.
_LEFT_OUT: Final = f"{_NOTES}left_out"


class UpstreamProcessor(EndingProcessor):
    """Complete and redact the spans of other tracers: OpenTelemetry's instrumentations' and the user's own.

    They get the attributes of the request, names for outgoing calls, and redaction. The attributes that
    instrumentations fill are redacted by what they contain; then all content passes through the sanitizer. Spans that
    instrumentations start where they are suppressed, below this app's span of the same operation, are left out.

    By default, spans are redacted in place as they end, before any processor is given them. Where the SDK does not
    allow that (see :mod:`django_tracing.recording.probe`), :meth:`redact_copies` makes processors get copies.

    A provider that is not the SDK's own may not call :meth:`on_ending`, or call it with another object. After
    :meth:`check_spans`, a span counts as redacted in place only if what processors get is what was redacted.
    """

    def __init__(self, *, in_place: bool = True) -> None:
        self._in_place = in_place
        self._checked = False
        #: Started spans by trace id and span id: what processors get at the end is a copy of another class.
        self._started: WeakValueDictionary[tuple[int, int], Span] = WeakValueDictionary()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if span.__class__ is RecordingSpan:
            return
        try:
            scope = scope_name(span)
            if self._checked or not self._in_place:
                self._remember(span)
            if span.kind is SpanKind.SERVER:
                server_spans.start(span)
            if scope == SCOPE_NAME:
                return
            context = current_context() if parent_context is None else parent_context
            if context.get(SUPPRESS) and scope.startswith(UPSTREAM_SCOPES):
                _leave_out(span)
                return
            self._complete(span, scope, parent_context)
        except Exception:
            log_once("upstream-start", "A span of another instrumentation could not be completed.")

    def _complete(self, span: Span, scope: str, parent_context: Context | None) -> None:
        settings = get_settings()
        attributes: Attributes = {}
        request = get_request_state(parent_context)
        if request is not None:
            identify(request, settings)
            set_request_attributes(span, request.common)
        if scope == _CELERY:
            attributes[OPERATION_TYPE] = "task"
        if span.kind is SpanKind.CLIENT and scope.startswith(UPSTREAM_SCOPES):
            context = current_context() if parent_context is None else parent_context
            call: Any = context.get(http_client.CALL_KEY)
            described = http_client.describe(span.attributes or {}, settings.peer_services, call)
            if described is not None:
                span.update_name(described[0])
                attributes.update(described[1])
            if code_locations.on is not False:
                for part in code_locations.add_to(()):
                    attributes.update(part.attributes)
        if attributes:
            span.set_attributes(attributes)

    def _remember(self, span: Span) -> None:
        context = span.get_span_context()
        self._started[context.trace_id, context.span_id] = span

    # ----- in place

    def on_ending(self, span: Span) -> None:
        if not self._in_place or span.__class__ is RecordingSpan:
            return
        _redact(span)
        if self._checked:
            try:
                span.__dict__[_REDACTED] = _content(span)
                self._remember(span)
            except Exception:
                log_once("upstream-ending", "A span that was redacted in place can't be known again; it is copied.")
        elif undecided_traces and _LEFT_OUT not in span.__dict__:
            _keep_undecided(span)

    # ----- in copies

    def check_spans(self) -> None:
        """Don't rely on the provider to call :meth:`on_ending`."""
        self._checked = True

    def redact_copies(self, multi: Any, lost: Callable[[], None]) -> bool:
        """Make ``multi``, which all spans are given to at their end, pass on redacted copies.

        ``lost`` is called for each span that could not be redacted, which is not passed on. Return False if ``multi``
        can't be changed.
        """
        self.check_spans()
        try:
            on_end = multi.on_end

            def on_redacted_end(span: ReadableSpan) -> None:
                redacted = self.redacted(span)
                if redacted is None:
                    lost()
                else:
                    on_end(redacted)

            # All tracers of the provider have this object, and all processors are reached through it.
            multi.on_end = on_redacted_end
        except Exception:  # an object with slots, for example
            return False
        return True

    def redacted(self, span: ReadableSpan) -> ReadableSpan | None:
        """Return a span of another tracer redacted, our own spans as they are; None if it can't be redacted.

        A span that was redacted in place is returned as it is, any other one as a copy. A span of an undecided trace
        is kept with it: call this once for a span.
        """
        if span.__class__ is RecordingSpan or span.__class__ is SpanCopy:
            return span
        try:
            context = span.get_span_context()
            started = None if context is None else self._started.get((context.trace_id, context.span_id))
            notes = {key: note for key, note in vars(started or span).items() if key.startswith(_NOTES)}
            content = notes.pop(_REDACTED, None)
            redacted = span
            if content is None or content != _content(span):
                redacted = copy_span(span, notes, _redact)
            if _LEFT_OUT not in notes:
                _keep_undecided(redacted, passed_on=True)
        except Exception:
            log_once("upstream-copy", "A span of another instrumentation could not be redacted; it is dropped.")
            return None
        return redacted


class RedactedProcessor(SpanProcessor):
    """Other processors, which are given other tracers' spans redacted."""

    def __init__(
        self, processors: Sequence[SpanProcessor], upstream: UpstreamProcessor, lost: Callable[[], None]
    ) -> None:
        self.processors = processors
        self._upstream = upstream
        self._lost = lost

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        for processor in self.processors:
            processor.on_start(span, parent_context=parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        redacted = self._upstream.redacted(span)
        if redacted is None:
            self._lost()
            return
        for processor in self.processors:
            processor.on_end(redacted)

    def shutdown(self) -> None:
        for processor in self.processors:
            processor.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        flushed = [processor.force_flush(timeout_millis) for processor in self.processors]
        return all(flushed)


def _leave_out(span: Span) -> None:
    """Make processors ignore a started span, and samplers the spans below it.

    Old instrumentations of databases and of Redis do not look up that they are suppressed.
    """
    context = span.get_span_context()
    flags = TraceFlags(context.trace_flags & ~TraceFlags.SAMPLED)
    set_context(span, SpanContext(context.trace_id, context.span_id, False, flags, context.trace_state))
    span.__dict__[_LEFT_OUT] = True


def _content(span: Any) -> tuple[object, ...]:
    """Return the content of a span, to compare it."""
    status = span.status
    return (
        span.name,
        dict(span.attributes or {}),
        [(event.name, dict(event.attributes or {})) for event in span.events],
        [dict(link.attributes or {}) for link in span.links],
        None if status is None else status.description,
    )


def _redact(span: Any) -> None:
    """Redact a span or a draft. Where that fails, nothing of its content is left."""
    try:
        redact_content(span)
    except Exception:
        # A partly redacted span counts as not redacted.
        log_once("upstream-end", "A span of another instrumentation could not be redacted; its content is dropped.")
        clear(span, scope_name(span).rpartition(".")[2])


def _keep_undecided(span: ReadableSpan, *, passed_on: bool = False) -> None:
    """Keep a span whose trace is undecided: processors do not take spans that are not sampled."""
    if not undecided_traces:
        return
    context = span.get_span_context()
    undecided = None if context is None else undecided_traces.get(context.trace_id)
    if context is not None and undecided is not None and not context.trace_flags.sampled:
        # Another object than processors get, which may still wait in a queue when it becomes sampled.
        undecided.end_sdk_span(copy(span) if passed_on else span)
