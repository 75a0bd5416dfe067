"""Start spans by hand, and set attributes, events and errors on the current one.

Everything works the same when tracing is off or the trace is not sampled: functions are called and their result or
exception is passed on, at the cost of one check. A span without a parent starts a trace.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Final, TypeVar, overload

from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, SpanKind

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.context.trace_page import jaeger_address, page_path, pages_read_traces
from django_tracing.recording.span import SPAN_KEY, context_of
from django_tracing.semconv.names import Attributes
from django_tracing.spans import runtime

__all__ = [
    "NO_SPAN",
    "Description",
    "ManualSpan",
    "add_span_event",
    "create_span",
    "current_trace_id",
    "record_span_error",
    "run_in_span",
    "set_sanitized",
    "set_span_attributes",
    "start_described_span",
    "start_manual_span",
    "trace_function",
    "trace_url",
]

_T = TypeVar("_T")

#: A span's name, the user's attributes, and this app's own attributes.
Description = tuple[str, "Mapping[str, Any] | None", Attributes]


class ManualSpan:
    """A span made by :func:`create_span`. It ends by :meth:`end`, or at the end of a ``with`` block.

    It is the current span (the parent of what is traced in the meantime) only inside ``with`` or ``async with``. An
    exception that leaves the block is recorded and passed on. No method raises.
    """

    __slots__ = ("_block_context", "_started", "_token", "span")

    def __init__(self, started: spans.StartedSpan | None) -> None:
        self._started = started
        #: OpenTelemetry's own span. Where nothing is recorded, a span that ignores everything.
        self.span: trace_api.Span = INVALID_SPAN if started is None else started.span
        self._block_context = None if started is None else started.context
        self._token: Token[Context] | None = None

    @property
    def is_recording(self) -> bool:
        """Return True if the span keeps what is set on it."""
        return self.span.is_recording()

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes. They follow the guidelines in docs/redaction.md."""
        if self.span.is_recording():
            set_sanitized(self.span, attributes)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Add an event."""
        if self.span.is_recording():
            _add_event(self.span, name, attributes)

    def record_error(self, error: BaseException) -> None:
        """Record an exception, redacted, and set the error status. A cancellation is no error."""
        spans.record_error(self.span, error, again=True)

    def end(self) -> None:
        """End the span. Further calls do nothing."""
        self._end(None)

    def __enter__(self) -> ManualSpan:
        self._attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._detach()
        self._end(error)

    async def __aenter__(self) -> ManualSpan:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    # For the modules of this package.

    def _attach(self) -> None:
        """Make the span the current one, until :meth:`_detach`."""
        if self._block_context is not None:
            self._token = spans.attach(self._block_context)

    def _detach(self) -> None:
        """Restore the former current span."""
        token, self._token = self._token, None
        spans.detach(token)

    def _pause(self) -> None:
        """Restore the former current span until the next step of a generator. What it has opened stays open."""
        if self._token is not None:
            self._block_context = spans.current_context()
        self._detach()

    def _end(self, error: BaseException | None) -> None:
        """End the span with its result: None, or the exception that ended the work."""
        if self._started is not None:
            self._started.end(error)


#: The span of everything that is not recorded, shared by all.
NO_SPAN: Final = ManualSpan(None)


def start_manual_span(
    name: str, attributes: Mapping[str, Any] | None, kind: SpanKind = SpanKind.INTERNAL, own: Attributes | None = None
) -> ManualSpan:
    """Start a span and return it, or ``NO_SPAN``. ``attributes`` are the user's, ``own`` this app's."""
    try:
        if not runtime.current.tracing or not _is_recorded():
            return NO_SPAN
        sanitizer = runtime.current.sanitizer
        every: dict[str, Any] = dict(own) if own else {}
        if attributes:
            every.update(sanitizer.attributes(attributes))
        started = spans.start_operation(sanitizer.name(name), every, kind)
    except Exception:
        spans.log_once("manual", "A span could not be started; it is left out.")
        return NO_SPAN
    return NO_SPAN if started is None else ManualSpan(started)


def start_described_span(describe: Callable[[], Description], kind: SpanKind) -> ManualSpan:
    """Start a span with what ``describe`` returns. It is only called if a span is recorded, and may raise."""
    try:
        if not runtime.current.tracing or not _is_recorded():
            return NO_SPAN
        name, attributes, own = describe()
    except Exception:
        spans.log_once("describe", "A span could not be described; it is left out.")
        return NO_SPAN
    return start_manual_span(name, attributes, kind, own)


def _is_recorded() -> bool:
    """Return whether a span that starts here is recorded. Asked before anything is computed for it."""
    current: Any = spans.current_context().get(SPAN_KEY)
    # OpenTelemetry's API accepts any object in a context.
    if not isinstance(current, trace_api.Span) or spans.recording_span() is not None:
        return True
    known = context_of(current)
    return known.is_remote or not known.is_valid or spans.outlived()


def create_span(
    name: str, attributes: Mapping[str, Any] | None = None, *, kind: SpanKind = SpanKind.INTERNAL
) -> ManualSpan:
    """Start a span: ``with create_span("invoice.render") as span``, or end it by ``.end()``.

    Its parent is the current span. Without one, it starts a trace. ``kind`` is OpenTelemetry's span kind.
    """
    return start_manual_span(name, attributes, kind)


# ----- calling a function in a span


def run_in_span(manual: ManualSpan, func: Callable[[], Any], done: Callable[[Any], None] | None = None) -> Any:
    """Call ``func`` in ``manual``, which ends with the call, or with the coroutine or future that it returns.

    ``done`` is called with the result before the span ends.
    """
    manual._attach()
    try:
        result = func()
    except BaseException as error:
        manual._detach()
        manual._end(error)
        raise
    manual._detach()
    try:
        # By its type: isinstance() would evaluate one of Django's lazy objects.
        kind = type(result)
        if issubclass(kind, asyncio.Future):
            result.add_done_callback(functools.partial(_future_done, manual, done))
            return result
        if issubclass(kind, Coroutine) and not hasattr(kind, "__aenter__"):
            return _awaited(manual, result, done)
    except Exception:
        spans.log_once("manual-result", "A call is traced only until it returns what its caller has to wait for.")
    # Other awaitables have more methods than that (a client, a block): the caller needs the object itself.
    _done(manual, done, result)
    return result


async def _awaited(
    manual: ManualSpan, awaitable: Coroutine[Any, Any, Any], done: Callable[[Any], None] | None
) -> Any:
    manual._attach()
    try:
        result = await awaitable
    except BaseException as error:
        manual._detach()
        manual._end(error)
        raise
    manual._detach()
    _done(manual, done, result)
    return result


def _future_done(manual: ManualSpan, done: Callable[[Any], None] | None, future: asyncio.Future[Any]) -> None:
    error = asyncio.CancelledError() if future.cancelled() else future.exception()
    if error is None:
        _done(manual, done, future.result())
    else:
        manual._end(error)


def _done(manual: ManualSpan, done: Callable[[Any], None] | None, result: Any) -> None:
    if done is not None:
        try:
            done(result)
        except Exception:
            spans.log_once("manual-done", "The result of a call could not be described on its span.")
    manual._end(None)


@overload
def trace_function(
    name: str, func: Callable[[], Coroutine[Any, Any, _T]], attributes: Mapping[str, Any] | None = None
) -> Coroutine[Any, Any, _T]: ...


@overload
def trace_function(name: str, func: Callable[[], _T], attributes: Mapping[str, Any] | None = None) -> _T: ...


def trace_function(name: str, func: Callable[[], Any], attributes: Mapping[str, Any] | None = None) -> Any:
    """Call ``func()`` in a span and return its result. The span of a coroutine or a future lasts until it is done.

    Exceptions of ``func`` are recorded and passed on.
    """
    manual = start_manual_span(name, attributes)
    return func() if manual is NO_SPAN else run_in_span(manual, func)


# ----- the current span


def set_sanitized(span: trace_api.Span, attributes: Mapping[str, Any]) -> None:
    """Set a user's attributes on ``span``, sanitized."""
    try:
        span.set_attributes(runtime.current.sanitizer.attributes(attributes))
    except Exception:
        spans.log_once("set_attributes", "A span's attributes could not be set.")


def _add_event(span: trace_api.Span, name: str, attributes: Mapping[str, Any] | None) -> None:
    try:
        sanitizer = runtime.current.sanitizer
        span.add_event(sanitizer.name(name), sanitizer.attributes(attributes or {}))
    except Exception:
        spans.log_once("add_event", "An event could not be added to its span.")


def set_span_attributes(attributes: Mapping[str, Any]) -> None:
    """Set attributes on the current span. They follow the guidelines in docs/redaction.md."""
    span = spans.open_span()
    if span is not None:
        set_sanitized(span, attributes)


def add_span_event(name: str, attributes: Mapping[str, Any] | None = None) -> None:
    """Add an event to the current span."""
    span = spans.open_span()
    if span is not None:
        _add_event(span, name, attributes)


def record_span_error(error: BaseException) -> None:
    """Record an exception, redacted, on the current span and set the error status."""
    span = spans.open_span()
    if span is not None:
        spans.record_error(span, error, again=True)


def current_trace_id() -> str | None:
    """Return the id of the current trace, 32 hexadecimal digits, also if it is not sampled. None outside a trace."""
    context = spans.span_context(spans.without_outlived())
    return f"{context.trace_id:032x}" if context.is_valid else None


def trace_url(trace_id: str | None = None) -> str | None:
    """Return the URL of a page that shows the current trace, or the trace with ``trace_id``.

    For error pages and support messages. The page is Jaeger's if a Jaeger is configured, or else the admin's (a path
    of this site). Return None if there is no such page: outside a trace, or if the trace is not sampled.
    """
    settings = get_settings()
    if trace_id is None:
        if not spans.recording():
            return None
        trace_id = current_trace_id()
    if trace_id is None:
        return None
    if settings.query_url is not None:
        return jaeger_address(settings, trace_id) or None
    return (page_path(trace_id) or None) if pages_read_traces(settings) else None
