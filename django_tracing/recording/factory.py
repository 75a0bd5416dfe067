"""Create the spans of one SDK tracer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import getrandbits
from time import time_ns
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, SynchronousMultiSpanProcessor
from opentelemetry.sdk.trace import Tracer as SDKTracer
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind

from django_tracing.faults import CONTAINED, contained, log_hourly
from django_tracing.recording.sdk import ON_ENDING, PROCESSORS, is_enabled, records_metrics, scope_of, span_limits_of
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import SAMPLED, SPAN_KEY, UNSET, RecordingSpan, UnsampledSpan, context_of
from django_tracing.recording.undecided import SamplingDecision, UndecidedTrace, undecided_traces
from django_tracing.redaction.attributes import AttributeSanitizer

__all__ = ["SpanFactory", "new_child"]

_logger = logging.getLogger("django_tracing")


#: TraceFlags.RANDOM_TRACE_ID, which the API of old SDKs does not have.
_RANDOM: Final = 2


#: More attributes than a span gets from what it shares with others. With a limit twice as high, those that it has of
#: its own are counted as they are set, and only where there are many, the others are counted with them.
_MOST_SHARED: Final = 80
#: What stands for no limit.
_UNLIMITED: Final = 1_000_000_000
#: The types of attributes that are kept as they are.
_PLAIN: Final = frozenset({str, bool, int, float})


_new: Final = object.__new__


class _Processors:
    """The methods of the provider's processors that have to be called, as bound methods."""

    __slots__ = ("known", "on_end", "on_ending", "on_start")

    def __init__(self, known: object, processors: Sequence[SpanProcessor]) -> None:
        self.known = known
        self.on_start = _methods(processors, "on_start")
        self.on_ending = _methods(processors, ON_ENDING)
        self.on_end = _methods(processors, "on_end")


def _methods(processors: Sequence[SpanProcessor], name: str) -> tuple[Callable[..., Any], ...]:
    """Return the methods called ``name`` of the processors that have one. A processor may be of any type."""
    methods: list[Callable[..., Any]] = []
    for processor in processors:
        method: Any = None
        # The base class's method does nothing. A processor may have none, or delegate to an object that has none.
        with suppress(Exception):
            if getattr(type(processor), name, None) is not getattr(SpanProcessor, name, None):
                method = getattr(processor, name)
        if callable(method):
            own = type(processor).__module__.startswith("django_tracing.")
            methods.append(method if own else _guarded(method))
    return tuple(methods)


def _guarded(method: Callable[..., Any]) -> Callable[..., None]:
    """Wrap ``method`` of another library's processor, so that its exceptions cost nothing else."""

    def call(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except CONTAINED as error:
            name = type(getattr(method, "__self__", method)).__qualname__
            log_hourly(
                f"processor-{name}", "The span processor %s raised %s; it is passed over.", name, type(error).__name__
            )

    return call


class SpanFactory:
    """Create the spans of one SDK tracer.

    ``keep`` decides whether a trace is kept, given the parent's SpanContext (None for a root) and the trace id. If it
    is None, the tracer's sampler is called for every span. ``passed_by`` are the classes of processors that our own
    spans are not passed to.
    """

    def __init__(
        self,
        tracer: SDKTracer,
        keep: Callable[[SpanContext | None, int], bool] | None = None,
        passed_by: tuple[type[SpanProcessor], ...] = (),
        sanitizer: AttributeSanitizer | None = None,
    ) -> None:
        #: Sanitizes the attributes that users and libraries set on these spans.
        self.sanitizer = sanitizer
        self.redacts = sanitizer is not None and sanitizer.redact is not None
        self.tracer = tracer
        self.keep = keep
        #: The attributes by which the first span of a trace describes the decision of ``keep``.
        self.root_shared: SharedAttributes | None = None
        #: Decides on traces that start here or come in, if the arguments of ``keep`` are not enough: given the
        #: request state, the name and kind of the first span, the parent's SpanContext or None, and the trace id.
        self.decide: Callable[[Any, str, SpanKind, SpanContext | None, int], SamplingDecision] | None = None
        #: Decides on a failed request whose caller did not keep it: given the request state, the name and the
        #: caller's context.
        self.decide_failed: Callable[[Any, str, SpanContext], SamplingDecision] | None = (
            None if keep is None else getattr(tracer.sampler, "decide_failed", None)
        )
        #: Whether a child is kept with its parent, without asking the sampler.
        self.follows = keep is not None
        self.instrumentation_scope: InstrumentationScope = scope_of(tracer)
        self.limits: SpanLimits = span_limits_of(tracer)
        most = self.limits.max_span_attributes
        length = self.limits.max_span_attribute_length
        #: How many attributes a span may have.
        self.most_attributes = _UNLIMITED if most is None else most
        #: Whether the attributes that a span is started with may be too many, or too long.
        self.bounded = most is not None and most <= _MOST_SHARED or length is not None
        #: How many attributes of its own a span may have before those that it shares have to be counted.
        self.own_attributes = 0 if self.bounded else self.most_attributes - _MOST_SHARED
        #: The types of attributes that need no check.
        self.plain = _PLAIN if length is None else _PLAIN - {str}
        #: Whether something is left to be done when a span ends.
        self.finishes = self.bounded or self.redacts
        self._passed_by = passed_by
        multi = tracer.span_processor
        #: What holds the provider's processors.
        self.multi: dict[str, Any] = (
            vars(multi) if type(multi) is SynchronousMultiSpanProcessor else {PROCESSORS: (multi,)}
        )
        self.current_processors = _Processors((), ())
        generator = tracer.id_generator
        self._span_id: Callable[[], int] = generator.generate_span_id
        self._trace_id: Callable[[], int] = generator.generate_trace_id
        # Old SDKs do not ask a generator.
        is_random = getattr(generator, "is_trace_id_random", None)
        self._root_flags = _RANDOM if is_random is not None and is_random() else 0
        self._own_ids = type(generator) is RandomIdGenerator

    @classmethod
    def of(
        cls,
        tracer: trace.Tracer,
        keep: Callable[[SpanContext | None, int], bool] | None = None,
        passed_by: tuple[type[SpanProcessor], ...] = (),
        sanitizer: AttributeSanitizer | None = None,
    ) -> SpanFactory | None:
        """Return the factory for ``tracer``; None if the tracer has a feature that these spans don't support."""
        if type(tracer) is not SDKTracer:
            return None
        try:
            if records_metrics(tracer):
                return None
            return cls(tracer, keep, passed_by, sanitizer)
        except AttributeError:
            _logger.debug("The SDK's tracer is another one: its own spans are used.", exc_info=True)
            return None

    def processors(self) -> _Processors:
        """Return the provider's current processors. Users may add processors at any time."""
        known = self.multi[PROCESSORS]
        if self.current_processors.known is not known:
            wanted = [processor for processor in known if not isinstance(processor, self._passed_by)]
            self.current_processors = _Processors(known, wanted)
        return self.current_processors

    def start(
        self,
        name: str,
        context: Context,
        kind: SpanKind,
        shared: tuple[SharedAttributes, ...],
        own: dict[str, Any] | None,
        start_time: int | None = None,
        request_state: Any = None,
    ) -> trace.Span:
        """Start a span below the current span of ``context``; ``start_time`` is in nanoseconds since the epoch."""
        parent: Any = context.get(SPAN_KEY)
        if parent.__class__ is RecordingSpan and parent.factory is self:
            return new_child(parent, name, kind, shared, own, start_time, context)
        return self._decide(parent, name, context, kind, shared, own, start_time, request_state)

    def _decide(
        self,
        current: Any,
        name: str,
        context: Context,
        kind: SpanKind,
        shared: tuple[SharedAttributes, ...],
        own: dict[str, Any] | None,
        start_time: int | None,
        request_state: Any,
    ) -> trace.Span:
        """Decide whether a root span, or a child of a span that is not ours, is kept, and start it."""
        if request_state is not None and request_state.ended_ns is not None:
            request_state.late += 1
        # OpenTelemetry's API accepts any object as the current span.
        parent: SpanContext | None = None if current is None else context_of(current)
        if not is_enabled(self.tracer):
            return NonRecordingSpan(trace.INVALID_SPAN_CONTEXT if parent is None else parent)
        if parent is None or not parent.is_valid:
            parent = None
            trace_id = (getrandbits(128) or 1) if self._own_ids else self._trace_id()
            flags = self._root_flags
            trace_state = None
        else:
            trace_id = parent.trace_id
            flags = parent.trace_flags & _RANDOM
            trace_state = parent.trace_state
        undecided: UndecidedTrace | None = None
        if self.keep is not None:
            if self.decide is not None and (parent is None or parent.is_remote):
                decision = self.decide(request_state, name, kind, parent, trace_id)
                undecided = decision.undecided
                trace_state = decision.trace_state or trace_state
                if not decision.kept and undecided is None:
                    return UnsampledSpan(trace_id, flags, trace_state)
                if decision.shared is not None:
                    shared += (decision.shared,)
                if decision.kept:
                    flags |= SAMPLED
            elif not self.keep(parent, trace_id):
                # Below an SDK span of an undecided trace.
                undecided = undecided_traces.get(trace_id) if undecided_traces else None
                if undecided is None:
                    return UnsampledSpan(trace_id, flags, trace_state)
            else:
                flags |= SAMPLED
                if parent is None and self.root_shared is not None:
                    shared += (self.root_shared,)
        else:
            given = {}
            for part in shared:
                given.update(part.attributes)
            given.update(own or {})
            with contained():
                result = self.tracer.sampler.should_sample(context, trace_id, name, kind, given, ())
            trace_state = result.trace_state
            if result.decision is Decision.DROP:
                return UnsampledSpan(trace_id, flags, trace_state)
            if result.decision is Decision.RECORD_AND_SAMPLE:
                flags |= SAMPLED
            more = {key: value for key, value in (result.attributes or {}).items() if given.get(key) != value}
            if more:
                own = {**(own or {}), **more}
        return self._record(
            name,
            context,
            kind,
            shared,
            own,
            start_time,
            request_state,
            parent,
            trace_id,
            flags,
            trace_state,
            undecided,
        )

    def start_failed(
        self, name: str, context: Context, shared: tuple[SharedAttributes, ...], start_time: int, request_state: Any
    ) -> trace.Span:
        """Start the span of a failed request whose caller, the current span of ``context``, did not keep the trace.

        It is made afterwards; it records nothing where this process would not have kept the request either.
        """
        parent = context_of(context.get(SPAN_KEY))
        if not parent.is_valid or not parent.is_remote or parent.trace_flags.sampled:
            return trace.INVALID_SPAN
        if self.decide_failed is None or not is_enabled(self.tracer):
            return trace.INVALID_SPAN
        decision = self.decide_failed(request_state, name, parent)
        if not decision.kept:
            return trace.INVALID_SPAN
        if decision.shared is not None:
            shared += (decision.shared,)
        flags = parent.trace_flags & _RANDOM | SAMPLED
        return self._record(
            name,
            context,
            SpanKind.SERVER,
            shared,
            None,
            start_time,
            request_state,
            parent,
            parent.trace_id,
            flags,
            parent.trace_state,
        )

    def _record(
        self,
        name: str,
        context: Context,
        kind: SpanKind,
        shared: tuple[SharedAttributes, ...],
        own: dict[str, Any] | None,
        start_time: int | None,
        request_state: Any,
        parent: SpanContext | None,
        trace_id: int,
        flags: int,
        trace_state: Any,
        undecided: UndecidedTrace | None = None,
    ) -> RecordingSpan:
        # new_child() repeats these assignments. A shared function or __init__ would take longer, for every span.
        span: RecordingSpan = _new(RecordingSpan)
        span.factory = self
        span.request_state = request_state
        span.span_name = name
        span.span_kind = kind
        span.shared = shared
        span.own = own
        span.trace_id = trace_id
        span.span_id = (getrandbits(64) or 1) if self._own_ids else self._span_id()
        span.parent_id = 0 if parent is None else parent.span_id
        span.parent_span = parent
        span.flags = flags
        span.trace_state = trace_state
        span.made_context = span.made_events = span.made_links = span.end_ns = None
        span.span_status = UNSET
        span.remote = parent is not None and parent.is_remote
        span.dropped = 0
        span.undecided = undecided
        if undecided is not None and undecided.root is None and not undecided.decided:
            undecided.start(span)
        span.start_ns = time_ns() if start_time is None else start_time
        for on_start in self.processors().on_start:
            on_start(span, parent_context=context)
        return span


def new_child(
    parent: RecordingSpan,
    name: str,
    kind: SpanKind,
    shared: tuple[SharedAttributes, ...],
    own: dict[str, Any] | None,
    start_time: int | None,
    context: Context | None,
) -> trace.Span:
    """Start a span below ``parent`` with the same factory, in ``context`` (default: the current one)."""
    factory = parent.factory
    if parent.end_ns is not None and parent.request_state is not None:
        parent.request_state.late += 1
    undecided = parent.undecided
    if undecided is not None:
        if undecided.decided and not undecided.kept:
            return UnsampledSpan(parent.trace_id, parent.flags, parent.trace_state)
    elif not (factory.follows and parent.flags & SAMPLED):
        context = get_current() if context is None else context
        return factory._decide(parent, name, context, kind, shared, own, start_time, parent.request_state)
    # The same assignments as in _record(), written out for speed: most spans are children.
    span: RecordingSpan = _new(RecordingSpan)
    span.factory = factory
    span.request_state = parent.request_state
    span.span_name = name
    span.span_kind = kind
    span.shared = shared
    span.own = own
    span.trace_id = parent.trace_id
    span.span_id = (getrandbits(64) or 1) if factory._own_ids else factory._span_id()
    span.parent_id = parent.span_id
    span.parent_span = parent
    span.flags = parent.flags
    span.trace_state = parent.trace_state
    span.made_context = span.made_events = span.made_links = span.end_ns = None
    span.span_status = UNSET
    span.remote = False
    span.dropped = 0
    span.undecided = undecided
    span.start_ns = time_ns() if start_time is None else start_time
    processors = factory.current_processors
    if processors.known is not factory.multi[PROCESSORS]:
        processors = factory.processors()
    if processors.on_start:
        context = get_current() if context is None else context
        for on_start in processors.on_start:
            on_start(span, parent_context=context)
    return span
