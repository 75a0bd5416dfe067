"""Gather ended spans in batches for exporters that take them as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from django_tracing.recording.sdk import plain_attributes

__all__ = ["SpanBatch", "estimate_size"]

_SPAN_BYTES: Final = 1000
_ATTRIBUTE_BYTES: Final = 60


def estimate_size(span: ReadableSpan) -> int:
    """Estimate how many bytes of memory an ended span uses."""
    size = _SPAN_BYTES + _attributes_size(plain_attributes(span))
    for event in span.events:
        size += 200 + _attributes_size(plain_attributes(event))
    for link in span.links:
        size += 200 + _attributes_size(plain_attributes(link))
    return size


def _attributes_size(attributes: Mapping[str, Any]) -> int:
    size = _ATTRIBUTE_BYTES * len(attributes)
    for value in attributes.values():
        kind = value.__class__
        if kind is str or kind is bytes:
            size += len(value)
        elif kind is not int and kind is not bool and kind is not float:
            size += _value_size(value)
    return size


def _value_size(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return 50 + len(value)
    if isinstance(value, Mapping):
        return 60 + sum(len(key) + _value_size(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return 60 + sum(map(_value_size, value))
    return 30


class SpanBatch:
    """Waiting spans, for an exporter that takes them as they are."""

    __slots__ = ("count", "size", "spans")

    #: Convert a span before it is added, in the thread that ends it. Return the result and its approximate size.
    @staticmethod
    def pack(span: ReadableSpan) -> tuple[ReadableSpan, int]:
        return span, estimate_size(span)

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.count = 0
        self.size = 0

    def add(self, span: ReadableSpan, packed: Any, size: int) -> None:
        """Add the result of :meth:`pack` for ``span``."""
        self.spans.append(packed)
        self.count += 1
        self.size += size

    def split(self) -> tuple[SpanBatch, SpanBatch]:
        """Return two batches with half of the spans each. There must be two spans or more."""
        first, second = SpanBatch(), SpanBatch()
        middle = self.count // 2
        first.spans, second.spans = self.spans[:middle], self.spans[middle:]
        first.count, second.count = middle, self.count - middle
        first.size = self.size * middle // self.count
        second.size = self.size - first.size
        return first, second
