"""Put span capture between the provider and its processors and sampler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from django_tracing.conf.loading import get_settings
from django_tracing.export.queue import QueueProcessor
from django_tracing.instrumentation.upstream.processor import UpstreamProcessor
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.sdk import ON_ENDING, EndingProcessor, processors_of, set_processors, tracers_of
from django_tracing.recording.undecided import SamplingDecision
from django_tracing.spans import runtime
from django_tracing.testing.blocks import collector

__all__ = ["install"]

#: Held while the provider is changed.
_lock: Final = threading.Lock()


class _Gate(EndingProcessor):
    """Wrap a processor so that it does not receive the end of spans that stay in the process."""

    def __init__(self, processor: SpanProcessor) -> None:
        self.processor = processor

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.processor.on_start(span, parent_context=parent_context)

    def on_ending(self, span: Span) -> None:
        # A processor may have none: old SDKs' base class has none.
        on_ending = getattr(self.processor, ON_ENDING, None)
        if on_ending is not None:
            on_ending(span)

    def on_end(self, span: ReadableSpan) -> None:
        mark = collector.mark_of(span)
        if mark is None:
            self.processor.on_end(span)
        elif mark.export:
            # The queue is muted in tests: only what a test exports explicitly is sent.
            (self.processor.send if isinstance(self.processor, QueueProcessor) else self.processor.on_end)(span)

    def shutdown(self) -> None:
        self.processor.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.processor.force_flush(timeout_millis)


class _KeepingSampler(Sampler):
    """Wrap a sampler so that traces that start while a block is open are kept."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        result = self.sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is Decision.RECORD_AND_SAMPLE or not collector.open:
            return result
        parent = get_current_span(parent_context).get_span_context()
        if parent.is_valid and not parent.trace_flags.sampled:
            return result
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, result.trace_state)

    def get_description(self) -> str:
        return self.sampler.get_description()


class _KeepingRate:
    """The same for ``SpanFactory.keep``."""

    def __init__(self, keep: Callable[[SpanContext | None, int], bool]) -> None:
        self.keep = keep

    def __call__(self, parent: SpanContext | None, trace_id: int) -> bool:
        return self.keep(parent, trace_id) or (
            bool(collector.open) and (parent is None or parent.trace_flags.sampled)
        )


class _KeepingDecision:
    """The same for ``SpanFactory.decide``."""

    def __init__(self, decide: Callable[..., SamplingDecision]) -> None:
        self.decide = decide

    def __call__(
        self, state: Any, name: str, kind: SpanKind, parent: SpanContext | None, trace_id: int
    ) -> SamplingDecision:
        if collector.open and (parent is None or parent.trace_flags.sampled):
            return SamplingDecision(True)
        return self.decide(state, name, kind, parent, trace_id)


def install() -> None:
    """Wrap the provider's processors and sampler, unless they are wrapped.

    The wrappers stay. Without an open block they pass everything on, except late spans of a block's traces. Raises
    ImproperlyConfigured, with the reason, if nothing can be captured.
    """
    _check()
    provider: Any = trace.get_tracer_provider()
    try:
        with _lock:
            processors = processors_of(provider)
            wanted = (*(_gated(processor) for processor in processors if processor is not collector), collector)
            if wanted != processors:
                set_processors(provider, wanted)
            # A tracer keeps the sampler that its provider had when the tracer was created.
            for sampled in (provider, *tracers_of(provider)):
                if not isinstance(sampled.sampler, _KeepingSampler):
                    sampled.sampler = _KeepingSampler(sampled.sampler)
            factory: SpanFactory | None = runtime.current.factory
            if factory is not None and factory.keep is not None and not isinstance(factory.keep, _KeepingRate):
                factory.keep = _KeepingRate(factory.keep)
            refresher = runtime.current.refresher
            if factory is not None and refresher is not None and not isinstance(factory.decide, _KeepingDecision):
                refresher.use_without_reading()
                if factory.decide is not None:
                    factory.decide = _KeepingDecision(factory.decide)
    except AttributeError as error:
        raise ImproperlyConfigured(
            f"Spans can't be captured: the tracer provider of this process is {type(provider).__qualname__} of "
            f"{type(provider).__module__}, not OpenTelemetry's SDK ({error}). Set no other provider in tests."
        ) from error


def _gated(processor: SpanProcessor) -> SpanProcessor:
    if isinstance(processor, (_Gate, UpstreamProcessor)):
        return processor
    if isinstance(processor, SimpleSpanProcessor) and isinstance(processor.span_exporter, InMemorySpanExporter):
        return processor  # it exports nothing
    return _Gate(processor)


def _check() -> None:
    """Raise ImproperlyConfigured if nothing is traced."""
    if not apps.ready:
        why = "Django is not set up. Call django.setup() first, or run the tests by manage.py test or pytest-django."
    elif not apps.is_installed("django_tracing"):
        why = '"django_tracing" is not in INSTALLED_APPS. Add it.'
    elif get_settings().problems:
        why = "tracing is off: " + " / ".join(str(problem) for problem in get_settings().problems)
    elif not get_settings().enabled:
        why = (
            f"tracing is off (ENABLED is False, set by {get_settings().source('ENABLED')}). Leave it on in the "
            'settings of tests; with TRACING["EXPORTER"] = "none" nothing is ever sent.'
        )
    elif not runtime.current.tracing:
        why = (
            "tracing was off, or could not be set up, when Django started: the log says why. Settings that are "
            "overridden in a test come too late for it."
        )
    else:
        return
    raise ImproperlyConfigured(f"There are no spans to capture: {why}")
