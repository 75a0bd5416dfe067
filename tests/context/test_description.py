"""Test that a request is described in the same way for its span, sampling rules, remote sampling and pages."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import include, path, re_path
from django.utils import translation

from django_tracing.context.description import (
    find_route,
    host_of,
    method_of,
    resolve_early,
    span_name,
)
from tests.conftest import Spans


def view(request: HttpRequest, **arguments: Any) -> HttpResponse:
    return HttpResponse("ok")


nested = [re_path(r"^(?P<year>[0-9]{4})/(?:page-(?P<page>\d+)/)?$", view)]

urlpatterns = [
    path("things/<int:pk>/", view),
    re_path(r"^people/(?P<pk>\d+)/$", view),
    re_path(r"^files/(.+)$", lambda request, name: view(request)),
    re_path(r"^optional/?$", view),
    path("archive/", include(nested)),
]

PATHS = ["/things/7/", "/people/7/", "/files/a/b.txt", "/optional", "/archive/2026/", "/archive/2026/page-3/"]

here = override_settings(ROOT_URLCONF=__name__)


class Translated:
    urlpatterns = i18n_patterns(path("things/<int:pk>/", view), re_path(r"^people/(?P<pk>\d+)/$", view))


@here
@pytest.mark.parametrize("url", PATHS)
def test_the_route_resolved_early_is_the_route_of_the_span(url: str, spans: Spans, client: Any) -> None:
    assert client.get(url).status_code == 200
    [span] = [span for span in spans if span.name.startswith("GET ")]
    assert span.attributes is not None
    assert find_route(url) == span.attributes["http.route"]
    assert span.name == f"GET {find_route(url)}"


@here
def test_no_route() -> None:
    assert find_route("/nowhere/") == ""
    assert resolve_early("/nowhere/") is None


@override_settings(ROOT_URLCONF=Translated, LANGUAGES=[("en", "English"), ("de", "German")], USE_I18N=True)
def test_a_path_that_starts_with_a_language() -> None:
    assert find_route("/de/people/7/") == "/de/people/<pk>/"
    assert find_route("/en/things/7/") == "/en/things/<int:pk>/"
    assert translation.get_language() == "en-us"


def test_the_method_and_the_host() -> None:
    make = RequestFactory()
    assert method_of(make.post("/")) == "POST"
    assert method_of(make.generic("INVENTED", "/")) == "HTTP"
    assert host_of({"HTTP_HOST": "shop.example:8000", "SERVER_NAME": "inner"}) == "shop.example:8000"
    assert host_of({"SERVER_NAME": "inner", "SERVER_PORT": "443"}) == "inner"
    assert host_of({"SERVER_NAME": "inner", "SERVER_PORT": "8000"}) == "inner:8000"


@here
def test_the_name_that_the_span_will_have() -> None:
    request = RequestFactory().get("/people/7/")
    assert span_name(request) == "GET (no route)"
    request.resolver_match = resolve_early("/people/7/")
    assert span_name(request) == "GET /people/<pk>/"
