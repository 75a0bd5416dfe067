"""Copy the ended spans of other tracers, changed, by public names only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext

from django_tracing.recording.sdk import SpanDraft, content_of, events_of, links_of

__all__ = ["SpanCopy", "copy_span"]


class SpanCopy(ReadableSpan):
    """An ended span, made from a draft."""

    def __init__(self, draft: SpanDraft) -> None:
        span = draft.span
        super().__init__(
            name=draft.name,
            context=span.get_span_context(),
            parent=span.parent,
            resource=span.resource,
            attributes=_bounded(content_of(draft), span.dropped_attributes),
            events=[
                Event(part.name, _bounded(content_of(part), part.source.dropped_attributes), part.source.timestamp)
                for part in events_of(draft)
            ],
            links=[
                Link(part.source.context, _bounded(content_of(part), part.source.dropped_attributes))
                for part in links_of(draft)
            ],
            kind=span.kind,
            status=draft.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )
        #: Can be replaced: a trace may be kept after its spans have ended.
        self.span_context: SpanContext | None = span.get_span_context()
        self._dropped = span.dropped_events, span.dropped_links

    def get_span_context(self) -> SpanContext | None:
        return self.span_context

    @property
    def context(self) -> SpanContext | None:
        return self.span_context

    @property
    def dropped_events(self) -> int:
        return int(self._dropped[0])

    @property
    def dropped_links(self) -> int:
        return int(self._dropped[1])


def _bounded(attributes: dict[str, Any], dropped: int) -> BoundedAttributes:
    bounded = BoundedAttributes(None, attributes)
    bounded.dropped = dropped
    return bounded


def copy_span(span: ReadableSpan, notes: dict[str, Any], change: Callable[[Any], None]) -> SpanCopy:
    """Return a copy of ``span``. Its content is what ``change`` leaves in the draft that it is given.

    ``notes`` become attributes of the draft and of the copy.
    """
    draft = SpanDraft(span)
    draft.__dict__.update(notes)
    change(draft)
    copy = SpanCopy(draft)
    copy.__dict__.update(notes)
    return copy
