"""Test the spans of Django REST framework's throttles and of django-ratelimit in real requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django_ratelimit import core
from django_ratelimit.decorators import ratelimit
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from rest_framework.authentication import BaseAuthentication
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import (
    AnonRateThrottle,
    BaseThrottle,
    ScopedRateThrottle,
    SimpleRateThrottle,
    UserRateThrottle,
)
from rest_framework.views import APIView

from django_tracing.instrumentation import rate_limit
from tests.conftest import Spans


class ByHeader(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[User, None] | None:
        if "HTTP_X_USER" not in request.META:
            return None
        return User(pk=int(request.META["HTTP_X_USER"]), username="ada", email="ada@example.com"), None


class Burst(UserRateThrottle):
    scope = "burst"
    rate = "2/min"
    cache = caches["redis"]


class Anonymous(AnonRateThrottle):
    rate = "100/hour"


class Scoped(ScopedRateThrottle):
    THROTTLE_RATES = {"uploads": "1/day"}


class Own(BaseThrottle):
    """A throttle instance that all requests share, as in some projects."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        return request.query_params.get("allowed") == "yes"


class OwnSubclass(SimpleRateThrottle):
    scope = "own"
    rate = "5/min"

    def get_cache_key(self, request: Request, view: APIView) -> str:
        return "throttle-own"

    def allow_request(self, request: Request, view: APIView) -> bool:
        return bool(super().allow_request(request, view))


class Broken(BaseThrottle):
    def allow_request(self, request: Request, view: APIView) -> bool:
        raise ConnectionError("redis://:hunter2@cache is down")


class View(APIView):
    authentication_classes = [ByHeader]
    permission_classes: list[Any] = []
    renderer_classes = [JSONRenderer]

    def get(self, request: Request) -> Response:
        return Response({"get_throttles": "get_throttles" in vars(self)})


class Uploads(View):
    throttle_scope = "uploads"


_own = Own()


class Sharing(View):
    def get_throttles(self) -> list[BaseThrottle]:
        return [_own]


@ratelimit(group="login", key="ip", rate="1/h", method="POST")
def login(request: HttpRequest) -> HttpResponse:
    return HttpResponse("in")


@ratelimit(key="ip", rate="1/h", block=False)
def search(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.limited))  # type: ignore[attr-defined]


async def quote(request: HttpRequest) -> HttpResponse:
    usage = core.get_usage(request, group="quote", key="ip", rate="3/m", increment=True)
    return HttpResponse(str(usage["count"]))


urlpatterns = [
    path("both/", View.as_view(throttle_classes=[Burst, Anonymous])),
    path("uploads/", Uploads.as_view(throttle_classes=[Scoped])),
    path("sharing/", Sharing.as_view()),
    path("own/", View.as_view(throttle_classes=[OwnSubclass])),
    path("broken/", View.as_view(throttle_classes=[Broken])),
    path("login/", login),
    path("search/", search),
    path("quote/", quote),
]


@pytest.fixture(autouse=True)
def site(redis_url: str) -> Iterator[None]:
    for cache in (caches["default"], caches["redis"]):
        cache.clear()
    with override_settings(ROOT_URLCONF=__name__):
        yield


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return {key: value for key, value in (span.attributes or {}).items() if key.startswith("rate_limit.")}


def checks(spans: Spans) -> list[dict[str, Any]]:
    return [attributes_of(span) for span in spans.named("rate_limit.check")]


def test_throttles_of_a_view(client: Client, spans: Spans) -> None:
    answers = [client.get("/both/", headers={"x-user": "42"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].json() == {"get_throttles": False}, "the view is unchanged"
    found = checks(spans)
    assert [(check["rate_limit.allowed"], check["rate_limit.remaining"]) for check in found] == [
        (True, 1),
        (True, 0),
        (False, 0),
    ]
    assert found[0]["rate_limit.operation"] == "burst"
    assert found[0]["rate_limit.limit"] == 2
    assert 0 <= found[0]["rate_limit.reset"] <= 60
    blocked = spans.named("rate_limit.check")[-1]
    assert (blocked.attributes or {})["operation.type"] == "rate_limit"
    assert (blocked.attributes or {})["user.id"] == "42"
    assert blocked.status.status_code is StatusCode.UNSET
    requests = spans.named("GET /both/")
    assert [attributes_of(request) for request in requests] == [{}, {}, {"rate_limit.blocked": True}]
    # The check's span contains the cache's calls.
    below = [span for span in spans if span.parent and span.parent.span_id == blocked.get_span_context().span_id]
    assert [span.name for span in below] == ["cache.get.throttle_burst_*"]
    assert "ada@" not in "".join(span.to_json() for span in spans)


def test_a_throttle_that_does_not_apply_makes_no_span(client: Client, spans: Spans) -> None:
    client.get("/both/", headers={"x-user": "42"})
    assert [check["rate_limit.operation"] for check in checks(spans)] == ["burst"]
    spans.clear()
    client.get("/both/")
    assert [check["rate_limit.operation"] for check in checks(spans)] == ["burst", "anon"]
    assert "127.0.0.1" not in "".join(str(attributes_of(span)) for span in spans.named("rate_limit.check"))


def test_a_scope_of_the_view(client: Client, spans: Spans) -> None:
    assert [client.get("/uploads/").status_code for _ in range(2)] == [200, 429]
    assert [(check["rate_limit.operation"], check["rate_limit.allowed"]) for check in checks(spans)] == [
        ("uploads", True),
        ("uploads", False),
    ]


def test_custom_throttles(client: Client, spans: Spans) -> None:
    assert client.get("/sharing/?allowed=yes").status_code == 200
    assert client.get("/sharing/").status_code == 429
    assert client.get("/own/").status_code == 200
    assert checks(spans)[:2] == [
        {"rate_limit.operation": "Own", "rate_limit.allowed": True},
        {"rate_limit.operation": "Own", "rate_limit.allowed": False},
    ]
    assert len(checks(spans)) == 3, "a subclass that calls its parent's method is one check"
    assert vars(_own) == {}


def test_an_exception_of_a_throttle_propagates(spans: Spans) -> None:
    with pytest.raises(ConnectionError):
        Client().get("/broken/")
    span = spans.one("rate_limit.check")
    assert span.status.status_code is StatusCode.ERROR
    assert "hunter2" not in span.to_json()


def test_ratelimit_s_decorator_that_blocks(client: Client, spans: Spans) -> None:
    assert client.get("/login/").status_code == 200
    assert checks(spans) == [], "it is for POST"
    assert [client.post("/login/").status_code for _ in range(2)] == [200, 403]
    assert [(c["rate_limit.operation"], c["rate_limit.allowed"], c["rate_limit.limit"]) for c in checks(spans)] == [
        ("login", True, 1),
        ("login", False, 1),
    ]
    assert attributes_of(spans.named("POST /login/")[-1]) == {"rate_limit.blocked": True}


def test_ratelimit_s_decorator_that_does_not_block(client: Client, spans: Spans) -> None:
    assert [client.get("/search/").content for _ in range(2)] == [b"False", b"True"]
    assert [check["rate_limit.remaining"] for check in checks(spans)] == [0, 0]
    assert checks(spans)[0]["rate_limit.operation"] == f"{__name__}.search"


async def test_ratelimit_in_an_async_view(spans: Spans) -> None:
    answer = await AsyncClient().get("/quote/")
    assert answer.content == b"1"
    [check] = checks(spans)
    assert (check["rate_limit.operation"], check["rate_limit.remaining"]) == ("quote", 2)


def test_unsampled_requests_make_no_span(client: Client, spans: Spans) -> None:
    answers = [
        client.get("/both/", headers={"x-user": "42", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"})
        for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert spans.names == []


def test_uninstall_restores_everything(client: Client, spans: Spans) -> None:
    rate_limit.uninstall()
    try:
        assert APIView.check_throttles.__module__ == "rest_framework.views"
        assert not hasattr(APIView.check_throttles, "__wrapped__")
        assert not hasattr(core.get_usage, "__wrapped__")
        client.get("/both/")
        client.post("/login/")
        assert checks(spans) == []
    finally:
        rate_limit.install()
        rate_limit.install()
    client.get("/both/")
    assert len(checks(spans)) == 2


def test_without_either_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rate_limit.is_available()
    monkeypatch.setattr(rate_limit, "find_spec", lambda name: None)
    assert not rate_limit.is_available()


def test_unknown_values_are_left_out() -> None:
    assert rate_limit.describe("a", None, None, None, None) == {"rate_limit.operation": "a"}
    assert rate_limit.describe("a", True, 3, -1, 2.9) == {
        "rate_limit.operation": "a",
        "rate_limit.allowed": True,
        "rate_limit.limit": 3,
        "rate_limit.remaining": 0,
        "rate_limit.reset": 2,
    }
