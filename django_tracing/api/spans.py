"""What a user's own code calls: spans by hand, attributes and events on the current one, context in and out.

Everything works the same when tracing is off or the trace is not sampled: what is called is called, its result or
its exception comes back, and nothing is done beyond asking. A span that nobody is the parent of begins a trace.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextvars import Token
from types import TracebackType
from typing import Any, Final, TypeVar, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.urls import reverse
from django.utils.functional import LazyObject, empty
from opentelemetry import baggage
from opentelemetry import trace as trace_api
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode

from django_tracing import spans
from django_tracing.addresses import linkable
from django_tracing.conf.loading import get_settings
from django_tracing.context.extraction import extract, inject
from django_tracing.context.request import RequestState, get_request_state, incoming_id, with_request_state
from django_tracing.instrumentation.rate_limit import NAME as RATE_LIMIT_CHECK
from django_tracing.instrumentation.rate_limit import mark_blocked
from django_tracing.instrumentation.upstream.http_client import CALL_KEY, ExternalCall, span_name
from django_tracing.recording.sdk import set_kind
from django_tracing.recording.span import SPAN_KEY, context_of
from django_tracing.redaction import cut, describe_sql, dialect_of, key_pattern, redact_text
from django_tracing.semconv import names
from django_tracing.semconv.names import Attributes
from django_tracing.spans import runtime

__all__ = [
    "ManualSpan",
    "RateLimitCheck",
    "add_span_event",
    "bind_trace_context",
    "create_span",
    "current_trace_id",
    "get_baggage",
    "get_trace_context",
    "record_span_error",
    "set_baggage",
    "set_span_attributes",
    "trace",
    "trace_cache_operation",
    "trace_database_operation",
    "trace_external_call",
    "trace_function",
    "trace_rate_limit_check",
    "trace_url",
    "use_trace_context",
]

T = TypeVar("T")
F = TypeVar("F")


class ManualSpan:
    """A span made by :func:`create_span`: to be ended by :meth:`end`, or by the end of a ``with`` block.

    It is current (the parent of what is traced meanwhile) inside ``with`` or ``async with`` only. An exception that
    leaves the block is recorded and goes on. No method raises.
    """

    __slots__ = ("_begun", "_context", "_token", "span")

    def __init__(self, begun: spans.StartedSpan | None) -> None:
        self._begun = begun
        #: OpenTelemetry's own span; one that records nothing where there is none.
        self.span: trace_api.Span = INVALID_SPAN if begun is None else begun.span
        self._context = None if begun is None else begun.context
        self._token: Token[Context] | None = None

    @property
    def is_recording(self) -> bool:
        """Whether what is said here is kept."""
        return self.span.is_recording()

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Sets attributes; they follow the guidelines of docs/redaction.md."""
        if self.span.is_recording():
            _set_attributes(self.span, attributes)

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Adds an event."""
        if self.span.is_recording():
            _add_event(self.span, name, attributes)

    def record_error(self, error: BaseException) -> None:
        """Records an exception, redacted, and gives the span the error status."""
        spans.record_error(self.span, error)

    def end(self) -> None:
        """Ends the span; a second call does nothing."""
        self.close()

    def __enter__(self) -> ManualSpan:
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()
        self.close(error)

    async def __aenter__(self) -> ManualSpan:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def attach(self) -> None:
        """Makes the span current, until :meth:`detach`."""
        if self._context is not None:
            self._token = spans.attach(self._context)

    def detach(self) -> None:
        """Makes current again what was before."""
        token, self._token = self._token, None
        spans.detach(token)

    def close(self, error: BaseException | None = None) -> None:
        """Ends the span with what came of it: None, or an exception."""
        if self._begun is not None:
            if isinstance(error, GeneratorExit):
                error = None
            self._begun.end(error, status=not isinstance(error, asyncio.CancelledError))


_NOTHING: Final = ManualSpan(None)

#: A span's name, the user's attributes, this app's.
_Description = tuple[str, "Mapping[str, Any] | None", Attributes]


def _open(
    name: str, attributes: Mapping[str, Any] | None, kind: SpanKind = SpanKind.INTERNAL, own: Attributes | None = None
) -> ManualSpan:
    """A started span; ``attributes`` are the user's, ``own`` this app's. One shared by all when there is none."""
    if not runtime.current.tracing or not _wanted():
        return _NOTHING
    try:
        rules = runtime.current.sanitizer
        said: dict[str, Any] = dict(own) if own else {}
        if attributes:
            said.update(rules.attributes(attributes))
        begun = spans.start_operation(rules.name(name), said, kind)
    except Exception:
        spans.log_once("manual", "A span could not be started; it is left out.")
        return _NOTHING
    return _NOTHING if begun is None else ManualSpan(begun)


def _open_described(describe: Callable[[], _Description], kind: SpanKind) -> ManualSpan:
    """:func:`_open` of what ``describe`` says, which is asked only where a span is made and may raise."""
    if not runtime.current.tracing or not _wanted():
        return _NOTHING
    try:
        name, attributes, own = describe()
    except Exception:
        spans.log_once("describe", "A span could not be described; it is left out.")
        return _NOTHING
    return _open(name, attributes, kind, own)


def _short(text: object) -> str:
    return cut(redact_text(str(text)), 100)


def _wanted() -> bool:
    """Whether a span would be made here: asked before anything is read for it."""
    current: Any = spans.current_context().get(SPAN_KEY)
    # The API lets anything stand in a context.
    if not isinstance(current, trace_api.Span) or spans.recording_span() is not None:
        return True
    known = context_of(current)
    return known.is_remote or not known.is_valid


def create_span(
    name: str, attributes: Mapping[str, Any] | None = None, *, kind: SpanKind = SpanKind.INTERNAL
) -> ManualSpan:
    """A started span: ``with create_span("invoice.render") as span``, or to be ended by ``.end()``.

    It is below the current span, or begins a trace where there is none. ``kind`` is OpenTelemetry's span kind.
    """
    return _open(name, attributes, kind)


# ----- calling something in a span


def _run(manual: ManualSpan, func: Callable[[], Any], done: Callable[[Any], None] | None = None) -> Any:
    manual.attach()
    try:
        result = func()
    except BaseException as error:
        manual.detach()
        manual.close(error)
        raise
    manual.detach()
    # By its type: to ask one of Django's lazy objects what it is would make it look.
    kind = type(result)
    if issubclass(kind, asyncio.Future):
        result.add_done_callback(functools.partial(_future_done, manual, done))
        return result
    if issubclass(kind, Coroutine) and not hasattr(kind, "__aenter__"):
        return _awaited(manual, result, done)
    # Whatever else can be awaited is more than that (a client, a block): the caller wants it as it is.
    _done(manual, done, result)
    return result


async def _awaited(
    manual: ManualSpan, awaitable: Coroutine[Any, Any, Any], done: Callable[[Any], None] | None
) -> Any:
    manual.attach()
    try:
        result = await awaitable
    except BaseException as error:
        manual.detach()
        manual.close(error)
        raise
    manual.detach()
    _done(manual, done, result)
    return result


def _future_done(manual: ManualSpan, done: Callable[[Any], None] | None, future: asyncio.Future[Any]) -> None:
    error = asyncio.CancelledError() if future.cancelled() else future.exception()
    if error is None:
        _done(manual, done, future.result())
    else:
        manual.close(error)


def _done(manual: ManualSpan, done: Callable[[Any], None] | None, result: Any) -> None:
    if done is not None:
        try:
            done(result)
        except Exception:
            spans.log_once("manual-done", "What a call gave back could not be described on its span.")
    manual.close()


@overload
def trace_function(
    name: str, func: Callable[[], Coroutine[Any, Any, T]], attributes: Mapping[str, Any] | None = None
) -> Coroutine[Any, Any, T]: ...


@overload
def trace_function(name: str, func: Callable[[], T], attributes: Mapping[str, Any] | None = None) -> T: ...


def trace_function(name: str, func: Callable[[], Any], attributes: Mapping[str, Any] | None = None) -> Any:
    """Calls ``func()`` in a span and gives its result; the span of a coroutine or a future lasts until it is done.

    What ``func`` raises is recorded and goes on as it is.
    """
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


# ----- the current span


def _set_attributes(span: trace_api.Span, attributes: Mapping[str, Any]) -> None:
    try:
        span.set_attributes(runtime.current.sanitizer.attributes(attributes))
    except Exception:
        spans.log_once("set_attributes", "A span's attributes could not be set.")


def _add_event(span: trace_api.Span, name: str, attributes: Mapping[str, Any] | None) -> None:
    try:
        rules = runtime.current.sanitizer
        span.add_event(rules.name(name), rules.attributes(attributes or {}))
    except Exception:
        spans.log_once("add_event", "An event could not be added to its span.")


def set_span_attributes(attributes: Mapping[str, Any]) -> None:
    """Sets attributes on the current span; they follow the guidelines of docs/redaction.md."""
    span = spans.recording_span()
    if span is not None:
        _set_attributes(span, attributes)


def add_span_event(name: str, attributes: Mapping[str, Any] | None = None) -> None:
    """Adds an event to the current span."""
    span = spans.recording_span()
    if span is not None:
        _add_event(span, name, attributes)


def record_span_error(error: BaseException) -> None:
    """Records an exception, redacted, on the current span and gives it the error status."""
    span = spans.recording_span()
    if span is not None:
        spans.record_error(span, error)


def current_trace_id() -> str | None:
    """The current trace's id, 32 hexadecimal digits, also of one that is not sampled; None outside a trace."""
    context = spans.span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def trace_url(trace_id: str | None = None) -> str | None:
    """Where a person sees the current trace, or the one of ``trace_id``: for error pages and support messages.

    Jaeger's page where a Jaeger is known, else the admin's (a path of this site). None where there is nothing to see:
    outside a trace, in one that is not sampled, where there is neither.
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
    except Exception:  # no admin, or URLs that can't be imported, which is for others to say
        return None


# ----- context in and out


def get_trace_context() -> dict[str, str]:
    """The headers that let another service, or a consumer, continue this trace.

    By all configured propagators, baggage and the correlation id among them; empty where there is nothing to say.
    """
    carrier: dict[str, str] = {}
    try:
        inject(carrier)
    except Exception:
        spans.log_once("inject", "The headers of a trace could not be made.")
    return carrier


class _HeadersGetter(Getter[Mapping[str, str]]):
    """Headers whose names are in lower case."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_getter: Final = _HeadersGetter()


class use_trace_context:
    """Continues the trace that ``headers`` come from, in a block: for consumers of queues and streams.

    ``headers`` is a mapping, or pairs as Kafka's clients give them; names in any case, values as text or bytes.
    Spans made in the block are below the caller's, with its correlation id (a new one where there is none).
    """

    __slots__ = ("_headers", "_token")

    def __init__(self, headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        self._headers = headers
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        try:
            headers = _read_headers(self._headers)
            context = extract(headers, spans.current_context(), _getter)
            found = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
            self._token = spans.attach(with_request_state(RequestState(incoming_id(found)), context))
        except Exception:
            spans.log_once("extract", "The headers of a trace could not be read; a new one is begun.")

    def __exit__(self, *exc_info: object) -> None:
        token, self._token = self._token, None
        spans.detach(token)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()


def _read_headers(headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, str]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    read: dict[str, str] = {}
    for name, value in pairs:
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            read[str(name).lower()] = value
    return read


def set_baggage(key: str, value: str) -> None:
    """Gives ``value`` to all services called from here on, until the request (or block) ends.

    It travels as text in a header of every call: nothing secret, and little of it. It is on no span. Outside of both,
    or where tracing is off, it does nothing: the next request of this thread would have it.
    """
    try:
        if get_request_state() is None and SPAN_KEY not in spans.current_context():
            return
        spans.attach(baggage.set_baggage(key, str(value)))
    except Exception:
        spans.log_once("baggage", "Baggage could not be set.")


def get_baggage(key: str) -> str | None:
    """What this process or a caller gave by :func:`set_baggage`; None where nobody did."""
    value = baggage.get_baggage(key)
    return None if value is None else str(value)


def bind_trace_context(func: F) -> F:
    """``func`` that runs in the current trace wherever it is called: in a thread, in an executor, later.

    asyncio's tasks, ``asyncio.to_thread`` and asgiref's ``sync_to_async`` carry the context by themselves; threads
    (``threading.Thread``, ``ThreadPoolExecutor``, ``loop.run_in_executor``) do not.
    """
    context = spans.current_context()
    function: Any = func
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def bound_async(*args: Any, **kwargs: Any) -> Any:
            token = spans.attach(context)
            try:
                return await function(*args, **kwargs)
            finally:
                spans.detach(token)

        return bound_async  # type: ignore[return-value]

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Any:
        token = spans.attach(context)
        try:
            return function(*args, **kwargs)
        finally:
            spans.detach(token)

    return bound  # type: ignore[return-value]
