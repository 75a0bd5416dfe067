"""The spans of our own instrumentations: the SDK's ``Span`` in all that is asked of it, at a fraction of its cost.

The SDK's span copies and checks every attribute one by one, makes a lock and three bounded collections, and is copied
once more when it ends. Most of what our spans say is said by thousands of them: a :class:`Prepared` set of attributes
is checked once, encoded once, and shared. What is rarely asked for (the SpanContext, events, links, the merged
attributes) is made when it is asked for. Samplers, processors and exporters of any origin are given what they expect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import getrandbits
from threading import Lock
from time import time_ns
from typing import Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, SynchronousMultiSpanProcessor
from opentelemetry.sdk.trace import Tracer as SDKTracer
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from django_tracing.attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
    SAMPLING_LOST,
    Attributes,
    AttributeValue,
)
from django_tracing.guidelines import STACKTRACE_LENGTH, Guidelines
from django_tracing.redaction import redacted_stack

__all__ = [
    "SPAN_KEY",
    "UNSET",
    "Origin",
    "Pending",
    "Prepared",
    "RecordingSpan",
    "UnsampledSpan",
    "Verdict",
    "context_of",
    "late",
    "new_child",
    "pendings",
]

_logger = logging.getLogger("django_tracing")

#: Where OpenTelemetry's API keeps the current span in a context.
SPAN_KEY: Final[str] = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))

_SAMPLED: Final = int(TraceFlags.SAMPLED)
_RANDOM: Final = int(TraceFlags.RANDOM_TRACE_ID)
#: The status of a span that nobody gave one.
UNSET: Final = Status(StatusCode.UNSET)
_PLAIN: Final = frozenset({str, bool, int, float})
#: Fewer attributes a span than our own ones may be: the SDK's span drops the oldest, one by one.
_FEWEST_ATTRIBUTES: Final = 64

_new: Final = object.__new__


class Prepared:
    """Attributes that many spans share, with their place for the encoding; not to be changed."""

    __slots__ = ("attributes", "encoded")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        #: As the exporter last encoded them.
        self.encoded: bytes | None = None


class Verdict(NamedTuple):
    """What became of a trace that begins in this process, or comes in."""

    kept: bool
    #: What waits for the decision, where it can't be made yet or may be overruled by how the request goes.
    pending: Pending | None = None
    #: What its first span says of the decision.
    part: Prepared | None = None
    #: The tracestate to go on with; None: the caller's.
    state: TraceState | None = None


#: How many ended spans of one trace, and of all, wait for a decision at most.
_MOST_WAITING: Final = 1000
_MOST_WAITING_IN_ALL: Final = 20_000
#: How many undecided traces are known at most: one whose first span is never ended is never decided.
_MOST_PENDING: Final = 10_000
#: What waits, by trace id: spans of the SDK's own find it by that. The oldest stands first.
pendings: Final[dict[int, Pending]] = {}
_waiting_in_all = 0


class Pending:
    """The spans of a trace that is recorded though nobody knows yet whether it is kept. No method raises.

    Its first span decides when it ends: ``judge`` is asked for the last time, an error or a long time may keep what
    the rate passed over. Until then what is sent to other services says "not sampled", unless it was decided before.
    """

    __slots__ = ("deadline", "decided", "ended", "judge", "keep_errors", "kept", "lost", "root", "trace_id")

    def __init__(
        self,
        trace_id: int,
        judge: Callable[[bool], Verdict | None] | None,
        *,
        keep_errors: bool = False,
        slower_than: float | None = None,
    ) -> None:
        self.trace_id = trace_id
        #: Decides by who the user is: None while nobody knows (unless it is called with True, for the last time).
        self.judge = judge
        self.keep_errors = keep_errors
        #: Nanoseconds from which on a trace is kept.
        self.deadline = None if slower_than is None else int(slower_than * 1e9)
        self.kept = False
        self.decided = False
        self.root: RecordingSpan | None = None
        self.ended: list[ReadableSpan] = []
        self.lost = 0

    def begin(self, root: RecordingSpan) -> None:
        self.root = root
        if len(pendings) >= _MOST_PENDING:
            self._forget_oldest()
        pendings[self.trace_id] = self

    @staticmethod
    def _forget_oldest() -> None:
        try:
            oldest = pendings.pop(next(iter(pendings)))
        except (KeyError, RuntimeError, StopIteration):  # another thread was quicker
            return
        oldest.decided = True
        oldest.root = None
        oldest._discard()

    def reconsider(self) -> None:
        """Asks again, now that the user is known."""
        if self.judge is not None and not self.kept:
            self._ask(last=False)

    def _ask(self, *, last: bool) -> None:
        judge = self.judge
        if judge is None:
            return
        verdict = judge(last)
        if verdict is None:
            return
        self.judge = None
        root = self.root
        if verdict.pending is not None:
            self.keep_errors = verdict.pending.keep_errors
            self.deadline = verdict.pending.deadline
        if root is not None and verdict.part is not None:
            # It may have ended already.
            if root.own is None:
                root.parts += (verdict.part,)
            else:
                root.own = {**root.own, **verdict.part.attributes}
        self.kept = verdict.kept
        if self.kept:
            self._release()

    def _release(self) -> None:
        """Sends on what waits."""
        global _waiting_in_all
        waiting, self.ended = self.ended, []
        # Not in one line: while it is counted, another thread may have its turn, and its change would be lost.
        count = len(waiting)
        _waiting_in_all -= count
        for span in waiting:
            _forward(span)

    def end(self, span: RecordingSpan) -> None:
        """A span of it has ended."""
        if self.decided:
            if self.kept:
                _forward(span)
            return
        if span is not self.root:
            if self.kept:
                _forward(span)
                return
            if len(self.ended) >= _MOST_WAITING or _waiting_in_all >= _MOST_WAITING_IN_ALL:
                self.lost += 1
                return
            self._wait(span)
            return
        try:
            self._ask(last=True)
            if not self.kept:
                self._overrule(span)
        finally:
            self._decide(span)

    def _overrule(self, root: RecordingSpan) -> None:
        """Keeps what failed or took long, though it was passed over."""
        failed = self.keep_errors and root._status.status_code is StatusCode.ERROR
        slow = self.deadline is not None and (root._end_time or 0) - root._start_time >= self.deadline
        self.kept = failed or slow

    def _decide(self, root: RecordingSpan) -> None:
        self.decided = True
        pendings.pop(self.trace_id, None)
        self.root = None
        if self.kept:
            self._release()
            if self.lost:
                root.own = {**(root.own or {}), SAMPLING_LOST: self.lost}
            _forward(root)
        else:
            self._discard()

    def _discard(self) -> None:
        """Lets go of what waits: one by one, since another thread may be adding to it."""
        global _waiting_in_all
        ended = self.ended
        while ended:
            try:
                ended.pop()
            except IndexError:  # another thread was quicker
                return
            _waiting_in_all -= 1

    def _wait(self, span: ReadableSpan) -> None:
        global _waiting_in_all
        _waiting_in_all += 1
        self.ended.append(span)
        # Another thread may have decided a moment ago.
        if self.kept:
            self._release()
        elif self.decided:
            self._discard()

    def end_of_another(self, span: ReadableSpan) -> bool:
        """Keeps a span of the SDK's own until it is decided; False where it was passed over."""
        if self.kept:
            _forward(span)
            return True
        if self.decided or len(self.ended) >= _MOST_WAITING or _waiting_in_all >= _MOST_WAITING_IN_ALL:
            return False
        self._wait(span)
        return True


#: What takes the SDK's own spans of a trace that was kept late: the queue.
late: list[Callable[[ReadableSpan], None]] = []


def _forward(span: ReadableSpan) -> None:
    """Gives an ended span to the processors, as a sampled one."""
    try:
        if span.__class__ is RecordingSpan:
            span.flags |= _SAMPLED
            span.made_context = None
            span.pending = None
            for on_end in span.origin.processors().on_end:
                on_end(span)
            return
        known = span.get_span_context()
        if known is not None:
            span._context = SpanContext(
                known.trace_id,
                known.span_id,
                known.is_remote,
                TraceFlags(known.trace_flags | _SAMPLED),
                known.trace_state,
            )
            for take in late:
                take(span)
    except Exception:
        _logger.debug("A span that was kept late could not be sent.", exc_info=True)


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
    """A span made by an :class:`Origin`. What is not here is the SDK's own code, on lazily made state."""

    __slots__ = (
        *("_end_time", "_kind", "_name", "_start_time", "_status"),
        *(
            "dropped",
            "flags",
            "links_made",
            "made_context",
            "made_events",
            "origin",
            "own",
            "parent_id",
            "parent_span",
            "pending",
        ),
        *("parts", "span_id", "trace_id", "trace_state"),
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
    origin: Origin
    trace_id: int
    span_id: int
    parent_id: int
    flags: int
    #: Whether the parent is in another process.
    remote: bool
    #: The ``correlation.Scope`` that it was started in.
    scope: Any
    #: How many attributes found no place.
    dropped: int
    trace_state: TraceState | None
    parent_span: RecordingSpan | SpanContext | None
    parts: tuple[Prepared, ...]
    own: dict[str, Any] | None
    #: Where the trace waits for a decision.
    pending: Pending | None
    made_context: SpanContext | None
    made_events: BoundedList[Any] | None
    links_made: BoundedList[Any] | None

    # ----- what our instrumentations call

    def add(self, parts: tuple[Prepared, ...]) -> None:
        """Adds shared attributes."""
        if self.own is None:
            self.parts += parts
        else:
            # Of a name that was set before, the later value counts.
            for part in parts:
                self.put(part.attributes)

    # ----- the API

    def get_span_context(self) -> SpanContext:
        made = self.made_context
        if self.pending is not None and self.pending.kept and not self.flags & _SAMPLED:
            # Decided since: what is called from here on carries it.
            self.flags |= _SAMPLED
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
        if self.origin.guidelines is not None:
            self.set_attributes({key: value})
            return
        if self._end_time is None and (value.__class__ not in _PLAIN or key.__class__ is not str or not key):
            # The SDK's own judgement of what an attribute may be, and its own log line.
            checked = BoundedAttributes(1, immutable=False)
            checked[key] = value
            self.dropped += checked.dropped
            if key not in checked:
                return
            value = checked[key]
        self.put({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        guidelines = self.origin.guidelines
        self.put(attributes if guidelines is None else guidelines.attributes(attributes))

    def put(self, attributes: Mapping[str, Any]) -> None:
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
                for part in self.parts:
                    if key in part.attributes:
                        self.own = own = {**self._merged(), **own}
                        self.parts = ()
                        break
                else:
                    if len(own) >= self.origin.own_attributes:
                        self.dropped += 1
                        continue
            own[key] = value

    def update_name(self, name: str) -> None:
        if self._end_time is None:
            guidelines = self.origin.guidelines
            self._name = name if guidelines is None else guidelines.name(name)
        else:
            _logger.warning("Renaming the ended span %s.", self._name)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        guidelines = self.origin.guidelines
        if guidelines is not None:
            name = guidelines.name(name)
            attributes = None if attributes is None else guidelines.attributes(attributes)
        super().add_event(name, attributes, timestamp)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        if self.origin.guidelines is None:
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

    def put_event(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Adds an event that may leave as it is: this app's own."""
        super().add_event(name, attributes)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        guidelines = self.origin.guidelines
        if guidelines is not None and attributes is not None:
            attributes = guidelines.attributes(attributes)
        super().add_link(context, attributes)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        guidelines = self.origin.guidelines
        if guidelines is not None:
            if isinstance(status, Status):
                status = Status(status.status_code, guidelines.message(status.description))
            elif description is not None:
                description = guidelines.message(description)
        super().set_status(status, description)

    def end(self, end_time: int | None = None) -> None:
        if self._end_time is not None:
            _logger.warning("Ending the ended span %s.", self._name)
            return
        self._end_time = time_ns() if end_time is None else end_time
        origin = self.origin
        if origin.redacts:
            self._redact_last()
        processors = origin._processors
        if processors.known is not origin.multi._span_processors:
            processors = origin.processors()
        for ending in processors.on_ending:
            ending(self)
        if self.pending is not None:
            self.pending.end(self)
            return
        for on_end in processors.on_end:
            on_end(self)

    def _redact_last(self) -> None:
        """Gives everything to the user's ``REDACT``, the last one before it is sent."""
        guidelines = self.origin.guidelines
        assert guidelines is not None
        self.own = guidelines.last(self._merged())
        self.parts = ()
        for said in (*self.events, *self.links):
            if said._attributes:
                said._attributes = BoundedAttributes(None, guidelines.last(said._attributes))
        description = self._status.description
        if description:
            # It is the message of an exception, said once more.
            last = guidelines.last({EXCEPTION_MESSAGE: description}).get(EXCEPTION_MESSAGE)
            self._status = Status(self._status.status_code, last)

    # ----- reading

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        return self._merged()

    def _merged(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part in self.parts:
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
        return self.origin.tracer.resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        return self.origin.scope

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
        return self.origin.scope

    @property
    def _instrumentation_info(self) -> Any:  # type: ignore[override]
        return self.origin.tracer.instrumentation_info

    @property
    def _sampler(self) -> Any:  # type: ignore[override]
        return self.origin.tracer.sampler

    @property
    def _span_processor(self) -> Any:  # type: ignore[override]
        return self.origin.tracer.span_processor

    @property
    def _attributes(self) -> dict[str, Any]:  # type: ignore[override]
        return self._merged()

    @property
    def _limits(self) -> SpanLimits:
        return self.origin.limits

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


class _Processors:
    """What the provider's processors want to be told, as bound methods."""

    __slots__ = ("known", "on_end", "on_ending", "on_start")

    def __init__(self, known: object, processors: Sequence[SpanProcessor]) -> None:
        self.known = known
        self.on_start = _methods(processors, "on_start")
        self.on_ending = _methods(processors, "_on_ending")
        self.on_end = _methods(processors, "on_end")


def _methods(processors: Sequence[SpanProcessor], name: str) -> tuple[Callable[..., Any], ...]:
    """The methods called ``name`` of those that have one. A processor may be anything that looks like one."""
    methods: list[Callable[..., Any]] = []
    for processor in processors:
        method: Any = None
        # The base class's own does nothing; and a processor may have none, or delegate to something that has none.
        with suppress(Exception):
            if getattr(type(processor), name, None) is not getattr(SpanProcessor, name):
                method = getattr(processor, name)
        if callable(method):
            own = type(processor).__module__.startswith("django_tracing.")
            methods.append(method if own else _guarded(method))
    return tuple(methods)


_blamed: set[str] = set()


def _guarded(method: Callable[..., Any]) -> Callable[..., None]:
    """``method`` of somebody else's processor: what it raises costs itself, not the span, nor the others."""

    def call(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            name = type(getattr(method, "__self__", method)).__qualname__
            if name not in _blamed and len(_blamed) < 10:
                _blamed.add(name)
                _logger.warning("The span processor %s raised %s; it is passed over.", name, type(error).__name__)

    return call


class _Single:
    """Another kind of multi processor, as if it were the only one of ours."""

    def __init__(self, processor: SpanProcessor) -> None:
        self._span_processors = (processor,)


class Origin:
    """Where the spans of one SDK tracer come from.

    ``keep`` decides, without being told more than it needs, whether a trace is kept: given the parent's SpanContext
    (None for a root) and the trace id. With None the tracer's sampler is asked, for every span.
    ``passed_by`` are processors that want nothing of our own spans.
    """

    def __init__(
        self,
        tracer: SDKTracer,
        keep: Callable[[SpanContext | None, int], bool] | None = None,
        passed_by: tuple[type[SpanProcessor], ...] = (),
        guidelines: Guidelines | None = None,
    ) -> None:
        #: What is made of what others say by these spans.
        self.guidelines = guidelines
        self.redacts = guidelines is not None and guidelines.redact is not None
        self.tracer = tracer
        self.keep = keep
        #: What the first span of a trace that ``keep`` decided on says of it.
        self.root_part: Prepared | None = None
        #: Decides on traces that begin here or come in, where there is more to it than ``keep`` is told: given the
        #: scope, the name and kind of the first span, the parent's SpanContext or None, the trace id.
        self.judge: Callable[[Any, str, SpanKind, SpanContext | None, int], Verdict] | None = None
        #: Decides on a failed request that its caller did not keep: given the scope, its name, the caller's context.
        self.judge_failed: Callable[[Any, str, SpanContext], Verdict] | None = (
            None if keep is None else getattr(tracer.sampler, "judge_failed", None)
        )
        #: Whether a child is kept with its parent, whatever the sampler says.
        self.follows = keep is not None
        self.scope: InstrumentationScope = tracer._instrumentation_scope
        self.limits: SpanLimits = tracer._span_limits
        #: How many attributes of its own a span may have, beside shared ones.
        most = self.limits.max_span_attributes
        self.own_attributes = 1_000_000 if most is None else most - _FEWEST_ATTRIBUTES // 2
        self._passed_by = passed_by
        multi = tracer.span_processor
        #: What holds the provider's processors.
        self.multi: Any = multi if type(multi) is SynchronousMultiSpanProcessor else _Single(multi)
        self._processors = _Processors((), ())
        generator = tracer.id_generator
        self._span_id: Callable[[], int] = generator.generate_span_id
        self._trace_id: Callable[[], int] = generator.generate_trace_id
        self._root_flags = _RANDOM if generator.is_trace_id_random() else 0
        self._own_ids = type(generator) is RandomIdGenerator

    @classmethod
    def of(
        cls,
        tracer: trace.Tracer,
        keep: Callable[[SpanContext | None, int], bool] | None = None,
        passed_by: tuple[type[SpanProcessor], ...] = (),
        guidelines: Guidelines | None = None,
    ) -> Origin | None:
        """The origin for ``tracer``; None for one that does something that these spans do not."""
        if type(tracer) is not SDKTracer:
            return None
        try:
            limits = tracer._span_limits
            counted = type(tracer._tracer_metrics).__name__ != "NoOpTracerMetrics"
            few = limits.max_span_attributes is not None and limits.max_span_attributes < _FEWEST_ATTRIBUTES
            if counted or few or limits.max_span_attribute_length is not None:
                return None
            return cls(tracer, keep, passed_by, guidelines)
        except AttributeError:
            _logger.debug("The SDK's tracer is another one: its own spans are used.", exc_info=True)
            return None

    def processors(self) -> _Processors:
        """The provider's processors now: users add theirs at any time."""
        known = self.multi._span_processors
        if self._processors.known is not known:
            wanted = [processor for processor in known if not isinstance(processor, self._passed_by)]
            self._processors = _Processors(known, wanted)
        return self._processors

    def start(
        self,
        name: str,
        context: Context,
        kind: SpanKind,
        parts: tuple[Prepared, ...],
        own: dict[str, Any] | None,
        start_time: int | None = None,
        scope: Any = None,
    ) -> trace.Span:
        """A started span below the current one of ``context``; ``start_time`` is nanoseconds since the epoch."""
        parent: Any = context.get(SPAN_KEY)
        if parent.__class__ is RecordingSpan and parent.origin is self:
            return new_child(parent, name, kind, parts, own, start_time, context)
        return self._decide(parent, name, context, kind, parts, own, start_time, scope)

    def _decide(
        self,
        current: Any,
        name: str,
        context: Context,
        kind: SpanKind,
        parts: tuple[Prepared, ...],
        own: dict[str, Any] | None,
        start_time: int | None,
        scope: Any,
    ) -> trace.Span:
        """A root, or a child of a span that is not ours: it is to be decided whether it is kept."""
        # The API lets anything stand in a context.
        parent: SpanContext | None = None if current is None else context_of(current)
        if not self.tracer._tracer_config.is_enabled:
            return NonRecordingSpan(trace.INVALID_SPAN_CONTEXT if parent is None else parent)
        if parent is None or not parent.is_valid:
            parent = None
            trace_id = (getrandbits(128) or 1) if self._own_ids else self._trace_id()
            flags = self._root_flags
            state = None
        else:
            trace_id = parent.trace_id
            flags = parent.trace_flags & _RANDOM
            state = parent.trace_state
        pending: Pending | None = None
        if self.keep is not None:
            if self.judge is not None and (parent is None or parent.is_remote):
                verdict = self.judge(scope, name, kind, parent, trace_id)
                pending = verdict.pending
                state = verdict.state or state
                if not verdict.kept and pending is None:
                    return UnsampledSpan(trace_id, flags, state)
                if verdict.part is not None:
                    parts += (verdict.part,)
                if verdict.kept:
                    flags |= _SAMPLED
            elif not self.keep(parent, trace_id):
                # Below a span of the SDK's own, in a trace that waits for its decision.
                pending = pendings.get(trace_id) if pendings else None
                if pending is None:
                    return UnsampledSpan(trace_id, flags, state)
            else:
                flags |= _SAMPLED
                if parent is None and self.root_part is not None:
                    parts += (self.root_part,)
        else:
            given = {}
            for part in parts:
                given.update(part.attributes)
            given.update(own or {})
            result = self.tracer.sampler.should_sample(context, trace_id, name, kind, given, ())
            state = result.trace_state
            if result.decision is Decision.DROP:
                return UnsampledSpan(trace_id, flags, state)
            if result.decision is Decision.RECORD_AND_SAMPLE:
                flags |= _SAMPLED
            more = {key: value for key, value in (result.attributes or {}).items() if given.get(key) != value}
            if more:
                own = {**(own or {}), **more}
        return self._record(
            name, context, kind, parts, own, start_time, scope, parent, trace_id, flags, state, pending
        )

    def start_failed(
        self, name: str, context: Context, parts: tuple[Prepared, ...], start_time: int, scope: Any
    ) -> trace.Span:
        """The span of a failed request whose caller, the current span of ``context``, did not keep it.

        It is made afterwards; it records nothing where this process would not have kept the request either.
        """
        parent = context_of(context.get(SPAN_KEY))
        if not parent.is_valid or not parent.is_remote or parent.trace_flags.sampled:
            return trace.INVALID_SPAN
        if self.judge_failed is None or not self.tracer._tracer_config.is_enabled:
            return trace.INVALID_SPAN
        verdict = self.judge_failed(scope, name, parent)
        if not verdict.kept:
            return trace.INVALID_SPAN
        if verdict.part is not None:
            parts += (verdict.part,)
        flags = parent.trace_flags & _RANDOM | _SAMPLED
        return self._record(
            name,
            context,
            SpanKind.SERVER,
            parts,
            None,
            start_time,
            scope,
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
        parts: tuple[Prepared, ...],
        own: dict[str, Any] | None,
        start_time: int | None,
        scope: Any,
        parent: SpanContext | None,
        trace_id: int,
        flags: int,
        state: Any,
        pending: Pending | None = None,
    ) -> RecordingSpan:
        span: RecordingSpan = _new(RecordingSpan)
        span.origin = self
        span.scope = scope
        span._name = name
        span._kind = kind
        span.parts = parts
        span.own = own
        span.trace_id = trace_id
        span.span_id = (getrandbits(64) or 1) if self._own_ids else self._span_id()
        span.parent_id = 0 if parent is None else parent.span_id
        span.parent_span = parent
        span.flags = flags
        span.trace_state = state
        span.made_context = span.made_events = span.links_made = span._end_time = None
        span._status = UNSET
        span.remote = parent is not None and parent.is_remote
        span.dropped = 0
        span.pending = pending
        if pending is not None and pending.root is None and not pending.decided:
            pending.begin(span)
        span._start_time = time_ns() if start_time is None else start_time
        for on_start in self.processors().on_start:
            on_start(span, parent_context=context)
        return span


def new_child(
    parent: RecordingSpan,
    name: str,
    kind: SpanKind,
    parts: tuple[Prepared, ...],
    own: dict[str, Any] | None,
    start_time: int | None,
    context: Context | None,
) -> trace.Span:
    """A started span below ``parent``, of its origin; ``context`` (default: the current one) is where it stands."""
    origin = parent.origin
    pending = parent.pending
    if pending is not None:
        if pending.decided and not pending.kept:
            return UnsampledSpan(parent.trace_id, parent.flags, parent.trace_state)
    elif not (origin.follows and parent.flags & _SAMPLED):
        context = get_current() if context is None else context
        return origin._decide(parent, name, context, kind, parts, own, start_time, parent.scope)
    span: RecordingSpan = _new(RecordingSpan)
    span.origin = origin
    span.scope = parent.scope
    span._name = name
    span._kind = kind
    span.parts = parts
    span.own = own
    span.trace_id = parent.trace_id
    span.span_id = (getrandbits(64) or 1) if origin._own_ids else origin._span_id()
    span.parent_id = parent.span_id
    span.parent_span = parent
    span.flags = parent.flags
    span.trace_state = parent.trace_state
    span.made_context = span.made_events = span.links_made = span._end_time = None
    span._status = UNSET
    span.remote = False
    span.dropped = 0
    span.pending = pending
    span._start_time = time_ns() if start_time is None else start_time
    processors = origin._processors
    if processors.known is not origin.multi._span_processors:
        processors = origin.processors()
    if processors.on_start:
        context = get_current() if context is None else context
        for on_start in processors.on_start:
            on_start(span, parent_context=context)
    return span
