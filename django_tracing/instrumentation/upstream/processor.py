"""Complete and redact the spans of other tracers."""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import SpanKind, Status

from django_tracing.conf.loading import get_settings
from django_tracing.context.current import current_context
from django_tracing.context.request import get_request_state
from django_tracing.context.user import identify
from django_tracing.faults import log_once
from django_tracing.instrumentation.upstream import http_client
from django_tracing.instrumentation.upstream.span_redaction import _change, _guide, _redact_attributes
from django_tracing.recording.undecided import undecided_traces
from django_tracing.semconv.names import (
    OPERATION_TYPE,
    Attributes,
)
from django_tracing.spans import runtime
from django_tracing.spans.attributes import NAMED, set_request_attributes
from django_tracing.spans.locations import code_locations
from django_tracing.spans.runtime import SCOPE_NAME

__all__ = ["UpstreamProcessor"]

#: What the instrumentation scope of upstream's spans begins with.
_UPSTREAM: Final = "opentelemetry.instrumentation."

#: The instrumentation scope of the spans of Celery's tasks.
_CELERY: Final = f"{_UPSTREAM}celery"


class UpstreamProcessor(SpanProcessor):
    """Makes spans that are not ours like ours: the request's attributes, names of calls, and redaction.

    What upstream's instrumentations take as it comes is redacted by what it is; everything, the user's own tracers'
    too, follows the guidelines. It happens when a span ends, before any processor is given it, so that nobody
    sees what was there before.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            name = _scope_name(span)
            if name == SCOPE_NAME:
                return
            settings = get_settings()
            attributes: Attributes = {}
            request = get_request_state(parent_context)
            if request is not None:
                identify(request, settings)
                set_request_attributes(span, request.common)
            if name == _CELERY:
                attributes[OPERATION_TYPE] = "task"
            if span.kind is SpanKind.CLIENT and name.startswith(_UPSTREAM):
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
        except Exception:
            log_once("upstream-start", "A span of another instrumentation could not be completed.")

    def _on_ending(self, span: Span) -> None:
        # The specification's OnEnding; the SDK calls it by this name while it is experimental.
        try:
            name = _scope_name(span)
            upstream = name.startswith(_UPSTREAM)
            treated = _redact_attributes(span) if upstream else frozenset()
            rename = not upstream and name != SCOPE_NAME
            if rename or (name == SCOPE_NAME and span.__dict__.get(NAMED) != span.name):
                span._name = runtime.current.sanitizer.name(span.name)
            _guide(span, treated, rename=rename)
            if undecided_traces:
                known = span.get_span_context()
                undecided = None if known is None else undecided_traces.get(known.trace_id)
                if known is not None and undecided is not None and not known.trace_flags.sampled:
                    # The trace waits for its decision; the processors will not take what is not sampled.
                    undecided.end_sdk_span(span)
        except Exception:
            # Half redacted is not redacted: the span keeps its times, and loses what it says.
            log_once("upstream-end", "A span of another instrumentation could not be redacted; it goes bare.")
            _strip(span)


def _scope_name(span: Span) -> str:
    state = span.instrumentation_scope
    return "" if state is None else state.name


def _strip(span: Span) -> None:
    try:
        span._name = _scope_name(span).rpartition(".")[2]
        if span._status is not None:
            span._status = Status(span._status.status_code)
        _change(span._attributes, {}, list(span._attributes or ()))
        for event in span._events:
            _change(event._attributes, {}, list(event._attributes or ()))
    except Exception:
        log_once("upstream-strip", "A span of another instrumentation could not be emptied.")
