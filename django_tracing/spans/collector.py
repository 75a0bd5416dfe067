"""Collect the spans of one request while it runs."""

from __future__ import annotations

from threading import Lock
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import Span as SDKSpan

from django_tracing.context.request import RequestState, get_request_state
from django_tracing.faults import log_once
from django_tracing.recording.copies import SpanCopy
from django_tracing.recording.probe import probe
from django_tracing.recording.sdk import EndingProcessor
from django_tracing.recording.span import RecordingSpan

__all__ = ["MOST_COLLECTED", "collect"]

#: The attribute of an SDK span that holds the request state it is collected for, until the span ends.
_COLLECTED_FOR: Final = "_django_tracing_collected_for"


#: The largest number of spans that :func:`collect` returns for one request.
MOST_COLLECTED: Final = 10_000

_NOT_COLLECTED: Final = "A span could not be collected; the response does not show it."


class _Collector(EndingProcessor):
    """Put every span that ends into the list of its request state, if it has one: ours and those of other tracers."""

    def __init__(self) -> None:
        self.provider: object = None
        self._lock = Lock()

    def follow(self, provider: Any) -> None:
        with self._lock:
            if self.provider is not provider:
                self.provider = provider
                # A provider that is not the SDK's has no such method; its spans cannot be collected.
                add = getattr(provider, "add_span_processor", None)
                if add is not None:
                    add(self)

    def on_start(self, span: SDKSpan, parent_context: Context | None = None) -> None:
        if span.__class__ is RecordingSpan:
            return
        try:
            state = get_request_state(parent_context)
            if state is not None and state.collected is not None:
                span.__dict__[_COLLECTED_FOR] = state
        except Exception:
            log_once("collect", _NOT_COLLECTED)

    def on_ending(self, span: SDKSpan) -> None:
        try:
            if span.__class__ is RecordingSpan:
                self._collect(span.request_state, span)
            elif _COLLECTED_FOR in span.__dict__ and probe().redaction_in_place:
                self._collect(span.__dict__.pop(_COLLECTED_FOR), span)
        except Exception:
            log_once("collect", _NOT_COLLECTED)

    def on_end(self, span: ReadableSpan) -> None:
        # Where the spans of other tracers are not redacted in place, redacted copies of them come here.
        if span.__class__ is not SpanCopy:
            return
        try:
            self._collect(span.__dict__.pop(_COLLECTED_FOR, None), span)
        except Exception:
            log_once("collect", _NOT_COLLECTED)

    def _collect(self, state: RequestState | None, span: ReadableSpan) -> None:
        collected = None if state is None else state.collected
        if collected is not None and len(collected) < MOST_COLLECTED:
            collected.append(span)


_collector: Final = _Collector()


def collect(state: RequestState) -> list[ReadableSpan]:
    """Return the spans of ``state`` that ended since the first call for it, in the order they ended. Never raises.

    They are ours, those of OpenTelemetry's instrumentations and those of the user's tracers, redacted as they are
    sent, sampled or undecided; at most 10,000. Every call returns the same list, which grows until the response is
    complete. The request's own span is ``state.span``: it ends later and is not in the list.
    """
    collected = state.collected
    if collected is None:
        collected = state.collected = []
        try:
            # Added on first use, so that spans cost nothing more in processes that collect none.
            if _collector.provider is not (provider := trace.get_tracer_provider()):
                _collector.follow(provider)
        except Exception:
            log_once("collect", "The spans of a request could not be collected.")
    return collected
