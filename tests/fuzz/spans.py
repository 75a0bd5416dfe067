"""Record spans with any attributes, by the public functions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import django_tracing

__all__ = ["Kept", "kept_spans", "recorded"]


class Kept(SpanProcessor):
    """Keeps the spans that ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def take(self) -> list[ReadableSpan]:
        spans, self.spans = self.spans, []
        return spans


@lru_cache(maxsize=1)
def kept_spans() -> Kept:
    """Return the one that all runs share: a provider keeps its processors."""
    provider, kept = trace.get_tracer_provider(), Kept()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(kept)
    return kept


def recorded(name: Any, attributes: dict[Any, Any]) -> list[ReadableSpan]:
    """Return an ended span that got ``attributes`` from the user's code, and an event with them."""
    kept = kept_spans()
    kept.take()
    with django_tracing.create_span(name, attributes):
        django_tracing.set_span_attributes(attributes)
        django_tracing.add_span_event(name, attributes)
    return kept.take()
