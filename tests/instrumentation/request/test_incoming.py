"""Which requests are traced."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path

from django_tracing import get_trace_context
from tests.conftest import Spans

pytestmark = [pytest.mark.urls(__name__)]


def view(request: HttpRequest, **arguments: Any) -> HttpResponse:
    cache.get("a:1")
    return HttpResponse(get_trace_context().get("traceparent", ""))


urlpatterns = [path("<path:anything>", view), path("", include([path("", view)]))]


def tracing(**settings: Any) -> Any:
    return override_settings(TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "off", **settings})


@pytest.mark.parametrize(
    ("settings", "url", "traced"),
    [
        ({}, "/static/admin/css/base.css", False),
        ({}, "/media/ada.jpg", False),
        ({}, "/statically/", True),
        ({}, "/static", True),
        ({}, "/api/static/x", True),
        ({"STATIC_URL": "static/", "MEDIA_URL": "/files/up/"}, "/static/x", False),
        ({"STATIC_URL": "static/", "MEDIA_URL": "/files/up/"}, "/files/up/x", False),
        ({"STATIC_URL": "static/", "MEDIA_URL": "/files/up/"}, "/files/x", True),
        # Not set, as in a new project: not all of the site.
        ({"STATIC_URL": None, "MEDIA_URL": ""}, "/x", True),
        ({"STATIC_URL": "/"}, "/x", True),
        # Another host's.
        ({"STATIC_URL": "https://cdn.example/static/"}, "/static/x", True),
        (
            {
                "STATIC_URL": "https://cdn.example/static/",
                "MIDDLEWARE": ["django_tracing.middleware.TracingMiddleware", f"{__name__}.whitenoise"],
            },
            "/static/x",
            False,
        ),
        ({"WHITENOISE_STATIC_PREFIX": "/assets/"}, "/assets/x", False),
        ({"STATIC_URL": "http://[/"}, "/x", True),
    ],
)
def test_static_and_media_files_are_left_out(spans: Spans, settings: dict[str, Any], url: str, traced: bool) -> None:
    with override_settings(**{"STATIC_URL": "/static/", "MEDIA_URL": "/media/", **settings}):
        response = Client().get(url)
    assert response.status_code == 200
    assert [span.name for span in spans if span.name.startswith("GET")] == (
        ["GET /<path:anything>"] if traced else []
    )
    # What it calls makes no spans either, and tells the called service so.
    assert bool(spans.named("cache.get.a:*")) is traced
    assert int(response.content.decode()[-2:], 16) & 1 == traced


def whitenoise(get_response: Any) -> Any:
    """In the place of WhiteNoise's middleware, whose path contains its name."""
    return get_response


def test_static_files_below_a_prefix(spans: Spans) -> None:
    with override_settings(STATIC_URL="static/", FORCE_SCRIPT_NAME="/shop"):
        Client().get("/static/x")
        Client().get("/other/x")
    assert [span.name for span in spans if span.name.startswith("GET")] == ["GET /<path:anything>"]


def test_a_setting_traces_static_files(spans: Spans) -> None:
    with tracing(IGNORE_STATIC=False), override_settings(STATIC_URL="/static/"):
        Client().get("/static/x")
    assert "GET /<path:anything>" in spans.names
