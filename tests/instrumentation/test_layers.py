"""Test the spans of middleware and views in real handlers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.utils.deprecation import MiddlewareMixin
from opentelemetry.trace import StatusCode

from tests.conftest import Spans

TRACING = "django_tracing.middleware.TracingMiddleware"


def layers(*middleware: str, **settings: Any) -> Any:
    return override_settings(
        MIDDLEWARE=[TRACING, *(f"{__name__}.{name}" for name in middleware)],
        TRACING={
            "SERVICE_NAME": "tests",
            "EXPORTER": "none",
            "CACHE_KEY_PREFIXES": ["after:", "async:"],
            **settings,
        },
    )


class RateLimitMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        cache.get("rate:1")

    def process_view(self, request: HttpRequest, *args: Any) -> None:
        request.saw_view = True  # type: ignore[attr-defined]


def plain(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        cache.get("after:1")
        response["X-Saw-View"] = str(getattr(request, "saw_view", False))
        return response

    return middleware


class AsyncOnlyMiddleware:
    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        from asgiref.sync import markcoroutinefunction

        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        await cache.aget("async:1")
        return await self.get_response(request)


class SlowMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        pass

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        # The test needs a layer that takes some time itself.
        deadline = time.perf_counter() + 0.06
        while time.perf_counter() < deadline:
            pass
        return response


class UnusedMiddleware:
    def __init__(self, get_response: Any) -> None:
        raise MiddlewareNotUsed


class RaisingMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        raise ValueError("in a middleware")


class ShortMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("answered early")


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    if request.param == "sync":
        return lambda path: Client(raise_request_exception=False).get(path)
    return lambda path: asyncio.run(AsyncClient(raise_request_exception=False).get(path))


def parent_of(spans: Spans, name: str) -> str:
    span = spans.named(name)[0]
    assert span.parent is not None
    return next(other.name for other in spans if other.context.span_id == span.parent.span_id)


class TestAll:
    def test_each_layer_is_a_span_that_contains_its_calls(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers("RateLimitMiddleware", "plain", "AsyncOnlyMiddleware", LAYERS="all"):
            response = get("/empty/")
        assert response["X-Saw-View"] == "True", "process_view of a wrapped middleware is called"
        assert parent_of(spans, "middleware.rate_limit") == "GET /empty/"
        assert parent_of(spans, "cache.get.rate:*") == "middleware.rate_limit"
        assert parent_of(spans, "cache.get.after:*") == "middleware.plain"
        assert parent_of(spans, "cache.get.async:*") == "middleware.async_only"
        assert parent_of(spans, "view.empty") == "GET /empty/"
        view = spans.one("view.empty")
        assert response.content.decode() == f"{view.context.span_id:016x}", "the view's span is current in it"
        assert dict(view.attributes or {})["code.namespace"] == "tests.urls"
        assert dict(view.attributes or {})["code.function"] == "empty"

    def test_a_span_has_a_layers_own_time(self, spans: Spans) -> None:
        with layers("SlowMiddleware", "plain", LAYERS="all"):
            Client().get("/empty/")
        request, response = spans.named("middleware.slow")
        assert [dict(span.attributes or {})["middleware.phase"] for span in (request, response)] == [
            "request",
            "response",
        ]
        inner = spans.one("view.empty")
        assert request.end_time <= inner.start_time <= inner.end_time <= response.start_time  # type: ignore[operator]

    def test_a_missing_middleware_method_makes_no_span(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers("RateLimitMiddleware", LAYERS="all"):
            get("/empty/")
        assert dict(spans.one("middleware.rate_limit").attributes or {})["middleware.phase"] == "request"

    def test_a_class_based_view_has_its_class_name(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers(LAYERS="all"):
            get("/blueprints/3/")
        assert spans.one("view.detail")

    def test_an_async_view(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers("plain", LAYERS="all"):
            body = get("/async/").content.decode()
        assert body == f"{spans.one('view.empty_async').context.span_id:016x}"

    def test_an_exception_is_recorded_on_the_layer_that_raised_it(
        self, get: Callable[[str], Any], spans: Spans
    ) -> None:
        with layers("RaisingMiddleware", LAYERS="all"):
            assert get("/empty/").status_code == 500
        failed = spans.named("middleware.raising")[0]
        assert failed.status.status_code is StatusCode.ERROR
        assert failed.events[0].attributes["exception.message"] == "in a middleware"  # type: ignore[index]

    def test_a_404_is_not_an_error_of_the_view(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers(LAYERS="all"):
            assert get("/missing/").status_code == 404
        assert spans.one("view.missing").status.status_code is StatusCode.UNSET

    def test_a_middleware_that_returns_a_response(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers("ShortMiddleware", "plain", LAYERS="all"):
            assert get("/empty/").content == b"answered early"
        assert spans.names == ["middleware.short", "GET (no route)"]

    def test_unused_middleware_is_left_out(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers("UnusedMiddleware", "plain", LAYERS="all"):
            assert get("/empty/").status_code == 200
        assert not spans.named("middleware.unused")


class TestSlow:
    def test_only_layers_above_the_threshold(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers("SlowMiddleware", LAYERS="slow", SLOW_LAYER_MS=50):
            get("/empty/")
        (slow,) = spans.named("middleware.slow")
        assert dict(slow.attributes or {})["middleware.phase"] == "response"
        assert slow.end_time - slow.start_time >= 50_000_000  # type: ignore[operator]
        assert parent_of(spans, "middleware.slow") == "GET /empty/"

    def test_is_the_default(self, spans: Spans) -> None:
        with layers("SlowMiddleware"):
            Client().get("/empty/")
        assert spans.named("middleware.slow")

    def test_without_a_slow_layer_there_are_no_layers(self, get: Callable[[str], Any], spans: Spans) -> None:
        with layers("plain", "SlowMiddleware", LAYERS="slow", SLOW_LAYER_MS=60_000):
            get("/empty/")
        assert spans.names == ["cache.get.after:*", "GET /empty/"]


def test_off(get: Callable[[str], Any], spans: Spans) -> None:
    with layers("SlowMiddleware", "plain", LAYERS="off"):
        get("/empty/")
    assert spans.names == ["cache.get.after:*", "GET /empty/"]


def test_an_unsampled_request_makes_no_layers(get: Callable[[str], Any], spans: Spans) -> None:
    with layers("RateLimitMiddleware", "plain", LAYERS="all"):
        response = Client().get(
            "/empty/", headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}
        )
    assert response["X-Saw-View"] == "True"
    assert spans.names == []


def test_uninstall_restores_django() -> None:
    from django.core.handlers import base
    from django.utils.module_loading import import_string

    from django_tracing.instrumentation import layers as module

    module.uninstall()
    try:
        assert base.import_string is import_string
        assert base.BaseHandler.make_view_atomic.__module__ == "django.core.handlers.base"
    finally:
        module.install()
        module.install()
