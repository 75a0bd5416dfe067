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

from django.urls import reverse
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, SpanKind

from django_tracing import spans
from django_tracing.addresses import linkable
from django_tracing.conf.loading import get_settings
<<<<<<< HEAD
from django_tracing.context.extraction import extract, inject
from django_tracing.context.request import RequestState, get_request_state, incoming_id, with_request_state
from django_tracing.instrumentation.rate_limit import NAME as RATE_LIMIT_CHECK
from django_tracing.instrumentation.rate_limit import mark_blocked
from django_tracing.instrumentation.upstream.http_client import CALL_KEY, ExternalCall, span_name
from django_tracing.recording.sdk import set_kind
=======
>>>>>>> lead
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

    __slots__ = ("_context", "_started", "_token", "span")

    def __init__(self, started: spans.StartedSpan | None) -> None:
        self._started = started
        #: OpenTelemetry's own span. Where nothing is recorded, a span that ignores everything.
        self.span: trace_api.Span = INVALID_SPAN if started is None else started.span
        self._context = None if started is None else started.context
        self._token: Token[Context] | None = None

    @property
    def is_recording(self) -> bool:
        """Whether the span keeps what is set on it."""
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
        """Record an exception, redacted, and set the error status."""
        spans.record_error(self.span, error)

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
        if self._context is not None:
            self._token = spans.attach(self._context)

    def _detach(self) -> None:
        """Restore the former current span."""
        token, self._token = self._token, None
        spans.detach(token)

    def _end(self, error: BaseException | None) -> None:
        """End the span with its result: None, or the exception that ended the work."""
        if self._started is not None:
            if isinstance(error, GeneratorExit):
                error = None
            self._started.end(error, status=not isinstance(error, asyncio.CancelledError))


#: The span of everything that is not recorded, shared by all.
NO_SPAN: Final = ManualSpan(None)


def start_manual_span(
    name: str, attributes: Mapping[str, Any] | None, kind: SpanKind = SpanKind.INTERNAL, own: Attributes | None = None
) -> ManualSpan:
    """Start a span and return it, or ``NO_SPAN``. ``attributes`` are the user's, ``own`` this app's."""
    if not runtime.current.tracing or not _is_recorded():
        return NO_SPAN
    try:
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
    if not runtime.current.tracing or not _is_recorded():
        return NO_SPAN
    try:
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
    return known.is_remote or not known.is_valid


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
    # By its type: isinstance() would evaluate one of Django's lazy objects.
    kind = type(result)
    if issubclass(kind, asyncio.Future):
        result.add_done_callback(functools.partial(_future_done, manual, done))
        return result
    if issubclass(kind, Coroutine) and not hasattr(kind, "__aenter__"):
        return _awaited(manual, result, done)
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
<<<<<<< HEAD
    manual = _open(name, attributes)
    return func() if manual is _NOTHING else _run(manual, func)


# ----- the decorator


@overload
def trace(
    name: str | None = None, *, attributes: Mapping[str, Any] | None = None, capture: Sequence[str] = ()
) -> Callable[[F], F]: ...


@overload
def trace(name: F) -> F: ...


def trace(name: Any = None, *, attributes: Mapping[str, Any] | None = None, capture: Sequence[str] = ()) -> Any:
    """Traces each call of a function: ``@trace``, or ``@trace("MyService.fetch_data", capture=("order_id",))``.

    For functions, methods, classmethods, staticmethods, async functions, and generators of both kinds, whose span
    lasts as long as the iteration. On a class it traces the public methods that the class itself defines. The span
    is called ``name``, by default as Python calls the function (``MyService.fetch_data``). ``capture`` names
    parameters whose values become attributes of the same name. Raises TypeError when one of them is no parameter.
    """
    if name is not None and not isinstance(name, str):
        return _decorate(name, None, attributes, ())
    if isinstance(capture, str):
        raise TypeError(f'capture is a list of parameters: write capture=("{capture}",).')
    return lambda traced: _decorate(traced, name, attributes, tuple(capture))


def _decorate(traced: Any, name: str | None, attributes: Mapping[str, Any] | None, capture: tuple[str, ...]) -> Any:
    if isinstance(traced, (staticmethod, classmethod)):
        return type(traced)(_decorate(traced.__func__, name, attributes, capture))
    if isinstance(traced, type):
        return _decorate_class(traced, name, attributes, capture)
    if not callable(traced):
        raise TypeError(f"@trace is for functions and classes, not for {type(traced).__name__}.")
    what = name or str(getattr(traced, "__qualname__", type(traced).__qualname__)).rpartition("<locals>.")[2]
    described = _Described(traced, what, attributes, capture)
    if inspect.isasyncgenfunction(traced):
        return _traced_async_generator(traced, described)
    if inspect.isgeneratorfunction(traced):
        return _traced_generator(traced, described)
    if inspect.iscoroutinefunction(traced):
        return _traced_coroutine(traced, described)

    @functools.wraps(traced)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        manual = described.open(args, kwargs)
        if manual is _NOTHING:
            return traced(*args, **kwargs)
        return _run(manual, lambda: traced(*args, **kwargs))

    if iscoroutinefunction(traced):
        markcoroutinefunction(wrapper)
    return wrapper


def _decorate_class(
    traced: type, name: str | None, attributes: Mapping[str, Any] | None, capture: tuple[str, ...]
) -> type:
    for attribute, member in list(vars(traced).items()):
        function = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
        if attribute.startswith("_") or not inspect.isfunction(function):
            continue
        captured = tuple(parameter for parameter in capture if parameter in inspect.signature(function).parameters)
        method = f"{name or traced.__qualname__.rpartition('<locals>.')[2]}.{attribute}"
        setattr(traced, attribute, _decorate(member, method, attributes, captured))
    return traced


class _Described:
    """How the calls of one decorated function are described."""

    __slots__ = ("attributes", "capture", "name", "signature")

    def __init__(
        self, func: Callable[..., Any], name: str, attributes: Mapping[str, Any] | None, capture: tuple[str, ...]
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.capture = capture
        self.signature = inspect.signature(func) if capture else None
        for parameter in capture:
            if self.signature is not None and parameter not in self.signature.parameters:
                raise TypeError(f'capture names "{parameter}", which is no parameter of {name}{self.signature}.')

    def open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ManualSpan:
        manual = _open(self.name, self.attributes)
        if self.signature is not None and manual.is_recording:
            try:
                bound = self.signature.bind(*args, **kwargs)
                bound.apply_defaults()
                manual.set_attributes({name: bound.arguments[name] for name in self.capture})
            except TypeError:
                pass  # the call itself is about to say so
            except Exception:
                spans.log_once("capture", "An argument could not be put on its span.")
        return manual


def _traced_coroutine(traced: Callable[..., Any], described: _Described) -> Callable[..., Any]:
    @functools.wraps(traced)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        manual = described.open(args, kwargs)
        if manual is _NOTHING:
            return await traced(*args, **kwargs)
        with manual:
            return await traced(*args, **kwargs)

    return wrapper


def _traced_generator(traced: Callable[..., Any], described: _Described) -> Callable[..., Any]:
    @functools.wraps(traced)
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        manual = described.open(args, kwargs)
        generator = traced(*args, **kwargs)
        if manual is _NOTHING:
            return (yield from generator)
        step, sent = generator.send, None
        try:
            while True:
                # Current only while the generator is at work: between two items its caller is.
                manual.attach()
                try:
                    item = step(sent)
                finally:
                    manual.detach()
                try:
                    sent = yield item
                    step = generator.send
                except GeneratorExit:
                    manual.attach()
                    try:
                        generator.close()
                    finally:
                        manual.detach()
                    raise
                except BaseException as error:
                    step, sent = generator.throw, error
        except StopIteration as stop:
            manual.close()
            return stop.value
        except BaseException as error:
            manual.close(error)
            raise

    return wrapper


def _traced_async_generator(traced: Callable[..., Any], described: _Described) -> Callable[..., Any]:
    @functools.wraps(traced)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        manual = described.open(args, kwargs)
        generator = traced(*args, **kwargs)
        step, sent = generator.asend, None
        try:
            while True:
                manual.attach()
                try:
                    item = await step(sent)
                finally:
                    manual.detach()
                try:
                    sent = yield item
                    step = generator.asend
                except GeneratorExit:
                    manual.attach()
                    try:
                        await generator.aclose()
                    finally:
                        manual.detach()
                    raise
                except BaseException as error:
                    step, sent = generator.athrow, error
        except StopAsyncIteration:
            manual.close()
        except BaseException as error:
            manual.close(error)
            raise

    return wrapper


# ----- operations with a shape of their own


def trace_cache_operation(operation: str, key: str, func: Callable[[], T], *, system: str) -> T:
    """Calls ``func()`` in a span ``cache.OPERATION.PATTERN`` like those of Django's caches; gives its result.

    For a cache that Django does not know. ``key`` becomes a pattern (``blueprint:*``); ``system`` is what it is
    (``redis``, ``memcached``, ...). For ``get`` a result of None is a miss. Awaitable when ``func`` gives an
    awaitable.
    """

    def describe() -> _Description:
        pattern = key_pattern(str(key))
        own: Attributes = {
            names.OPERATION_TYPE: "cache",
            names.CACHE_OPERATION: operation,
            names.CACHE_SYSTEM: system,
            names.CACHE_KEY: pattern,
        }
        return f"cache.{operation}.{pattern}", None, own

    manual = _open_described(describe, SpanKind.CLIENT)
    if manual is _NOTHING:
        return func()

    def done(result: Any) -> None:
        if operation == "get":
            spans.set_attributes(manual.span, {names.CACHE_HIT: result is not None})

    return _run(manual, func, done)  # type: ignore[no-any-return]


def trace_database_operation(
    operation: str,
    table: str,
    func: Callable[[], T],
    *,
    statement: str | None = None,
    system: str | None = None,
) -> T:
    """Calls ``func()`` in a span ``db.OPERATION.TABLE`` like those of Django's databases; gives its result.

    For a database that Django does not know. ``statement`` is SQL, and loses its literals; ``system`` is
    ``db.system`` of the semantic conventions (``mongodb``, ``clickhouse``, ...). Awaitable when ``func`` gives an
    awaitable.
    """

    def describe() -> _Description:
        own: Attributes = {
            names.OPERATION_TYPE: "database",
            names.DB_OPERATION: operation,
            names.DB_TABLE: _short(table),
        }
        if system is not None:
            own[names.DB_SYSTEM] = system
        if statement is not None:
            own[names.DB_STATEMENT] = describe_sql(statement, dialect_of(system)).text
        return f"db.{operation}.{table}", None, own

    manual = _open_described(describe, SpanKind.CLIENT)
    return func() if manual is _NOTHING else _run(manual, func)


def trace_external_call(service: str, method: str, url: str, func: Callable[..., T]) -> T:
    """Calls ``func()``, which calls another service, in a span ``http.METHOD.SERVICE``; gives its result.

    When ``func`` has a parameter ``headers`` (that no ``functools.partial`` has filled in) it is given those to send,
    so that the other service continues the trace. The response's ``status_code`` or ``status`` is read when it has
    one. Where the client library is traced too, its span is the CLIENT span of that name below this one, which is
    then ``external.SERVICE``. Awaitable when ``func`` gives an awaitable.
    """

    def describe() -> _Description:
        own: Attributes = {
            names.OPERATION_TYPE: "external",
            names.HTTP_METHOD: method.upper(),
            names.PEER_SERVICE: _short(service),
        }
        return span_name(method, service), {names.HTTP_URL: url}, own

    manual = _open_described(describe, SpanKind.CLIENT)
    wants = _has_parameter(func, "headers")

    def run() -> T:
        return func(headers=get_trace_context()) if wants else func()

    if manual is _NOTHING:
        return run()
    call = ExternalCall(_short(service))
    manual._context = Context({**(manual._context or {}), CALL_KEY: call})

    def done(result: Any) -> None:
        status = getattr(result, "status_code", None)
        if status is None:
            status = getattr(result, "status", None)
        if isinstance(status, int) and not isinstance(status, bool):
            spans.set_attributes(manual.span, {names.HTTP_STATUS_CODE: int(status)})
            if status >= 400:
                manual.span.set_status(StatusCode.ERROR, f"HTTP {int(status)}")
        _settle(manual, call)

    return _run(manual, run, done)  # type: ignore[no-any-return]


def _settle(manual: ManualSpan, call: ExternalCall) -> None:
    """One CLIENT span for one call: where the library made it, ours is what the call is a part of."""
    if call.delegated:
        span: Any = manual.span
        spans.set_name(span, f"external.{call.service}")
        set_kind(span, SpanKind.INTERNAL)


def _has_parameter(func: Callable[..., Any], name: str) -> bool:
    if isinstance(func, functools.partial) and name in func.keywords:
        return False
    code = getattr(func, "__code__", None)
    if code is not None:
        return name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    try:
        return name in inspect.signature(func).parameters
    except (TypeError, ValueError):
        return False


class RateLimitCheck:
    """What a check of a rate limit found, to be filled in inside the block of :func:`trace_rate_limit_check`."""

    __slots__ = ("_manual", "allowed", "limit", "remaining", "reset")

    def __init__(self, manual: ManualSpan) -> None:
        self._manual = manual
        #: Whether the request may go on.
        self.allowed: bool | None = None
        #: How many requests the window has.
        self.limit: int | None = None
        #: How many of them are left.
        self.remaining: int | None = None
        #: Seconds until the window ends.
        self.reset: float | None = None

    def __enter__(self) -> RateLimitCheck:
        self._manual.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._manual.detach()
        if self._manual.is_recording:
            found = {
                names.RATE_LIMIT_ALLOWED: self.allowed,
                names.RATE_LIMIT_LIMIT: self.limit,
                names.RATE_LIMIT_REMAINING: self.remaining,
                names.RATE_LIMIT_RESET: self.reset,
            }
            _set_attributes(self._manual.span, found)
            if self.allowed is False:
                try:
                    mark_blocked()
                except Exception:
                    spans.log_once("rate_limit", "The check of a rate limit could not be described.")
        self._manual.close(error)

    async def __aenter__(self) -> RateLimitCheck:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def trace_rate_limit_check(operation: str, *, user: Any = None, subscription: str | None = None) -> RateLimitCheck:
    """A span ``rate_limit.check`` for the block that checks a limit of one's own; sync and async.

    ``with trace_rate_limit_check("orders.create") as check: check.allowed = limiter.hit(key)``, and ``check.limit``,
    ``check.remaining``, ``check.reset`` where they are known. ``operation`` says what is limited: a scope, a group.
    ``user`` is the user's object or id, where the request's is not the one.
    """

    def describe() -> _Description:
        own: Attributes = {names.OPERATION_TYPE: "rate_limit", names.RATE_LIMIT_OPERATION: _short(operation)}
        known = user
        if isinstance(known, LazyObject):
            # A ``request.user`` that nobody has looked at stays so.
            known = known.__dict__.get("_wrapped", empty)
        key = None if known is empty else getattr(known, "pk", known)
        if key is not None:
            # As of the request's own user: an e-mail is masked, what is random stays.
            own[names.USER_ID] = cut(redact_text(str(key), random=False), 100)
        if subscription is not None:
            own[names.USER_SUBSCRIPTION] = cut(redact_text(str(subscription), random=False), 100)
        return RATE_LIMIT_CHECK, None, own

    return RateLimitCheck(_open_described(describe, SpanKind.INTERNAL))
=======
    manual = start_manual_span(name, attributes)
    return func() if manual is NO_SPAN else run_in_span(manual, func)
>>>>>>> lead


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
    span = spans.recording_span()
    if span is not None:
        set_sanitized(span, attributes)


def add_span_event(name: str, attributes: Mapping[str, Any] | None = None) -> None:
    """Add an event to the current span."""
    span = spans.recording_span()
    if span is not None:
        _add_event(span, name, attributes)


def record_span_error(error: BaseException) -> None:
    """Record an exception, redacted, on the current span and set the error status."""
    span = spans.recording_span()
    if span is not None:
        spans.record_error(span, error)


def current_trace_id() -> str | None:
    """Return the id of the current trace, 32 hexadecimal digits, also if it is not sampled. None outside a trace."""
    context = spans.span_context()
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
        links = linkable(settings.query_url)
        return None if links is None else f"{links}/trace/{trace_id}"
    if settings.exporter != "local" and settings.reader is None:
        return None
    try:
        return reverse("admin:django_tracing_trace_trace", args=[trace_id])
    except Exception:  # no admin, or broken URLs, which Django reports by itself
        return None
