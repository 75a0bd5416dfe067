"""The name and the client of a request's span, as a backend receives them."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path, re_path
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from tests.conftest import Spans

EDGE = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 "
    "Safari/537.36 Edg/131.0.2903.51"
)


def view(request: HttpRequest, *args: Any, **arguments: Any) -> HttpResponse:
    return HttpResponse("ok")


def renamed(request: HttpRequest, name: str) -> HttpResponse:
    trace.get_current_span().update_name(name)
    return HttpResponse("ok")


urlpatterns = [
    re_path(r"^documents/(\d+)/(.*)$", view),
    re_path(r"^things/(?P<pk>\d+)/$", view),
    re_path(r"^things/(?P<pk>[a-z]+)/$", view),
    path("renamed/<str:name>/", renamed),
]

pytestmark = [pytest.mark.urls(__name__)]


@pytest.mark.parametrize(
    ("url", "route"),
    [
        ("/documents/7/a/b.pdf", "/documents/<var>/<var>"),
        ("/things/7/", r"/things/<pk:\d+>/"),
        ("/things/seven/", "/things/<pk:[a-z]+>/"),
    ],
)
def test_a_route_is_the_name_and_an_attribute(spans: Spans, url: str, route: str) -> None:
    Client().get(url)
    assert (spans.one(f"GET {route}").attributes or {})["http.route"] == route


class OneOfThem:
    urlpatterns = [re_path(r"^things/(?P<pk>\d+)/$", view)]


def test_the_urlconf_of_a_request(spans: Spans) -> None:
    """The same route reads differently where no other one reads the same."""

    def middleware(get_response: Any) -> Any:
        def choose(request: HttpRequest) -> Any:
            request.urlconf = OneOfThem  # type: ignore[attr-defined]
            return get_response(request)

        return choose

    globals()["choose_urlconf"] = middleware
    Client().get("/things/7/")
    with override_settings(MIDDLEWARE=["django_tracing.middleware.TracingMiddleware", f"{__name__}.choose_urlconf"]):
        Client().get("/things/7/")
    assert spans.names == [r"GET /things/<pk:\d+>/", "GET /things/<pk>/"]


@pytest.mark.parametrize(
    ("url", "method", "name"),
    [
        ("/nowhere/", "GET", "GET (no route)"),
        ("/nowhere/", "BREW", "HTTP (no route)"),
        ("//", "HEAD", "HEAD (no route)"),
    ],
)
def test_a_request_that_matches_no_route(spans: Spans, url: str, method: str, name: str) -> None:
    assert Client().generic(method, url).status_code == 404
    assert "http.route" not in (spans.one(name).attributes or {})


def test_a_name_that_the_view_gave_stays(spans: Spans) -> None:
    Client().get("/renamed/checkout/")
    span = spans.one("checkout")
    assert (span.attributes or {})["http.route"] == "/renamed/<str:name>/"


def test_a_user_agent_is_kept_to_its_end(spans: Spans) -> None:
    """Edge and Opera name themselves after Chrome."""
    Client().get("/things/7/", headers={"User-Agent": EDGE})
    Client().get("/things/7/", headers={"User-Agent": "x " * 600})
    first, second = ((span.attributes or {})["http.user_agent"] for span in spans if span.kind is SpanKind.SERVER)
    assert first == EDGE
    assert len(str(second)) == 512


@pytest.mark.parametrize("scope", ["shop", "opentelemetry.instrumentation.wsgi"])
@pytest.mark.parametrize("name", ["http.user_agent", "user_agent.original"])
def test_a_user_agent_that_others_set_is_kept_to_its_end(spans: Spans, scope: str, name: str) -> None:
    with trace.get_tracer(scope).start_as_current_span("theirs") as span:
        span.set_attribute(name, EDGE)
    with trace.get_tracer(scope).start_as_current_span("theirs") as span:
        span.set_attribute(name, "x " * 600)
    first, second = ((span.attributes or {})[name] for span in spans)
    assert first == EDGE
    assert len(str(second)) == 512
