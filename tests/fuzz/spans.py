"""Record spans with any attributes, by the public functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import django_tracing

__all__ = ["keeping", "recorded"]


class Kept(SpanProcessor):
    """Keeps the spans that end within :func:`keeping`."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] | None = None

    def on_end(self, span: ReadableSpan) -> None:
        if self.spans is not None:
            self.spans.append(span)


@lru_cache(maxsize=1)
def _kept() -> Kept:
    """Return the one that all runs share: a provider keeps its processors."""
    provider, kept = trace.get_tracer_provider(), Kept()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(kept)
    return kept


@contextmanager
def keeping() -> Iterator[list[ReadableSpan]]:
    """Yield the list of the spans that end within the block. None of later tests is held."""
    kept = _kept()
    kept.spans = spans = []
    try:
        yield spans
    finally:
        kept.spans = None


def recorded(name: Any, attributes: dict[Any, Any]) -> list[ReadableSpan]:
    """Return an ended span that got ``attributes`` from the user's code, and an event with them."""
    with keeping() as spans, django_tracing.create_span(name, attributes):
        django_tracing.set_span_attributes(attributes)
        django_tracing.add_span_event(name, attributes)
    return spans
