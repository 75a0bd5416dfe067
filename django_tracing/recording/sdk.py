"""Use the private names of OpenTelemetry's SDK and API.

No other module spells one: a test compares them. Private names can change with any release of the SDK, so callers get
a safe answer where one is missing, and :func:`django_tracing.recording.probe.probe` finds out at start whether they
still do what they are used for.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from threading import Lock
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    ReadableSpan,
    Span,
    SpanLimits,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace import Tracer as SDKTracer
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

__all__ = [
    "ON_ENDING",
    "PROCESSORS",
    "EndingProcessor",
    "SDKSpan",
    "SpanDraft",
    "change_attributes",
    "clear",
    "content_of",
    "dependency_conflict",
    "events_of",
    "holds",
    "is_enabled",
    "links_of",
    "make_provider",
    "plain_attributes",
    "processors_of",
    "propagators_of",
    "records_metrics",
    "scope_of",
    "set_context",
    "set_kind",
    "set_name",
    "set_processors",
    "set_resource",
    "set_status",
    "span_limits_of",
    "status_of",
    "tracers_of",
]

#: The method of a span processor that is called when a span ends, before any processor is given it. It is OnEnding of
#: OpenTelemetry's specification, which the SDK names so while it is experimental; old SDKs do not call it.
ON_ENDING: Final = "_on_ending"
#: The key under which ``vars()`` of a provider's multi processor has the tuple of its processors. Reading the dict
#: costs a span as little as reading the attribute.
PROCESSORS: Final = "_span_processors"


class EndingProcessor(SpanProcessor):
    """A span processor whose ``on_ending(span)``, if it has one, is called before any processor is given the span."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        on_ending = vars(cls).get("on_ending")
        if on_ending is not None:
            setattr(cls, ON_ENDING, on_ending)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        # That of old SDKs returns None, and their provider then flushes no other processor.
        return True


# ----- tracers and providers


def make_provider(**options: Any) -> TracerProvider:
    """Return a new TracerProvider that traces, whatever OTEL_SDK_DISABLED says."""
    disabled = os.environ.pop(OTEL_SDK_DISABLED, None)
    try:
        return TracerProvider(**options)
    finally:
        if disabled is not None:
            os.environ[OTEL_SDK_DISABLED] = disabled


def span_limits_of(tracer: SDKTracer) -> SpanLimits:
    """Return the limits of a tracer's spans. Raise AttributeError if the SDK stores them elsewhere."""
    return tracer._span_limits


def scope_of(tracer: SDKTracer) -> InstrumentationScope:
    """Return the instrumentation scope of a tracer. Raise AttributeError if the SDK stores it elsewhere."""
    return tracer._instrumentation_scope


def records_metrics(tracer: SDKTracer) -> bool:
    """Return True if the SDK counts the spans of a tracer (OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED)."""
    metrics = getattr(tracer, "_tracer_metrics", None)
    return metrics is not None and type(metrics).__name__ != "NoOpTracerMetrics"


def is_enabled(tracer: SDKTracer) -> bool:
    """Return True if a tracer makes spans, or if the SDK can't disable tracers."""
    config = getattr(tracer, "_tracer_config", None)
    return config is None or bool(config.is_enabled)


def set_resource(provider: Any, tracer: Any, changes: Resource) -> None:
    """Merge ``changes`` into the resource of a provider and its tracers, at least into that of ``tracer``."""
    update = getattr(provider, "_update_resource", None)
    if update is not None:
        update(changes)
    elif isinstance(tracer, SDKTracer):
        tracer.resource = tracer.resource.merge(changes)


def processors_of(provider: Any) -> tuple[SpanProcessor, ...]:
    """Return the span processors of the SDK's provider. Raise AttributeError for another provider."""
    processors: tuple[SpanProcessor, ...] = provider._active_span_processor._span_processors
    return processors


def set_processors(provider: Any, processors: tuple[SpanProcessor, ...]) -> None:
    """Replace the span processors of the SDK's provider."""
    provider._active_span_processor._span_processors = processors


def holds(multi: Any, processor: SpanProcessor) -> bool:
    """Return True if ``multi``, a provider's span processor, is the SDK's own and calls ``processor`` itself.

    Another one, or one that holds a wrapper of ``processor``, may not call ON_ENDING.
    """
    if type(multi) not in (SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor):
        return False
    return any(held is processor for held in getattr(multi, PROCESSORS, ()))


def tracers_of(provider: TracerProvider) -> list[SDKTracer]:
    """Return the tracers that a provider has made. Slow with an old SDK, which does not keep them: for tests."""
    known = getattr(provider, "_tracers", None)
    if known is not None:
        return list(known.values())
    multi = provider._active_span_processor
    return [
        found
        for found in gc.get_objects()
        if type(found) is SDKTracer and getattr(found, "span_processor", None) is multi
    ]


# ----- the API and instrumentations


def propagators_of(propagator: Any) -> Sequence[Any]:
    """Return the propagators that a composite one consists of; none for any other."""
    return getattr(propagator, "_propagators", ())


def dependency_conflict(instrumentor: Any) -> object:
    """Return what is missing for an instrumentor, or has the wrong version; None if it can work."""
    check = getattr(instrumentor, "_check_dependency_conflicts", None)
    if check is not None:
        return check()
    from opentelemetry.instrumentation.dependencies import get_dependency_conflicts

    return get_dependency_conflicts(instrumentor.instrumentation_dependencies())


# ----- our own spans


class SDKSpan(Span):
    """Give the SDK's own methods (add_event, set_status, ...) the attributes of a RecordingSpan to work on."""

    __slots__ = ()

    # The same for all of these spans.
    _record_exception = True
    _set_status_on_exception = True
    _trace_config = None
    _record_end_metrics = None

    factory: Any
    dropped: int
    made_events: BoundedList[Any] | None
    made_links: BoundedList[Any] | None

    @property
    def _lock(self) -> Any:  # type: ignore[override]
        return self.__dict__.setdefault("made_lock", Lock())

    @property
    def _events(self) -> BoundedList[Any]:  # type: ignore[override]
        if self.made_events is None:
            self.made_events = BoundedList(self.factory.limits.max_events)
        return self.made_events

    @property
    def _links(self) -> BoundedList[Any]:  # type: ignore[override]
        if self.made_links is None:
            self.made_links = BoundedList(self.factory.limits.max_links)
        return self.made_links

    def _readable_span(self) -> ReadableSpan:
        copy = super()._readable_span()
        attributes = BoundedAttributes(None, self.attributes)
        attributes.dropped = self.dropped
        copy._attributes = attributes
        return copy


def _set_span_status(span: Any, status: Status) -> None:
    span.span_status = status


#: The SDK's name -> the attribute of a RecordingSpan.
_VIEWS: Final = {
    "_name": "span_name",
    "_kind": "span_kind",
    "_start_time": "start_ns",
    "_end_time": "end_ns",
    "_context": "context",
    "_parent": "parent",
    "_resource": "resource",
    "_attributes": "attributes",
    "_limits": "factory.limits",
    "_instrumentation_scope": "factory.instrumentation_scope",
    "_instrumentation_info": "factory.tracer.instrumentation_info",
    "_sampler": "factory.tracer.sampler",
    "_span_processor": "factory.tracer.span_processor",
}
for _name, _view in _VIEWS.items():
    setattr(SDKSpan, _name, property(attrgetter(_view)))
SDKSpan._status = property(attrgetter("span_status"), _set_span_status)  # type: ignore[assignment]


# ----- reading spans


def plain_attributes(holder: Any) -> Mapping[str, Any]:
    """Return the attributes of a span, an event, a link, a resource or a scope; empty if it has none.

    The SDK keeps them in a mapping of its own, behind a proxy, whose every look-up runs Python code: reading the dict
    within costs a tenth. Where there is no such dict, the public attribute is read.
    """
    kept = getattr(holder, "_attributes", None)
    inner = getattr(kept, "_dict", None)
    if inner.__class__ is dict:
        return inner
    return getattr(holder, "attributes", None) or {}


# ----- changing the ended spans of other tracers, in place or in a draft


#: The attributes of a span, an event or a link, as they are kept.
content_of: Final[Callable[[Any], Any]] = attrgetter("_attributes")
events_of: Final[Callable[[Any], Sequence[Any]]] = attrgetter("_events")
links_of: Final[Callable[[Any], Sequence[Any]]] = attrgetter("_links")
status_of: Final[Callable[[Any], Status | None]] = attrgetter("_status")


def set_name(holder: Any, name: str) -> None:
    """Set the name of a span or an event."""
    holder._name = name


def set_status(span: Any, status: Status) -> None:
    """Set the status of a span."""
    span._status = status


def set_kind(span: Any, kind: SpanKind) -> None:
    """Set the kind of a started span."""
    if isinstance(span, SDKSpan):
        span.span_kind = kind  # type: ignore[attr-defined]
    else:
        span._kind = kind


def set_context(span: Any, context: SpanContext) -> None:
    """Set the SpanContext of an SDK span."""
    span._context = context


def change_attributes(holder: Any, changes: Mapping[str, Any], dropped: Iterable[str]) -> None:
    """Change attributes that the SDK closed when the span ended (those of events: when they were added)."""
    attributes = holder._attributes
    closed = getattr(attributes, "_immutable", False)
    if closed:
        attributes._immutable = False
    try:
        for key, value in changes.items():
            attributes[key] = value
        for key in dropped:
            del attributes[key]
    finally:
        if closed:
            attributes._immutable = True


def clear(span: Any, name: str) -> None:
    """Take everything from an ended span but its ids, its times, its kind and whether it failed."""
    status = span.status
    span._name = name
    span._attributes = {}
    span._events = ()
    span._links = ()
    span._status = Status(StatusCode.UNSET if status is None else status.status_code)


class SpanDraft:
    """The content of an ended span, copied by its public names, for the functions above to change."""

    def __init__(self, span: Any) -> None:
        self.span = span
        self.name = span.name
        self._status: Status = span.status
        self._attributes: dict[str, Any] = dict(span.attributes or {})
        self._events: Sequence[_Part] = [_Part(event, event.name) for event in span.events]
        self._links: Sequence[_Part] = [_Part(link, "") for link in span.links]

    _name = property(attrgetter("name"), lambda self, name: setattr(self, "name", name))

    @property
    def attributes(self) -> dict[str, Any]:
        return self._attributes

    @property
    def status(self) -> Status:
        return self._status

    @property
    def kind(self) -> SpanKind:
        kind: SpanKind = self.span.kind
        return kind

    @property
    def instrumentation_scope(self) -> InstrumentationScope | None:
        scope: InstrumentationScope | None = self.span.instrumentation_scope
        return scope


class _Part:
    """An event or a link of a draft."""

    __slots__ = ("_attributes", "_name", "source")

    def __init__(self, source: Any, name: str) -> None:
        self.source = source
        self._name = name
        self._attributes: dict[str, Any] = dict(source.attributes or {})

    @property
    def name(self) -> str:
        return self._name

    @property
    def attributes(self) -> dict[str, Any]:
        return self._attributes
