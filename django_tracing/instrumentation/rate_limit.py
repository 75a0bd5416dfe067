"""Trace the checks of rate limits by Django REST framework's throttles and django-ratelimit: ``rate_limit.check``.

Projects write their own throttle classes, so throttles are traced where the framework calls them:
``APIView.check_throttles`` gets each of them wrapped, for the one request. django-ratelimit calls its ``get_usage``,
from its decorator and from its functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.context.request import get_request_state
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut, redact_text
from django_tracing.semconv.names import (
    OPERATION_TYPE,
    RATE_LIMIT_ALLOWED,
    RATE_LIMIT_BLOCKED,
    RATE_LIMIT_LIMIT,
    RATE_LIMIT_OPERATION,
    RATE_LIMIT_REMAINING,
    RATE_LIMIT_RESET,
    Attributes,
)

__all__ = ["describe", "install", "is_available", "mark_blocked", "uninstall"]

NAME: Final = "rate_limit.check"
_STATIC: Final = (SharedAttributes({OPERATION_TYPE: "rate_limit"}),)

_patches: Final = Patches()


def is_available() -> bool:
    return find_spec("rest_framework") is not None or find_spec("django_ratelimit") is not None


def install() -> None:
    """Trace the checks of both libraries, now or when they are imported. Imports neither."""
    if not _patches.start():
        return
    when_imported("rest_framework.views", _patch_rest_framework)
    when_imported("django_ratelimit.core", _patch_ratelimit)


def uninstall() -> None:
    """Stop tracing both libraries."""
    _patches.stop()


def describe(
    operation: str, allowed: bool | None, limit: int | None, remaining: int | None, reset: float | None
) -> Attributes:
    """Return the attributes of a check's span. None is left out. ``reset`` is in seconds until the window ends."""
    attributes: Attributes = {RATE_LIMIT_OPERATION: cut(redact_text(operation), 100)}
    if allowed is not None:
        attributes[RATE_LIMIT_ALLOWED] = bool(allowed)
    if limit is not None:
        attributes[RATE_LIMIT_LIMIT] = int(limit)
    if remaining is not None:
        attributes[RATE_LIMIT_REMAINING] = max(int(remaining), 0)
    if reset is not None:
        attributes[RATE_LIMIT_RESET] = max(int(reset), 0)
    return attributes


def mark_blocked() -> None:
    """Set ``rate_limit.blocked`` on the request's span, so that blocked requests are found by one attribute."""
    state = get_request_state()
    root = None if state is None else state.span
    if root is not None and root.is_recording():
        spans.set_attributes(root, {RATE_LIMIT_BLOCKED: True})


class _Check:
    """One check that is being made. No method raises."""

    __slots__ = ("_token", "span")

    def __init__(self, parent: Span) -> None:
        self.span = span = spans.start_child(parent, NAME, SpanKind.INTERNAL, _STATIC)
        self._token = None if span is INVALID_SPAN else spans.attach(spans.with_span(span))

    def fail(self, error: BaseException) -> None:
        spans.detach(self._token)
        spans.record_error(self.span, error)
        spans.end_span(self.span)

    def end(self, read: Callable[[], Attributes | None]) -> None:
        spans.detach(self._token)
        try:
            attributes = read()
            if attributes is None:
                # Nothing was checked. A span that is not ended is not sent.
                return
            spans.set_attributes(self.span, attributes)
            if attributes.get(RATE_LIMIT_ALLOWED) is False:
                mark_blocked()
        except Exception:
            spans.log_once("rate_limit", "The check of a rate limit could not be described.")
        spans.end_span(self.span)


# ----- Django REST framework


def _patch_rest_framework() -> None:
    from rest_framework.views import APIView

    _patches.wrap(APIView, "check_throttles", _traced_check_throttles)


def _traced_check_throttles(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def check_throttles(self: Any, request: Any) -> Any:
        if not _patches.active or spans.recording_span() is None:
            return original(self, request)
        get_throttles = self.get_throttles
        known = vars(self).get("get_throttles")
        # A view object serves one request, so no other request sees this.
        self.get_throttles = lambda: [_Throttle(throttle) for throttle in get_throttles()]
        try:
            return original(self, request)
        finally:
            if known is None:
                del self.get_throttles
            else:
                self.get_throttles = known

    return check_throttles


class _Throttle:
    """A traced throttle that is otherwise itself. The throttle is not changed: projects may share one."""

    def __init__(self, throttle: Any) -> None:
        self.__dict__["_throttle"] = throttle

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_throttle"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_throttle"], name, value)

    def allow_request(self, request: Any, view: Any) -> Any:
        throttle = self.__dict__["_throttle"]
        parent = spans.recording_span()
        if parent is None:
            return throttle.allow_request(request, view)
        check = _Check(parent)
        try:
            allowed = throttle.allow_request(request, view)
        except BaseException as error:
            check.fail(error)
            raise
        check.end(lambda: _read_throttle(throttle, allowed))
        return allowed


def _read_throttle(throttle: Any, allowed: Any) -> Attributes | None:
    limit = getattr(throttle, "num_requests", None)
    simple = hasattr(throttle, "throttle_success")
    history = vars(throttle).get("history")
    if simple and allowed and history is None:
        # A rate of None, or not for this client: it did not look into its cache.
        return None
    remaining = reset = None
    if isinstance(limit, int) and isinstance(history, list):
        remaining = limit - len(history)
        now, duration = getattr(throttle, "now", None), getattr(throttle, "duration", None)
        if history and now is not None and duration is not None:
            reset = duration - (now - history[-1])
    operation = getattr(throttle, "scope", None) or type(throttle).__name__
    return describe(str(operation), bool(allowed), limit if isinstance(limit, int) else None, remaining, reset)


# ----- django-ratelimit


def _patch_ratelimit() -> None:
    from django_ratelimit import core

    _patches.wrap(core, "get_usage", _traced_get_usage)


def _traced_get_usage(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def get_usage(request: Any, group: Any = None, fn: Any = None, *args: Any, **kwargs: Any) -> Any:
        parent = spans.recording_span()
        if parent is None or not _patches.active:
            return original(request, group, fn, *args, **kwargs)
        check = _Check(parent)
        try:
            usage = original(request, group, fn, *args, **kwargs)
        except BaseException as error:
            check.fail(error)
            raise
        check.end(lambda: _read_usage(usage, group, fn))
        return usage

    return get_usage


def _read_usage(usage: Any, group: Any, fn: Any) -> Attributes | None:
    if usage is None:
        # It is switched off, has no rate, or applies to other methods than this request's.
        return None
    function = getattr(fn, "func", fn)
    operation = group or f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    limit = usage["limit"]
    return describe(str(operation), not usage["should_limit"], limit, limit - usage["count"], usage.get("time_left"))
