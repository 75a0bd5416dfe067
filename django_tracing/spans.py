"""Starting and ending spans: what every instrumentation is built from, wrapped so that no error of ours gets out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from threading import Lock
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, SpanKind, StatusCode

from django_tracing import code_locations
from django_tracing.attributes import (
    ERROR_TYPE,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
    Attributes,
    Convention,
)
from django_tracing.conf import get_settings
from django_tracing.correlation import Scope, get_scope, incoming_id, with_scope
from django_tracing.guidelines import MESSAGE_LENGTH, STACKTRACE_LENGTH, Guidelines
from django_tracing.identity import identify
from django_tracing.recording import SPAN_KEY, Origin, Prepared, RecordingSpan, context_of, new_child
from django_tracing.redaction import cut, redact_db_error, redacted_stack
from django_tracing.untraced import SUPPRESSED

__all__ = [
    "Begun",
    "Cache",
    "ChildSpan",
    "SuppressedUpstream",
    "add",
    "add_event",
    "attach",
    "begin",
    "collect",
    "current_context",
    "detach",
    "finish",
    "log_once",
    "prepare",
    "guidelines",
    "record_error",
    "recording",
    "recording_span",
    "rename",
    "say_of_request",
    "span_context",
    "start_child",
    "start_failed_request_span",
    "start_request_span",
    "start_span",
    "tracing",
    "use_tracer",
    "with_span",
]

#: The instrumentation scope of all our spans.
SCOPE_NAME: Final = "django_tracing"

_logger = logging.getLogger("django_tracing")
_logged: set[str] = set()

#: What is made of attributes that users and libraries set.
_guidelines = Guidelines()
_tracer: trace.Tracer = trace.NoOpTracer()
_origin: Origin | None = None
_convention: Convention = Convention()
_used = False


def use_tracer(
    tracer: trace.Tracer,
    convention: Convention,
    origin: Origin | None = None,
    guidelines: Guidelines | None = None,
) -> None:
    """Makes our spans come from ``tracer`` under ``convention``'s names; called by the provider's set-up.

    ``origin`` makes them instead, cheaper, where ``tracer`` is the SDK's own.
    """
    global _tracer, _convention, _origin, _guidelines, _used
    _tracer = tracer
    _convention = convention
    _origin = origin
    _guidelines = Guidelines() if guidelines is None else guidelines
    _used = True
    forget_described()


def forget_described() -> None:
    """Forgets what spans are called and say, which is then made anew."""
    for cache in _caches:
        cache.forget()


def convention() -> Convention:
    """The attribute names in force."""
    return _convention


def guidelines() -> Guidelines:
    """What is made of attributes that users and libraries set."""
    return _guidelines


def tracing() -> bool:
    """Whether this process traces at all."""
    return _used


_caches: list[Cache[Any, Any]] = []

K = TypeVar("K")
V = TypeVar("V")


class Cache(dict[K, V]):
    """What repeats from span to span, by what it is made of; at most ``size`` of it, forgotten with the tracer."""

    def __init__(self, size: int = 2048) -> None:
        self._size = size
        #: Another object after each change of tracer.
        self.generation = object()
        _caches.append(self)

    def forget(self) -> None:
        self.clear()
        self.generation = object()

    def keep(self, key: K, value: V) -> V:
        # Emptied as a whole: what is in use is soon back, and nobody has to count uses.
        if len(self) >= self._size:
            self.clear()
        self[key] = value
        return value


def prepare(attributes: Attributes) -> Prepared:
    """``attributes`` under the names in force, to be given to many spans."""
    return Prepared(_convention.apply(attributes))


def log_once(key: str, message: str, *args: object) -> None:
    """Logs a fault of our own once a process (``key`` tells faults apart): a warning, never a flood."""
    if key not in _logged:
        _logged.add(key)
        with suppress(Exception):
            _logger.warning(message, *args, exc_info=True)


def _current_variable() -> ContextVar[Context] | None:
    """The variable that OpenTelemetry keeps the current context in; None where it is kept in another way."""
    token = context_api.attach(context_api.get_current())
    context_api.detach(token)
    variable = getattr(token, "var", None)
    return variable if isinstance(variable, ContextVar) else None


_variable: Final = _current_variable()
#: The current context. The API's own way to it is three calls of Python long.
current_context: Final[Callable[[], Context]] = context_api.get_current if _variable is None else _variable.get


def span_context(context: Context | None = None) -> SpanContext:
    """The SpanContext of the span in ``context`` (default: the current one); an invalid one where there is none."""
    return context_of((current_context() if context is None else context).get(SPAN_KEY))


def recording() -> bool:
    """Whether a traced thing should make a span: the current span records. The first thing to ask."""
    return recording_span() is not None


def recording_span() -> Span | None:
    """The current span when it records, to be given to :func:`start_child`: the first thing to ask."""
    span: Any = current_context().get(SPAN_KEY)
    if span.__class__ is RecordingSpan:
        return span if span._end_time is None else None
    return None if span is None else _recording(span)


def _recording(span: Any) -> Span | None:
    """``span`` when it is one, and records: the API lets anything stand in a context."""
    try:
        return span if isinstance(span, Span) and span.is_recording() is True else None
    except Exception:  # a span of somebody else's making
        return None


#: Makes a context current; what it gives is for :func:`detach`.
attach: Final[Callable[[Context], Token[Context]]] = context_api.attach if _variable is None else _variable.set


def detach(token: Token[Context] | None) -> None:
    """Takes back what :func:`attach` did.

    A generator that is closed by another task or by the garbage collector comes here in a context that never
    saw the token: OpenTelemetry's own ``detach`` logs an error each time, this says nothing.
    """
    if token is not None:
        try:  # noqa: SIM105 - it costs a third of suppress()
            token.var.reset(token)
        except (ValueError, RuntimeError):
            pass


def with_span(span: Span, context: Context | None = None) -> Context:
    """``context`` (default: the current one) with ``span`` as the current span."""
    return Context({**(current_context() if context is None else context), SPAN_KEY: span})


def start_span(
    name: str,
    attributes: Attributes | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    context: Context | None = None,
    start_time: int | None = None,
    parts: tuple[Prepared, ...] = (),
) -> Span:
    """A started span with the scope's common attributes; a span that records nothing if starting it fails.

    ``parts`` are attributes that it shares with others (see :func:`prepare`), ``attributes`` its own.
    ``start_time`` is nanoseconds since the epoch.
    """
    try:
        if context is None:
            context = current_context()
        scope = get_scope(context)
        if scope is not None:
            if not scope.user_known:
                identify(scope, get_settings())
            parts += scope.parts
        if attributes is not None and not _convention.unchanged:
            attributes = _convention.apply(attributes)
        if _origin is not None:
            return _origin.start(name, context, kind, parts, attributes, start_time, scope)
        merged: Attributes = {}
        for part in parts:
            merged.update(part.attributes)
        if attributes is not None:
            merged.update(attributes)
        span = _tracer.start_span(name, context, kind, merged, start_time=start_time)
        _note_name(span, name)
        return span
    except Exception:
        log_once("start_span", "A span could not be started; it is left out.")
        return INVALID_SPAN


def start_child(
    parent: Span,
    name: str,
    kind: SpanKind,
    parts: tuple[Prepared, ...],
    attributes: Attributes | None = None,
    start_time: int | None = None,
    context: Context | None = None,
) -> Span:
    """:func:`start_span` below ``parent``, which records and is current in ``context`` (default: the current one)."""
    try:
        if parent.__class__ is RecordingSpan and parent.origin is _origin:
            scope = parent.scope
            if scope is not None:
                if not scope.user_known:
                    identify(scope, get_settings())
                parts += scope.parts
            if attributes is not None and not _convention.unchanged:
                attributes = _convention.apply(attributes)
            return new_child(parent, name, kind, parts, attributes, start_time, context)
        return start_span(name, attributes, kind, context, start_time, parts)
    except Exception:
        log_once("start_span", "A span could not be started; it is left out.")
        return INVALID_SPAN


def finish(span: Span, parts: tuple[Prepared, ...] = ()) -> None:
    """Adds shared attributes and ends the span; never raises."""
    try:
        if parts:
            if span.__class__ is RecordingSpan and span.own is None:
                span.parts += parts
            else:
                add(span, parts)
        span.end()
    except Exception:
        log_once("end_span", "A span could not be ended; it is left out.")


def begin(
    name: str,
    attributes: Attributes,
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    context: Context | None = None,
    correlation_id: str | None = None,
) -> Begun | None:
    """A started span below the current one, or the first of a trace with a scope of its own.

    None where nothing is to be made: tracing is off, or the trace that is under way here is not sampled. A trace of
    another process that comes in with ``context`` (default: the current one) is continued as it says.
    ``correlation_id`` is for a new scope.
    """
    if not _used:
        return None
    try:
        if context is None:
            parent = recording_span()
            context = current_context()
        else:
            parent = _recording(context.get(SPAN_KEY))
        if parent is not None:
            parts: tuple[Prepared, ...] = ()
            if kind is SpanKind.CLIENT and code_locations.on is not False:
                parts = code_locations.located(parts)
            span = start_child(parent, name, kind, parts, attributes, context=context)
            return None if span is INVALID_SPAN else Begun(span, with_span(span, context), None)
        known = span_context(context)
        if known.is_valid and not known.is_remote:
            return None
        scope = get_scope(context)
        if scope is None or correlation_id is not None:
            scope = Scope(correlation_id or incoming_id({}))
            context = with_scope(scope, context)
        span = start_span(name, attributes, kind, context)
        if span is INVALID_SPAN:
            return None
        if scope.span is None:
            scope.span = span
        return Begun(span, with_span(span, context), scope)
    except Exception:
        log_once("begin", "A span could not be started; it is left out.")
        return None


class Begun(NamedTuple):
    """What :func:`begin` began."""

    span: Span
    #: In which the span is current.
    context: Context
    #: Of a span that is the first of its trace here.
    scope: Scope | None

    def end(self, error: BaseException | None = None, *, status: bool = True) -> None:
        """Ends it; ``error`` is recorded, with ``status`` as an error. Never raises."""
        if error is not None:
            record_error(self.span, error, status=status)
        if self.span.is_recording():
            end_span(self.span)
        if self.scope is not None and self.scope.span is self.span:
            # They would hold each other.
            self.scope.span = self.scope.told = None


def start_request_span(name: str, scope: Scope, context: Context, parts: tuple[Prepared, ...]) -> Span:
    """A request's started span below ``context``; a span that records nothing if starting it fails.

    It says what ``parts`` say: at its start no user is known.
    """
    try:
        if _origin is not None:
            return _origin.start(name, context, SpanKind.SERVER, parts, None, None, scope)
        return start_span(name, None, SpanKind.SERVER, context, None, parts)
    except Exception:
        log_once("start_span", "A span could not be started; it is left out.")
        return INVALID_SPAN


def start_failed_request_span(
    name: str, scope: Scope, context: Context, parts: tuple[Prepared, ...], start_time: int
) -> Span:
    """The span of a failed request that its caller, current in ``context``, did not keep, made afterwards.

    It records nothing where this site's own sampling does not keep the request either. ``start_time`` is nanoseconds
    since the epoch.
    """
    try:
        return INVALID_SPAN if _origin is None else _origin.start_failed(name, context, parts, start_time, scope)
    except Exception:
        log_once("start_span", "A span could not be started; it is left out.")
        return INVALID_SPAN


def add(span: Span, parts: tuple[Prepared, ...]) -> None:
    """Adds shared attributes to a started span; never raises."""
    try:
        if span.__class__ is RecordingSpan:
            span.add(parts)
        else:
            for part in parts:
                span.set_attributes(part.attributes)
    except Exception:
        log_once("set_attributes", "A span's attributes could not be set.")


def set_attributes(span: Span, attributes: Attributes) -> None:
    """Sets attributes under the names in force; never raises."""
    try:
        attributes = _convention.apply(attributes)
        if span.__class__ is RecordingSpan:
            span.put(attributes)
        else:
            span.set_attributes(attributes)
    except Exception:
        log_once("set_attributes", "A span's attributes could not be set.")


def rename(span: Span, name: str) -> None:
    """Gives a span a name of this app's own making."""
    if span.__class__ is RecordingSpan and span.is_recording():
        span._name = name
    else:
        span.update_name(name)
        _note_name(span, name)


#: Where a span of the SDK's own keeps the name that this app gave it: any other is a user's, and is redacted.
NAMED: Final = "_django_tracing_name"


def _note_name(span: Span, name: str) -> None:
    # A span that records nothing may have no place for it.
    with suppress(AttributeError):
        span.__dict__[NAMED] = name


#: Where a span of the SDK's own keeps what this app said on it of the request: any other value is redacted.
OF_REQUEST: Final = "_django_tracing_of_request"


def say_of_request(span: Span, attributes: Attributes) -> None:
    """Says on a span of another tracer what ours say of the request: its correlation id, its user. May raise.

    A correlation id is random, and an e-mail given by ``USER_EMAIL`` "full" is one: neither is a secret here, though
    it looks like one to the guidelines.
    """
    span.set_attributes(attributes)
    # A span that records nothing may have no place for it.
    with suppress(AttributeError):
        span.__dict__.setdefault(OF_REQUEST, {}).update(attributes)


def add_event(span: Span, name: str, attributes: Attributes) -> None:
    """Adds an event of this app's own making; never raises."""
    try:
        if span.__class__ is RecordingSpan:
            span.put_event(name, attributes)
        else:
            span.add_event(name, attributes)
    except Exception:
        log_once("add_event", "An event could not be added to its span.")


def end_span(span: Span, end_time: int | None = None) -> None:
    """Ends a span; never raises, whatever the processors behind it do."""
    try:
        span.end(end_time)
    except Exception:
        log_once("end_span", "A span could not be ended; it is left out.")


#: Where a span of the SDK's own keeps the scope whose spans are collected, while it is open.
_COLLECTED_FOR: Final = "_django_tracing_scope"
#: As many spans as :func:`collect` gives of one request at most.
MOST_COLLECTED: Final = 10_000


class _Collector(SpanProcessor):
    """Puts every span that ends into its scope's list, where there is one: ours and those of other tracers alike."""

    def __init__(self) -> None:
        self.provider: object = None
        self._lock = Lock()

    def follow(self, provider: Any) -> None:
        with self._lock:
            if self.provider is not provider:
                self.provider = provider
                # A provider that is not the SDK's has no such method: its spans are its own.
                add = getattr(provider, "add_span_processor", None)
                if add is not None:
                    add(self)

    def on_start(self, span: SDKSpan, parent_context: Context | None = None) -> None:
        if span.__class__ is not RecordingSpan:
            scope = get_scope(parent_context)
            if scope is not None and scope.collected is not None:
                span.__dict__[_COLLECTED_FOR] = scope

    def _on_ending(self, span: SDKSpan) -> None:
        scope: Scope | None = (
            span.scope if span.__class__ is RecordingSpan else span.__dict__.pop(_COLLECTED_FOR, None)
        )
        collected = None if scope is None else scope.collected
        if collected is not None and len(collected) < MOST_COLLECTED:
            collected.append(span)


_collector: Final = _Collector()


def collect(scope: Scope) -> list[ReadableSpan]:
    """The spans of ``scope`` that have ended since the first call for it, in the order they ended. Never raises.

    Ours and those of OpenTelemetry's instrumentations and of the user's tracers, redacted as they are sent, sampled
    or still waiting for that decision; at most 10,000. Every call gives the same list, which grows until the response
    is there. The request's own span is ``scope.span``; it ends later, and is not in it.
    """
    collected = scope.collected
    if collected is None:
        collected = scope.collected = []
        try:
            # Until somebody asks for the first time, nothing is in the way of any span.
            if _collector.provider is not (provider := trace.get_tracer_provider()):
                _collector.follow(provider)
        except Exception:
            log_once("collect", "The spans of a request could not be collected.")
    return collected


def record_error(span: Span, error: BaseException, *, status: bool = True) -> None:
    """Records an exception on ``span``: type, message and stack, all redacted; sets the error status.

    With ``status=False`` only the event is recorded. Never raises. Convention:
    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    """
    try:
        if not span.is_recording():
            return
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        message = cut(redact_db_error(_text_of(error)), MESSAGE_LENGTH)
        if not _told(span, error, remember=not status):
            add_event(
                span,
                "exception",
                {
                    EXCEPTION_TYPE: name,
                    EXCEPTION_MESSAGE: message,
                    EXCEPTION_STACKTRACE: redacted_stack(error, STACKTRACE_LENGTH),
                },
            )
        if status:
            span.set_status(StatusCode.ERROR, cut(f"{name}: {message}", MESSAGE_LENGTH))
            set_attributes(span, {ERROR_TYPE: name})
    except Exception:
        log_once("record_error", "An exception could not be recorded on its span.")


def _told(span: Span, error: BaseException, *, remember: bool) -> bool:
    """Whether ``span`` tells of ``error`` already: it was logged with LOG_ERRORS, and then raised.

    Kept on this side: what stands in an exception's ``__dict__`` is sent on by those who serialize it.
    """
    scope: Scope | None = span.scope if span.__class__ is RecordingSpan else get_scope()
    if scope is None:
        return False
    span_id = span.get_span_context().span_id
    told = scope.told is not None and scope.told[0] == span_id and scope.told[1] is error
    if remember:
        scope.told = span_id, error
    return told


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an exception whose __str__ raises
        return ""


class ChildSpan:
    """A span that is current for the block, as a context manager: ``with ChildSpan(name, attributes) as span``.

    To be entered only when :func:`recording` is true. An exception that leaves the block is recorded and goes on.
    ``suppress_upstream`` keeps OpenTelemetry's own instrumentations quiet inside, where they would make a second
    span of the same operation.
    """

    __slots__ = ("_token", "attributes", "kind", "name", "span", "suppress_upstream")

    def __init__(
        self,
        name: str,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        suppress_upstream: bool = False,
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.kind = kind
        self.suppress_upstream = suppress_upstream
        self.span: Span = INVALID_SPAN
        self._token: Token[Context] | None = None

    def __enter__(self) -> Span:
        self.span = span = start_span(self.name, self.attributes, self.kind)
        if span is not INVALID_SPAN:
            context = with_span(span)
            self._token = attach(suppressed(context) if self.suppress_upstream else context)
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        detach(self._token)
        if error is not None:
            record_error(self.span, error)
        end_span(self.span)


def suppressed(context: Context | None = None) -> Context:
    """``context`` in which OpenTelemetry's own instrumentations make no spans."""
    return Context({**(current_context() if context is None else context), **SUPPRESSED})


def with_suppressed_span(span: Span) -> Context:
    """The current context with ``span`` as the current span, and OpenTelemetry's own instrumentations quiet."""
    return Context({**current_context(), SPAN_KEY: span, **SUPPRESSED})


class SuppressedUpstream:
    """A block in which OpenTelemetry's own instrumentations make no spans."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = attach(suppressed())

    def __exit__(self, *exc_info: Any) -> None:
        detach(self._token)
