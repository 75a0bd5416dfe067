"""Trace calls that Django does not mediate: other caches, databases, services and rate limits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from django.utils.functional import LazyObject, empty
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import spans
from django_tracing.api.propagation import get_trace_context
from django_tracing.api.spans import (
    NO_SPAN,
    Description,
    ManualSpan,
    run_in_span,
    set_sanitized,
    start_described_span,
)
from django_tracing.instrumentation.rate_limit import NAME as RATE_LIMIT_CHECK
from django_tracing.instrumentation.rate_limit import mark_blocked
from django_tracing.instrumentation.upstream.http_client import CALL_KEY, ExternalCall, span_name
from django_tracing.recording.sdk import set_kind
from django_tracing.redaction import cut, describe_sql, dialect_of, key_pattern, redact_text
from django_tracing.semconv import names
from django_tracing.semconv.names import Attributes

__all__ = [
    "RateLimitCheck",
    "trace_cache_operation",
    "trace_database_operation",
    "trace_external_call",
    "trace_rate_limit_check",
]

_T = TypeVar("_T")


def _short(text: object) -> str:
    return cut(redact_text(str(text)), 100)


def trace_cache_operation(operation: str, key: str, func: Callable[[], _T], *, system: str) -> _T:
    """Call ``func()`` in a span ``cache.OPERATION.PATTERN``, as for Django's caches, and return its result.

    For caches that are not used through Django. ``key`` becomes a pattern (``blueprint:*``). ``system`` is the kind
    of cache (``redis``, ``memcached``, ...). For ``get``, a result of None is a miss. If ``func`` returns an
    awaitable, so does this.
    """

    def describe() -> Description:
        pattern = key_pattern(str(key))
        own: Attributes = {
            names.OPERATION_TYPE: "cache",
            names.CACHE_OPERATION: operation,
            names.CACHE_SYSTEM: system,
            names.CACHE_KEY: pattern,
        }
        return f"cache.{operation}.{pattern}", None, own

    manual = start_described_span(describe, SpanKind.CLIENT)
    if manual is NO_SPAN:
        return func()

    def done(result: Any) -> None:
        if operation == "get":
            spans.set_attributes(manual.span, {names.CACHE_HIT: result is not None})

    return run_in_span(manual, func, done)  # type: ignore[no-any-return]


def trace_database_operation(
    operation: str,
    table: str,
    func: Callable[[], _T],
    *,
    statement: str | None = None,
    system: str | None = None,
) -> _T:
    """Call ``func()`` in a span ``db.OPERATION.TABLE``, as for Django's databases, and return its result.

    For databases that are not used through Django. ``statement`` is SQL; its literals are removed. ``system`` is
    ``db.system`` of the semantic conventions (``mongodb``, ``clickhouse``, ...). If ``func`` returns an awaitable,
    so does this.
    """

    def describe() -> Description:
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

    manual = start_described_span(describe, SpanKind.CLIENT)
    return func() if manual is NO_SPAN else run_in_span(manual, func)


def trace_external_call(service: str, method: str, url: str, func: Callable[..., _T]) -> _T:
    """Call ``func()``, which calls another service, in a span ``http.METHOD.SERVICE``, and return its result.

    If ``func`` has a parameter ``headers`` (not set by a ``functools.partial``), it receives the headers to send, so
    that the other service continues the trace. The response's ``status_code`` or ``status`` is set on the span. If
    the client library is traced as well, its span is the CLIENT span of that name, and this one is its parent,
    ``external.SERVICE``. If ``func`` returns an awaitable, so does this.
    """

    def describe() -> Description:
        own: Attributes = {
            names.OPERATION_TYPE: "external",
            names.HTTP_METHOD: method.upper(),
            names.PEER_SERVICE: _short(service),
        }
        return span_name(method, service), {names.HTTP_URL: url}, own

    manual = start_described_span(describe, SpanKind.CLIENT)
    wants = _has_parameter(func, "headers")

    def run() -> _T:
        return func(headers=get_trace_context()) if wants else func()

    if manual is NO_SPAN:
        return run()
    call = ExternalCall(_short(service))
    manual._block_context = Context({**(manual._block_context or {}), CALL_KEY: call})

    def done(result: Any) -> None:
        status = getattr(result, "status_code", None)
        if status is None:
            status = getattr(result, "status", None)
        if isinstance(status, int) and not isinstance(status, bool):
            spans.set_attributes(manual.span, {names.HTTP_STATUS_CODE: int(status)})
            if status >= 400:
                manual.span.set_status(StatusCode.ERROR, f"HTTP {int(status)}")
        _keep_one_client_span(manual, call)

    return run_in_span(manual, run, done)  # type: ignore[no-any-return]


def _keep_one_client_span(manual: ManualSpan, call: ExternalCall) -> None:
    """Keep one CLIENT span for one call: if the client library started one, ours becomes INTERNAL."""
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
    """The result of a rate limit check. Set it inside the block of :func:`trace_rate_limit_check`."""

    __slots__ = ("_manual", "allowed", "limit", "remaining", "reset")

    def __init__(self, manual: ManualSpan) -> None:
        self._manual = manual
        #: Whether the request is allowed.
        self.allowed: bool | None = None
        #: How many requests a window allows.
        self.limit: int | None = None
        #: How many of them are left in this window.
        self.remaining: int | None = None
        #: Seconds until the window ends.
        self.reset: float | None = None

    def __enter__(self) -> RateLimitCheck:
        self._manual._attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._manual._detach()
        if self._manual.is_recording:
            found = {
                names.RATE_LIMIT_ALLOWED: self.allowed,
                names.RATE_LIMIT_LIMIT: self.limit,
                names.RATE_LIMIT_REMAINING: self.remaining,
                names.RATE_LIMIT_RESET: self.reset,
            }
            set_sanitized(self._manual.span, found)
            if self.allowed is False:
                try:
                    mark_blocked()
                except Exception:
                    spans.log_once("rate_limit", "The result of a rate limit check could not be set on its span.")
        self._manual._end(error)

    async def __aenter__(self) -> RateLimitCheck:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def trace_rate_limit_check(operation: str, *, user: Any = None, subscription: str | None = None) -> RateLimitCheck:
    """Start a span ``rate_limit.check`` for the block that checks a rate limit, sync or async.

    ``with trace_rate_limit_check("orders.create") as check: check.allowed = limiter.hit(key)``. Set ``check.limit``,
    ``check.remaining`` and ``check.reset`` if they are known. ``operation`` names what is limited: a scope or group.
    ``user`` is a user's object or id, if it is not the request's user.
    """

    def describe() -> Description:
        own: Attributes = {names.OPERATION_TYPE: "rate_limit", names.RATE_LIMIT_OPERATION: _short(operation)}
        known = user
        if isinstance(known, LazyObject):
            # Do not evaluate a ``request.user`` that was not evaluated before.
            known = known.__dict__.get("_wrapped", empty)
        key = None if known is empty else getattr(known, "pk", known)
        if key is not None:
            # As for the request's user: an e-mail address is masked, a random id is kept.
            own[names.USER_ID] = cut(redact_text(str(key), random=False), 100)
        if subscription is not None:
            own[names.USER_SUBSCRIPTION] = cut(redact_text(str(subscription), random=False), 100)
        return RATE_LIMIT_CHECK, None, own

    return RateLimitCheck(start_described_span(describe, SpanKind.INTERNAL))
