"""Give OpenTelemetry's client instrumentations tracers that start no root spans.

A query or a call outside a trace would make a trace of one span each.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, SpanKind
from opentelemetry.util.types import Attributes as OTelAttributes

from django_tracing.conf.loading import get_settings
from django_tracing.context.current import current_context, outlived, span_context
from django_tracing.context.outgoing import CalledSpan
from django_tracing.faults import log_once
from django_tracing.semconv.names import HTTP_URL, URL_FULL
from django_tracing.untraced import SUPPRESS

__all__ = ["ChildrenOnly"]


class ChildrenOnly(trace.TracerProvider):
    """``provider``, whose tracers start spans only below another span."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        # Some instrumentations call it for each connection, in the code of their user.
        try:
            return _ChildrenOnlyTracer(self._provider.get_tracer(*args, **kwargs))
        except Exception:
            log_once("tracer", "The provider gave an instrumentation no tracer. It makes no spans.")
            return trace.NoOpTracer()


class _ChildrenOnlyTracer(trace.Tracer):
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: OTelAttributes = None,
        *args: Any,
        **kwargs: Any,
    ) -> trace.Span:
        try:
            return self._start_span(name, context, kind, attributes, *args, **kwargs)
        except Exception:
            log_once("children-only", "A span of another instrumentation could not be started; it is left out.")
            return INVALID_SPAN

    def _start_span(
        self,
        name: str,
        context: Context | None,
        kind: SpanKind,
        attributes: OTelAttributes,
        *args: Any,
        **kwargs: Any,
    ) -> trace.Span:
        context = current_context() if context is None else context
        if context.get(SUPPRESS):
            # Old instrumentations of databases and of Redis do not look it up.
            return INVALID_SPAN
        if span_context(context).is_valid and not outlived(context):
            span = self._tracer.start_span(name, context, kind, attributes, *args, **kwargs)
            if span.is_recording():
                return span
        else:
            span = INVALID_SPAN
        if kind is SpanKind.CLIENT:
            # What is injected into a call depends on its URL, whether it is recorded or not.
            url = (attributes or {}).get(HTTP_URL) or (attributes or {}).get(URL_FULL)
            if url or get_settings().propagate_to is not None:
                return CalledSpan(span.get_span_context(), str(url or ""))
        return span

    def start_as_current_span(  # type: ignore[override]  # OpenTelemetry's is a decorator too; instrumentations use it as a context manager
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: OTelAttributes = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> AbstractContextManager[trace.Span]:
        failing = record_exception, set_status_on_exception
        span = self.start_span(name, context, kind, attributes, links, start_time, *failing)
        return nullcontext(span) if span is INVALID_SPAN else trace.use_span(span, end_on_exit, *failing)
