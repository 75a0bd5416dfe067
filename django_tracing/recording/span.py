"""Record spans: the SDK's ``Span`` in all that callers can ask of it, at a fraction of its cost.

The SDK's span copies and checks every attribute one by one, makes a lock and three bounded collections, and is copied
once more when it ends. Here shared attribute sets are referenced, and what is rarely used (the SpanContext, events,
links, the merged attributes) is made on first use. Samplers, processors and exporters of any origin get what they
expect.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from random import getrandbits
from threading import Lock
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import redacted_stack
from django_tracing.redaction.attributes import STACKTRACE_LENGTH
from django_tracing.semconv.names import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
    AttributeValue,
)

if TYPE_CHECKING:
    from django_tracing.recording.factory import SpanFactory
    from django_tracing.recording.undecided import UndecidedTrace

__all__ = ["SPAN_KEY", "UNSET", "RecordingSpan", "UnsampledSpan", "context_of"]

_logger = logging.getLogger("django_tracing")


#: Where OpenTelemetry's API keeps the current span in a context.
SPAN_KEY: Final[str] = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))


SAMPLED: Final = int(TraceFlags.SAMPLED)


#: The status of a span that nobody gave one.
UNSET: Final = Status(StatusCode.UNSET)


_PLAIN: Final = frozenset({str, bool, int, float})


def context_of(span: Any) -> SpanContext:
    """The SpanContext of what stands in a context as its span; an invalid one where it is none, or has none."""
    try:
        context = span.get_span_context() if isinstance(span, trace.Span) else None
    except Exception:  # a span of somebody else's making
        context = None
    return context if isinstance(context, SpanContext) else trace.INVALID_SPAN_CONTEXT


class UnsampledSpan(NonRecordingSpan):
    """A span that is not recorded. Its ids are made when somebody asks for them, to send them on or to log them."""

    def __init__(self, trace_id: int, flags: int, trace_state: TraceState | None) -> None:
        self._trace_id = trace_id
        self._flags = flags
        self._trace_state = trace_state
        self._made: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        made = self._made
        if made is None:
            made = SpanContext(
                self._trace_id,
                getrandbits(64) or 1,
                is_remote=False,
                trace_flags=TraceFlags(self._flags),
                trace_state=self._trace_state,
            )
            # Two threads that ask at once get the same one.
            made = self.__dict__.setdefault("_kept", made)
            self._made = made
        return made

    def __repr__(self) -> str:
        return f"UnsampledSpan({self.get_span_context()!r})"


class RecordingSpan(Span):
    """A span made by an :class:`SpanFactory`. What is not here is the SDK's own code, on lazily made state."""

    __slots__ = (
        *("_end_time", "_kind", "_name", "_start_time", "_status"),
        *(
            "dropped",
            "flags",
            "links_made",
            "made_context",
            "made_events",
            "factory",
            "own",
            "parent_id",
            "parent_span",
            "undecided",
        ),
        *("shared", "span_id", "trace_id", "trace_state"),
    )

    # Of the SDK's span, what is the same for all of these.
    _record_exception = True
    _set_status_on_exception = True
    _trace_config = None
    _record_end_metrics = None

    _name: str
    _kind: SpanKind
    _start_time: int
    _end_time: int | None
    _status: Status
    factory: SpanFactory
    trace_id: int
    span_id: int
    parent_id: int
    flags: int
    #: Whether the parent is in another process.
    remote: bool
    #: The ``context.request.RequestState`` that it was started in.
    request_state: Any
    #: How many attributes found no place.
    dropped: int
    trace_state: TraceState | None
    parent_span: RecordingSpan | SpanContext | None
    shared: tuple[SharedAttributes, ...]
    own: dict[str, Any] | None
    #: Where the trace waits for a decision.
    undecided: UndecidedTrace | None
    made_context: SpanContext | None
    made_events: BoundedList[Any] | None
    links_made: BoundedList[Any] | None

    # ----- what our instrumentations call

    def set_shared(self, shared: tuple[SharedAttributes, ...]) -> None:
        """Adds shared attributes."""
        if self.own is None:
            self.shared += shared
        else:
            # Of a name that was set before, the later value counts.
            for part in shared:
                self.set_own(part.attributes)

    # ----- the API

    def get_span_context(self) -> SpanContext:
        made = self.made_context
        if self.undecided is not None and self.undecided.kept and not self.flags & SAMPLED:
            # Decided since: what is called from here on carries it.
            self.flags |= SAMPLED
            made = None
        if made is None:
            self.made_context = made = SpanContext(
                self.trace_id,
                self.span_id,
                is_remote=False,
                trace_flags=TraceFlags(self.flags),
                trace_state=self.trace_state,
            )
        return made

    def is_recording(self) -> bool:
        return self._end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        if self.factory.sanitizer is not None:
            self.set_attributes({key: value})
            return
        if self._end_time is None and (value.__class__ not in _PLAIN or key.__class__ is not str or not key):
            # The SDK's own decidement of what an attribute may be, and its own log line.
            checked = BoundedAttributes(1, immutable=False)
            checked[key] = value
            self.dropped += checked.dropped
            if key not in checked:
                return
            value = checked[key]
        self.set_own({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        sanitizer = self.factory.sanitizer
        self.set_own(attributes if sanitizer is None else sanitizer.attributes(attributes))

    def set_own(self, attributes: Mapping[str, Any]) -> None:
        """Sets attributes that may leave as they are: this app's own."""
        if self._end_time is not None:
            _logger.warning("Setting attributes on the ended span %s.", self._name)
            return
        own = self.own
        if own is None:
            own = self.own = {}
        for key, value in attributes.items():
            if value.__class__ not in _PLAIN or key.__class__ is not str or not key:
                checked = BoundedAttributes(1, {key: value}, immutable=False)
                if key not in checked:
                    self.dropped += checked.dropped
                    continue
                value = checked[key]
            if key not in own:
                for part in self.shared:
                    if key in part.attributes:
                        self.own = own = {**self._merged(), **own}
                        self.shared = ()
                        break
                else:
                    if len(own) >= self.factory.own_attributes:
                        self.dropped += 1
                        continue
            own[key] = value

    def update_name(self, name: str) -> None:
        if self._end_time is None:
            sanitizer = self.factory.sanitizer
            self._name = name if sanitizer is None else sanitizer.name(name)
        else:
            _logger.warning("Renaming the ended span %s.", self._name)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        sanitizer = self.factory.sanitizer
        if sanitizer is not None:
            name = sanitizer.name(name)
            attributes = None if attributes is None else sanitizer.attributes(attributes)
        super().add_event(name, attributes, timestamp)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        if self.factory.sanitizer is None:
            super().record_exception(exception, attributes, timestamp, escaped)
            return
        # The SDK prints all that hangs on the exception, however long a chain of others that is.
        kind = type(exception)
        try:
            message = str(exception)
        except Exception:  # an exception whose __str__ raises
            message = ""
        event = {
            EXCEPTION_TYPE: kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}",
            EXCEPTION_MESSAGE: message,
            EXCEPTION_STACKTRACE: redacted_stack(exception, STACKTRACE_LENGTH),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**event, **(attributes or {})}, timestamp)

    def add_own_event(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Adds an event that may leave as it is: this app's own."""
        super().add_event(name, attributes)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        sanitizer = self.factory.sanitizer
        if sanitizer is not None and attributes is not None:
            attributes = sanitizer.attributes(attributes)
        super().add_link(context, attributes)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        sanitizer = self.factory.sanitizer
        if sanitizer is not None:
            if isinstance(status, Status):
                status = Status(status.status_code, sanitizer.message(status.description))
            elif description is not None:
                description = sanitizer.message(description)
        super().set_status(status, description)

    def end(self, end_time: int | None = None) -> None:
        if self._end_time is not None:
            _logger.warning("Ending the ended span %s.", self._name)
            return
        self._end_time = time_ns() if end_time is None else end_time
        factory = self.factory
        if factory.redacts:
            self._apply_redact()
        processors = factory._processors
        if processors.known is not factory.multi._span_processors:
            processors = factory.processors()
        for ending in processors.on_ending:
            ending(self)
        if self.undecided is not None:
            self.undecided.end(self)
            return
        for on_end in processors.on_end:
            on_end(self)

    def _apply_redact(self) -> None:
        """Gives everything to the user's ``REDACT``, the last one before it is sent."""
        sanitizer = self.factory.sanitizer
        assert sanitizer is not None
        self.own = sanitizer.last(self._merged())
        self.shared = ()
        for said in (*self.events, *self.links):
            if said._attributes:
                said._attributes = BoundedAttributes(None, sanitizer.last(said._attributes))
        description = self._status.description
        if description:
            # It is the message of an exception, said once more.
            last = sanitizer.last({EXCEPTION_MESSAGE: description}).get(EXCEPTION_MESSAGE)
            self._status = Status(self._status.status_code, last)

    # ----- reading

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        return self._merged()

    def _merged(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part in self.shared:
            merged.update(part.attributes)
        if self.own:
            merged.update(self.own)
        return merged

    @property
    def dropped_attributes(self) -> int:
        return self.dropped

    @property
    def context(self) -> SpanContext:
        return self.get_span_context()

    @property
    def parent(self) -> SpanContext | None:
        parent = self.parent_span
        return parent.get_span_context() if parent.__class__ is RecordingSpan else parent  # type: ignore[return-value]

    @property
    def resource(self) -> Resource:
        return self.factory.tracer.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        return self.factory.instrumentation_scope

    @property
    def events(self) -> Sequence[Any]:
        return () if self.made_events is None else tuple(self.made_events)

    @property
    def links(self) -> Sequence[Any]:
        return () if self.links_made is None else tuple(self.links_made)

    @property
    def dropped_events(self) -> int:
        return 0 if self.made_events is None else int(self.made_events.dropped)

    @property
    def dropped_links(self) -> int:
        return 0 if self.links_made is None else int(self.links_made.dropped)

    def _readable_span(self) -> ReadableSpan:
        copy = super()._readable_span()
        attributes = BoundedAttributes(None, self._merged())
        attributes.dropped = self.dropped
        copy._attributes = attributes
        return copy

    # ----- what the SDK's own methods (add_event, add_link, set_status, ...) work on

    @property
    def _context(self) -> SpanContext:  # type: ignore[override]
        return self.get_span_context()

    @property
    def _parent(self) -> SpanContext | None:  # type: ignore[override]
        return self.parent

    @property
    def _resource(self) -> Resource:  # type: ignore[override]
        return self.resource

    @property
    def _instrumentation_scope(self) -> InstrumentationScope:  # type: ignore[override]
        return self.factory.instrumentation_scope

    @property
    def _instrumentation_info(self) -> Any:  # type: ignore[override]
        return self.factory.tracer.instrumentation_info

    @property
    def _sampler(self) -> Any:  # type: ignore[override]
        return self.factory.tracer.sampler

    @property
    def _span_processor(self) -> Any:  # type: ignore[override]
        return self.factory.tracer.span_processor

    @property
    def _attributes(self) -> dict[str, Any]:  # type: ignore[override]
        return self._merged()

    @property
    def _limits(self) -> SpanLimits:
        return self.factory.limits

    @property
    def _lock(self) -> Any:  # type: ignore[override]
        return self.__dict__.setdefault("_made_lock", Lock())

    @property
    def _events(self) -> BoundedList[Any]:  # type: ignore[override]
        if self.made_events is None:
            self.made_events = BoundedList(self._limits.max_events)
        return self.made_events

    @property
    def _links(self) -> BoundedList[Any]:  # type: ignore[override]
        if self.links_made is None:
            self.links_made = BoundedList(self._limits.max_links)
        return self.links_made
