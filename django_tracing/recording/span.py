"""Record spans: the SDK's ``Span`` in all that callers can ask of it, at a fraction of its cost.

The SDK's span copies and checks every attribute one by one, makes a lock and three bounded collections, and is copied
once more when it ends. Here shared attribute sets are referenced, and what is rarely used (the SpanContext, events,
links, the merged attributes) is made on first use. Samplers, processors and exporters of any origin get what they
expect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from random import getrandbits
from time import time_ns
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from django_tracing.faults import log_hourly
from django_tracing.recording.sdk import PROCESSORS, SDKSpan
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import redacted_stack
from django_tracing.redaction.attributes import STACKTRACE_LENGTH
from django_tracing.semconv.names import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
    REQUEST_NAME,
    AttributeValue,
)

if TYPE_CHECKING:
    from django_tracing.recording.factory import SpanFactory
    from django_tracing.recording.undecided import UndecidedTrace

__all__ = ["SPAN_KEY", "UNSET", "RecordingSpan", "UnsampledSpan", "context_of"]

#: Where OpenTelemetry's API keeps the current span in a context.
SPAN_KEY: Final[str] = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))


SAMPLED: Final = int(TraceFlags.SAMPLED)


#: The status of a span for which none was set.
UNSET: Final = Status(StatusCode.UNSET)


def context_of(span: Any) -> SpanContext:
    """Return the SpanContext of a context's current span; an invalid one if it is no span or has none."""
    try:
        context = span.get_span_context() if isinstance(span, trace.Span) else None
        return context if isinstance(context, SpanContext) else trace.INVALID_SPAN_CONTEXT
    except Exception:  # a span of another library
        return trace.INVALID_SPAN_CONTEXT


class UnsampledSpan(NonRecordingSpan):
    """A span that is not recorded. Its ids are made when they are needed, to propagate or to log them."""

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
            # Two threads that call this at once get the same one.
            made = self.__dict__.setdefault("_kept", made)
            self._made = made
        return made

    def __repr__(self) -> str:
        return f"UnsampledSpan({self.get_span_context()!r})"


class RecordingSpan(SDKSpan):
    """A span made by a :class:`SpanFactory`. The SDK's own methods work on state that is made on first use."""

    __slots__ = (
        *("dropped", "end_ns", "factory", "flags", "made_context", "made_events", "made_links", "own", "parent_id"),
        *("parent_span", "shared", "span_id", "span_kind", "span_name", "span_status", "start_ns", "trace_id"),
        *("trace_state", "undecided"),
    )

    # Not the SDK's names, which are in ``recording.sdk``.
    span_name: str
    span_kind: SpanKind
    #: Nanoseconds since the epoch.
    start_ns: int
    end_ns: int | None
    span_status: Status
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
    #: Whether the limits have been applied to all that was set so far. Not in a slot: most spans never need it.
    limited = False
    made_context: SpanContext | None
    made_events: BoundedList[Any] | None
    made_links: BoundedList[Any] | None

    # ----- what our instrumentations call

    def set_shared(self, shared: tuple[SharedAttributes, ...]) -> None:
        """Set shared attributes."""
        if self.own is None and not self.factory.bounded:
            self.shared += shared
        else:
            # The later value of a name replaces the earlier one.
            for part in shared:
                self.set_own(part.attributes)

    def set_after_end(self, shared: SharedAttributes) -> None:
        """Set attributes that are known after the end: of the sampling decision, or of a running request."""
        if self.own is None:
            self.shared += (shared,)
            return
        self.own = {**self.own, **shared.attributes}
        if len(self.own) > self.factory.own_attributes:
            self._apply_limits()

    # ----- the API

    def get_span_context(self) -> SpanContext:
        made = self.made_context
        if self.undecided is not None and self.undecided.kept and not self.flags & SAMPLED:
            # The trace was kept in the meantime: later calls to other services carry the flag.
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
        return self.end_ns is None

    def set_attribute(self, key: str, value: Any) -> None:
        if self.factory.sanitizer is not None:
            self.set_attributes({key: value})
            return
        if self.end_ns is None and (key.__class__ is not str or not key) and self.factory.most_attributes:
            # The SDK checks what an attribute may be, and logs its own line.
            checked = BoundedAttributes(1, immutable=False)
            checked[key] = value
            self.dropped += checked.dropped
            self.set_own(checked)
            return
        self.set_own({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        sanitizer = self.factory.sanitizer
        self.set_own(attributes if sanitizer is None else sanitizer.attributes(attributes))

    def set_own(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of this app, which need no sanitizing."""
        if self.end_ns is not None:
            log_hourly("ended-attributes", "Setting attributes on the ended span %s.", self.span_name)
            return
        factory = self.factory
        plain = factory.plain
        if factory.bounded:
            if not factory.most_attributes:
                self.dropped += len(attributes)
                return
            if not self.limited:
                self._apply_limits()
        own = self.own
        if own is None:
            own = self.own = {}
        for key, value in attributes.items():
            if value.__class__ not in plain or key.__class__ is not str or not key:
                checked = BoundedAttributes(1, {key: value}, False, factory.limits.max_span_attribute_length)
                self.dropped += checked.dropped
                if not checked:
                    continue
                ((key, value),) = checked.items()
            if key in own:
                # It becomes the newest one.
                del own[key]
            elif len(own) >= factory.own_attributes:
                own = self._make_room(key)
            else:
                for part in self.shared:
                    if key in part.attributes:
                        self.own = own = self._ordered()
                        self.shared = ()
                        del own[key]
                        break
            own[key] = value

    def _make_room(self, key: str) -> dict[str, Any]:
        """Return the attributes, without the oldest one if that is what ``key`` needs."""
        own = self._apply_limits() if self.shared or not self.limited else self.own
        assert own is not None
        if key in own:
            del own[key]
        elif len(own) >= self.factory.most_attributes:
            del own[next(iter(own))]
            self.dropped += 1
        return own

    def _apply_limits(self) -> dict[str, Any]:
        """Drop the oldest attributes beyond the limit, and cut long values. Return what is left.

        The SDK does so with each attribute that is set.
        """
        factory = self.factory
        own = self._ordered()
        if factory.limits.max_span_attribute_length is not None:
            own = dict(BoundedAttributes(None, own, True, factory.limits.max_span_attribute_length))
        while len(own) > factory.most_attributes:
            del own[next(iter(own))]
            self.dropped += 1
        self.own = own
        self.shared = ()
        self.limited = True
        return own

    def update_name(self, name: str) -> None:
        if self.end_ns is None:
            sanitizer = self.factory.sanitizer
            self.span_name = name if sanitizer is None else sanitizer.name(name)
        else:
            log_hourly("ended-name", "Renaming the ended span %s.", self.span_name)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        sanitizer = self.factory.sanitizer
        if sanitizer is not None:
            name = sanitizer.name(name)
            attributes = None if attributes is None else sanitizer.attributes(attributes)
        self._add(super().add_event, name, attributes, timestamp)

    def _add(self, method: Callable[..., None], *args: Any) -> None:
        """Call a method of the SDK's, which logs each call after the end."""
        if self.end_ns is None:
            method(*args)
        else:
            log_hourly(
                f"ended-{method.__name__}", "Calling %s on the ended span %s.", method.__name__, self.span_name
            )

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
        # The SDK prints the whole chain of exceptions, however long it is.
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
        """Add an event of this app, which needs no sanitizing."""
        self._add(super().add_event, name, attributes)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        sanitizer = self.factory.sanitizer
        if sanitizer is not None and attributes is not None:
            attributes = sanitizer.attributes(attributes)
        self._add(super().add_link, context, attributes)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        sanitizer = self.factory.sanitizer
        if sanitizer is not None:
            if isinstance(status, Status):
                status = Status(status.status_code, sanitizer.message(status.description))
            elif description is not None:
                description = sanitizer.message(description)
        self._add(super().set_status, status, description)

    def end(self, end_time: int | None = None) -> None:
        if self.end_ns is not None:
            log_hourly("ended-end", "Ending the ended span %s.", self.span_name)
            return
        self.end_ns = time_ns() if end_time is None else end_time
        factory = self.factory
        if factory.finishes:
            self._finish()
        processors = factory.current_processors
        if processors.known is not factory.multi[PROCESSORS]:
            processors = factory.processors()
        for ending in processors.on_ending:
            ending(self)
        if self.undecided is not None:
            self.undecided.end(self)
            return
        for on_end in processors.on_end:
            on_end(self)

    def name_running_request(self) -> None:
        """Add the name of the request that is still running, whose span is sent last, to one of its spans.

        A span that continues another process's trace, and does not show this by its kind, gets its own name: it is no
        part of a running request, even if its parent is not stored.
        """
        state = self.request_state
        name = ""
        if self.remote:
            if self.span_kind is SpanKind.SERVER or self.span_kind is SpanKind.CONSUMER:
                return
            name = self.span_name
        elif state is not None and not state.named and state.span is not None and state.span is not self:
            state.named = True
            name = state.running_name()
        if name:
            named: dict[str, Any] = {REQUEST_NAME: name}
            sanitizer = self.factory.sanitizer
            if sanitizer is not None and self.factory.redacts:
                named = sanitizer.last(named)
            self.set_after_end(SharedAttributes(named))

    def _finish(self) -> None:
        if self.factory.bounded:
            self._apply_limits()
        if self.factory.redacts:
            self._apply_redact()

    def _apply_redact(self) -> None:
        """Pass everything to the user's ``REDACT``, the last step before the span is sent."""
        sanitizer = self.factory.sanitizer
        assert sanitizer is not None
        self.own = sanitizer.last(self._merged())
        self.shared = ()
        if self.made_events:
            self.made_events = _with_attributes(
                self.made_events,
                lambda event, attributes: Event(event.name, attributes, event.timestamp),
                sanitizer.last,
            )
        if self.made_links:
            self.made_links = _with_attributes(
                self.made_links, lambda link, attributes: Link(link.context, attributes), sanitizer.last
            )
        description = self.span_status.description
        if description:
            # The description repeats the message of the exception.
            last = sanitizer.last({EXCEPTION_MESSAGE: description}).get(EXCEPTION_MESSAGE)
            self.span_status = Status(self.span_status.status_code, last)

    # ----- reading

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """The attributes, to be read only: changes are made by ``set_attribute``."""
        if self.factory.bounded:
            self._apply_limits()
        return MappingProxyType(self._merged())

    def _merged(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part in self.shared:
            merged.update(part.attributes)
        if self.own:
            merged.update(self.own)
        return merged

    def _ordered(self) -> dict[str, Any]:
        """Return the attributes in the order in which they were set last."""
        ordered: dict[str, Any] = {}
        for attributes in (*(part.attributes for part in self.shared), self.own or {}):
            for key, value in attributes.items():
                ordered.pop(key, None)
                ordered[key] = value
        return ordered

    name = property(attrgetter("span_name"))
    kind = property(attrgetter("span_kind"))
    start_time = property(attrgetter("start_ns"))
    end_time = property(attrgetter("end_ns"))
    status = property(attrgetter("span_status"))

    @property
    def dropped_attributes(self) -> int:
        if self.factory.bounded:
            self._apply_limits()
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
        return () if self.made_links is None else tuple(self.made_links)

    @property
    def dropped_events(self) -> int:
        return 0 if self.made_events is None else int(self.made_events.dropped)

    @property
    def dropped_links(self) -> int:
        return 0 if self.made_links is None else int(self.made_links.dropped)


def _with_attributes(
    parts: BoundedList[Any],
    make: Callable[[Any, BoundedAttributes], Any],
    change: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> BoundedList[Any]:
    """Return events or links with changed attributes: those that the SDK made cannot be changed."""
    made: list[Any] = []
    for part in parts:
        attributes = BoundedAttributes(None, change(part.attributes or {}))
        attributes.dropped = part.dropped_attributes
        made.append(make(part, attributes))
    changed: BoundedList[Any] = BoundedList.from_seq(len(made), made)
    changed.dropped = parts.dropped
    return changed
