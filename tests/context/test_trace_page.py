"""Test the addresses of the pages of traces."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st

from django_tracing.context.trace_page import address_in_request, origin_of_url, page_path

TRACE = "ab" * 16
PATH = f"/admin/django_tracing/trace/{TRACE}/"


def address(request: Any, trace_id: str = TRACE, **settings: Any) -> str:
    shown = {"reader": None, "exporter": "local", "query_url": None, **settings}
    return address_in_request(SimpleNamespace(**shown), request, trace_id)


@pytest.fixture
def admin(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.pages.urls"


@pytest.mark.usefixtures("admin")
@pytest.mark.parametrize(
    ("allowed", "host", "link"),
    [
        (["shop.example"], "shop.example", f"http://shop.example{PATH}"),
        ([".example"], "eu.shop.example:8443", f"http://eu.shop.example:8443{PATH}"),
        (["*"], "localhost:8000", f"http://localhost:8000{PATH}"),
        (["*"], "127.0.0.1:8000", f"http://127.0.0.1:8000{PATH}"),
        (["*"], "[::1]:8000", f"http://[::1]:8000{PATH}"),
        # Chosen by the client.
        (["*"], "evil.example", ""),
        (["*", "shop.example"], "shop.example", f"http://shop.example{PATH}"),
        (["shop.example"], "evil.example", ""),
        (["*"], "localhost@evil.example", ""),
        (["*"], "localhost\x1b[0m", ""),
    ],
)
def test_a_link_leads_to_a_host_of_the_site(settings: Any, allowed: list[str], host: str, link: str) -> None:
    settings.ALLOWED_HOSTS = allowed
    request = RequestFactory().get("/", headers={"host": host})
    assert address(request) == link
    assert origin_of_url(f"http://{host}/x?y=1") == link.removesuffix(PATH)


@pytest.mark.usefixtures("admin")
def test_a_link_keeps_https_and_needs_a_request() -> None:
    request = RequestFactory().get("/", secure=True)
    assert address(request) == f"https://testserver{PATH}"
    assert address(None) == ""
    assert address(request, "not an id") == ""


def test_jaeger_shows_what_the_admin_does_not(settings: Any) -> None:
    request = RequestFactory().get("/")
    settings.ROOT_URLCONF = "tests.urls"
    assert address(request, exporter="otlp", query_url="http://jaeger:16686") == f"http://jaeger:16686/trace/{TRACE}"
    settings.ROOT_URLCONF = "tests.pages.urls"
    assert address(request, exporter="otlp", query_url="http://jaeger:16686") == f"http://testserver{PATH}"
    # Nothing can be read.
    assert address(request, exporter="otlp") == ""


@pytest.mark.parametrize("urlconf", ["tests.urls", "tests.no_such_module"])
def test_a_site_without_the_admin_has_no_page(settings: Any, urlconf: str) -> None:
    settings.ROOT_URLCONF = urlconf
    assert page_path(TRACE) == ""
    assert address(RequestFactory().get("/")) == ""


@given(st.one_of(st.text(), st.text(alphabet="htp:/[]@#?%.1a\x1b\n ").map("http://localhost".__add__)))
def test_any_text_is_no_link_or_one_to_this_site(url: str) -> None:
    origin = origin_of_url(url)
    assert not origin or origin.removeprefix("http://").partition(":")[0].lower().rstrip(".") in (
        "localhost",
        "testserver",
    )
