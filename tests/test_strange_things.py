"""Test unusual objects in the context, on a request, on a user, on an error and in settings.

The host's own work goes on as without this app, whatever traced thing does it. What the API lets stand in a context is
in tests/test_host_objects.py for the span; here is everything else.
"""

from __future__ import annotations

import asyncio
import io
import logging
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import django
import httpx
import pybreaker
import pytest
import redis
import requests
import urllib3
from django.core.cache import cache, caches
from django.core.management import call_command
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.template import Context as TemplateContext
from django.template import Template
from django.test import Client, RequestFactory, override_settings
from opentelemetry import baggage as baggage_api
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext
from rest_framework.throttling import SimpleRateThrottle

from django_tracing import (
    bind_trace_context,
    create_span,
    current_trace_id,
    get_baggage,
    get_correlation_id,
    get_trace_context,
    set_baggage,
    set_span_attributes,
    trace,
    trace_external_call,
    trace_rate_limit_check,
    use_trace_context,
)
from django_tracing.conf.loading import load
from django_tracing.conf.table import SPECS
from django_tracing.conf.values import Settings
from django_tracing.context import request as correlation
from django_tracing.instrumentation.request.middleware import TracingMiddleware
from django_tracing.instrumentation.upstream.http_client import CALL_KEY
from django_tracing.recording.span import SPAN_KEY
from tests.callees import Callee


class Hostile:
    """Every operation raises."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__"):
            return object.__getattribute__(self, name)
        raise RuntimeError(name)

    def __bool__(self) -> bool:
        raise RuntimeError("__bool__")

    def __str__(self) -> str:
        raise RuntimeError("__str__")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("__eq__")

    def __hash__(self) -> int:
        raise RuntimeError("__hash__")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("__iter__")


class HostileSpan(NonRecordingSpan):
    def is_recording(self) -> bool:
        raise RuntimeError("is_recording")

    def get_span_context(self) -> SpanContext:
        raise RuntimeError("get_span_context")


STRANGE: dict[str, Any] = {
    "nothing": None,
    "a number": 7,
    "a text": "text",
    "bytes": b"\xff",
    "a list": [[]],
    "a span context": SpanContext(1, 2, is_remote=False),
    "a mock": Mock(),
    "hostile": Hostile(),
    "a hostile span": HostileSpan(SpanContext(1, 2, is_remote=False)),
}


# ----- Contexts

_baggage_key = next(iter(baggage_api.set_baggage("a", "b", Context())))
KEYS: dict[str, Any] = {"span": SPAN_KEY, "scope": correlation._STATE_KEY, "call": CALL_KEY, "baggage": _baggage_key}

breaker = pybreaker.CircuitBreaker(name="strange")


class Throttle(SimpleRateThrottle):
    rate = "1000/min"

    def get_cache_key(self, request: Any, view: Any) -> str:
        return "throttle_strange"


@trace("strange.decorated")
def decorated(number: int) -> int:
    return number + 1


def _external() -> int:
    return trace_external_call("user-service", "GET", "http://user-service/", lambda: 7)


def _rate_limit() -> bool:
    with trace_rate_limit_check("uploads") as check:
        check.allowed, check.limit, check.remaining = True, 5, 4
    return True


def _query() -> object:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 7")
        return cursor.fetchone()


def _by_hand() -> int:
    with create_span("by.hand", {"a.b": 1}):
        set_span_attributes({"a.c": 2})
        set_baggage("who", "me")
        get_baggage("who")
        current_trace_id()
        get_correlation_id()
        get_trace_context()
        return bind_trace_context(lambda: 7)()


def _continued() -> int:
    with use_trace_context({"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}):
        return 7


class Host:
    """A site with everything that is traced."""

    def __init__(self, callee: Callee, store: redis.Redis) -> None:
        self.work: dict[str, Callable[[], object]] = {
            "request": lambda: Client().get("/empty/").status_code,
            "error": lambda: Client(raise_request_exception=False).get("/boom/").status_code,
            "query": _query,
            "cache": lambda: cache.get("absent", 7),
            "redis cache": lambda: caches["redis"].get("absent", 7),
            "async cache": lambda: asyncio.run(cache.aget("absent", 7)),
            "redis": lambda: store.get("absent"),
            "command": lambda: call_command("check", stdout=io.StringIO()),
            "breaker": lambda: breaker.call(lambda: 7),
            "throttle": lambda: Throttle().allow_request(RequestFactory().get("/"), None),
            "rate limit": _rate_limit,
            "template": lambda: Template("{{ a }}").render(TemplateContext({"a": 7})),
            "requests": lambda: requests.get(callee.url, timeout=10).status_code,
            "httpx": lambda: httpx.get(callee.url, timeout=10).status_code,
            "urllib3": lambda: urllib3.request("GET", callee.url, timeout=10, retries=False).status,
            "urllib": lambda: urllib.request.urlopen(callee.url, timeout=10).close(),
            "external": _external,
            "by hand": _by_hand,
            "decorated": lambda: decorated(6),
            "continued": _continued,
            "log": lambda: logging.getLogger("shop").error("with %s", "words", exc_info=ValueError("x")),
        }
        if django.VERSION >= (6, 0):
            from tests.instrumentation.test_tasks import add

            self.work["task"] = lambda: add.enqueue(1, second=2).return_value


@pytest.fixture(scope="module")
def host(redis_url: str) -> Iterator[Host]:
    with Callee() as callee, redis.Redis.from_url(redis_url) as store:
        yield Host(callee, store)


@pytest.mark.django_db
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("thing", STRANGE)
def test_calls_work_with_any_object_in_the_context(
    key: str, thing: str, host: Host, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.TRACING = {**settings.TRACING, "LOG_ERRORS": True}
    for name, work in host.work.items():
        token = context_api.attach(Context())
        expected = work()
        context_api.detach(token)
        token = context_api.attach(Context({KEYS[key]: STRANGE[thing]}))
        caplog.clear()
        try:
            assert work() == expected, name
        finally:
            context_api.detach(token)
        messages = [record.getMessage() for record in caplog.records if record.name.startswith("django_tracing")]
        assert messages == [], name


# ----- Requests and users


def answer(request: HttpRequest) -> HttpResponse:
    with create_span("inside"):
        cache.get("absent")
    return HttpResponse("ok")


def fail(request: HttpRequest) -> HttpResponse:
    raise ValueError("the view's own")


class StrangeUser:
    """A user with one unusual attribute."""

    def __init__(self, name: str, value: Any) -> None:
        self.__dict__.update({"pk": 7, "is_anonymous": False, "email": "ada@example.com", name: value})


class RaisingUser:
    is_anonymous = False

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize("subscription", [None, "tier.name", "tier"])
@pytest.mark.parametrize("thing", STRANGE)
def test_a_request_with_any_user_is_answered(thing: str, subscription: Any) -> None:
    value = STRANGE[thing]
    users = [
        value,
        RaisingUser(),
        *(StrangeUser(name, value) for name in ("pk", "is_anonymous", "email", "tier", "get_email_field_name")),
    ]
    with override_settings(TRACING={"SUBSCRIPTION": subscription}):
        for user in users:
            for name in ("user", "_cached_user", "_acached_user"):
                request = RequestFactory().get("/empty/")
                request.__dict__[name] = user
                assert TracingMiddleware(answer)(request).content == b"ok"  # type: ignore[union-attr]
                with pytest.raises(ValueError, match="the view's own"):
                    TracingMiddleware(fail)(request)


@pytest.mark.parametrize("thing", STRANGE)
def test_a_request_with_any_content_is_answered(thing: str) -> None:
    value = STRANGE[thing]
    names = [
        *("REMOTE_ADDR", "QUERY_STRING", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "HTTP_USER_AGENT", "HTTP_VIA"),
        *("HTTP_X_FORWARDED_FOR", "HTTP_X_CORRELATION_ID", "HTTP_TRACEPARENT", "HTTP_TRACESTATE", "HTTP_BAGGAGE"),
        *("REQUEST_METHOD", "wsgi.url_scheme", "HTTP_X_TRACE_DEBUG"),
    ]
    attributes = ("path", "path_info", "method", "resolver_match", "urlconf", "session")
    tracing = {
        "TRUSTED_PROXIES": ["127.0.0.1"],
        "TRUST_PARENT": ["127.0.0.1"],
        "DEBUG_HEADER": "X-Trace-Debug",
        "RESPONSE_HEADERS": ["Server-Timing", "traceresponse"],
    }
    with override_settings(TRACING=tracing):
        for name in names:
            request = RequestFactory().get("/empty/?a=b")
            request.META[name] = value
            assert TracingMiddleware(answer)(request).content == b"ok", name  # type: ignore[union-attr]
        for name in attributes:
            request = RequestFactory().get("/empty/?a=b")
            request.__dict__[name] = value
            assert TracingMiddleware(answer)(request).content == b"ok", name  # type: ignore[union-attr]


# ----- Errors


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("__str__")

    __repr__ = __str__


def _error(name: str, value: Any) -> BaseException:
    error: Any = ValueError("x")
    error.__dict__[name] = value
    return error  # type: ignore[no-any-return]


def _cyclic() -> BaseException:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    first.__context__, second.__context__ = second, first
    return first


ERRORS: dict[str, Callable[[], BaseException]] = {
    "unspeakable": Unspeakable,
    "cyclic": _cyclic,
    "hostile argument": lambda: ValueError(Hostile()),
    "surrogates": lambda: ValueError("\udcff\x00"),
    "bytes": lambda: ValueError(b"\xff"),
    "notes": lambda: _error("__notes__", Hostile()),
    "notes that are no texts": lambda: _error("__notes__", [7, Hostile()]),
    "a diag": lambda: _error("diag", Hostile()),
    "a sqlstate": lambda: _error("sqlstate", Hostile()),
    "a made-up class": lambda: type("\n<b>", (Exception,), {"__module__": None})("x"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_propagates_unchanged(name: str) -> None:
    error = ERRORS[name]()

    def work() -> None:
        raise error

    def view(request: HttpRequest) -> HttpResponse:
        raise error

    with pytest.raises(type(error)) as caught, create_span("by.hand"):
        work()
    assert caught.value is error
    with pytest.raises(type(error)) as caught, create_span("around"):
        pybreaker.CircuitBreaker().call(work)
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        TracingMiddleware(view)(RequestFactory().get("/"))
    assert caught.value is error


# ----- Settings


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_no_value_of_a_setting_raises(spec: Any) -> None:
    """A wrong value is reported as a problem; an accepted one has the promised type."""
    values = [
        *STRANGE.values(),
        *("", " ", "\x00", "\udcff", "x" * 10_000, -1, 0, 2**70, float("nan"), float("inf"), True, b"x"),
        *([], [None], [Hostile()], {}, {None: None}, {"a": Hostile()}, {Hostile}, object(), object, lambda *a: 1 / 0),
    ]
    for value in values:
        loaded = load({spec.name: value}, {})
        assert isinstance(loaded, Settings)
        assert all(str(problem) for problem in loaded.problems)
        assert loaded.enabled is False or not loaded.problems


@pytest.mark.parametrize("tracing", [Hostile(), 7, "x", [], {7: 8}, {"": ""}, {Hostile: 1}], ids=lambda _: "")
def test_no_kind_of_tracing_raises(tracing: Any) -> None:
    assert isinstance(load(tracing, {}), Settings)
