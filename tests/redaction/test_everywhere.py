"""Test that a secret planted anywhere in a request is not in the exported bytes."""

from __future__ import annotations

import logging
import random
import string
from collections.abc import Callable, Iterator
from typing import Any

import pybreaker
import pytest
import requests
from django.core.cache import caches
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path, re_path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace as trace_api

import django_tracing
from benchmarks.kinds import draw, is_left
from django_tracing.conf.loading import get_settings
from django_tracing.export.wire import encode_spans
from django_tracing.instrumentation import log_records as logs
from django_tracing.spans import runtime
from tests.callees import Callee
from tests.conftest import Spans
from tests.redaction.test_text import CARD, JWT

#: The function that the view calls with the secret.
_doing: list[Callable[[str], Any]] = []
_secret: list[str] = []
_callee: list[str] = []


def view(request: HttpRequest, rest: str = "") -> HttpResponse:
    _doing[0](_secret[0])
    return HttpResponse("ok")


def with_token(request: HttpRequest, **arguments: object) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [
    path("plain/", view),
    path("invitations/<str:rest>/", view),
    path("reset/<uidb64>/<token>/", with_token),
    path("verify/<int:otp>/", with_token),
    path("files/<path:session_key>", with_token),
    path("tariffs/<slug:tariff>/", with_token),
    re_path(r"^sign-in/(?P<api_key>[^/]+)-now/$", with_token),
]


def query(secret: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT '{secret}', %s", [secret])


def wrong_query(secret: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT CAST(%s AS integer)", [secret])


def cached(secret: str) -> None:
    for cache in (caches["default"], caches["redis"]):
        cache.set(f"session:{secret}", secret)
        cache.get_many([f"a:{secret}", f"b:{secret}"])


def redis_used_directly(secret: str) -> None:
    client = caches["redis"].client.get_client()  # type: ignore[attr-defined]
    client.set(f"session:{secret}", secret)
    with client.pipeline() as pipeline:
        pipeline.hset(f"cart:{secret}", "card", secret)
        pipeline.eval(f"return '{secret}'", 0)
        pipeline.execute()


def broken(secret: str) -> None:
    breaker = pybreaker.CircuitBreaker(name=f"payments token={secret}")
    breaker.call(fail, secret)


def fail(secret: str) -> None:
    raise ValueError(f"refused: password={secret}")


def fail_with_text(secret: str) -> None:
    raise PermissionError(f"Authorization: Bearer {secret}")


def call(secret: str) -> None:
    requests.get(f"{_callee[0]}/reset/{secret}?api_key={secret}", headers={"Authorization": secret}, timeout=10)


def failing_call(secret: str) -> None:
    requests.get(f"{_callee[0]}/404?key={secret}&code={secret}", timeout=10).raise_for_status()


def set_attributes(secret: str) -> None:
    django_tracing.set_span_attributes(
        {
            "api_key": secret,
            "sessionId": secret,
            "note": f"sent with secret: {secret}",
            "url": f"https://u:{secret}@example.com/",
            "list": [f"token={secret}"],
            f"password={secret}": 1,
        }
    )
    django_tracing.add_span_event(f"token={secret}", {"cookie": secret})
    django_tracing.set_baggage("tenant", secret)
    with django_tracing.create_span(f"work token={secret}", {"authorization": secret}) as span:
        span.record_error(KeyError(f"secret={secret}"))
    with trace_api.get_tracer("shop").start_as_current_span(
        f"shop token={secret}", attributes={"shop.token": secret, "shop.note": f"Bearer {secret}"}
    ) as own:
        own.add_event("shop.event", {"password": secret})
        own.set_status(trace_api.StatusCode.ERROR, f"password={secret}")
    current = trace_api.get_current_span()
    current.set_attribute("credit_card", secret)
    current.add_event("event", {"x_auth_token": secret})
    current.update_name(f"GET /plain/ token={secret}")
    django_tracing.trace_database_operation("select", "people", int, statement=f"SELECT '{secret}'")
    django_tracing.trace_cache_operation("get", f"session:{secret}", int, system="redis")
    django_tracing.trace_external_call("s", "GET", f"http://x/?token={secret}", int)
    with django_tracing.trace_rate_limit_check(f"limit token={secret}"):
        pass


def log(secret: str) -> None:
    try:
        fail(secret)
    except ValueError:
        logging.getLogger("shop").exception("token=%s", secret)


DEEDS = [
    query,
    wrong_query,
    cached,
    redis_used_directly,
    broken,
    fail,
    fail_with_text,
    call,
    failing_call,
    set_attributes,
    log,
]

_LETTERS = st.text(string.ascii_letters + string.digits, min_size=20, max_size=40)
SECRETS = _LETTERS.map(lambda text: f"aB3{text}9Zq") | st.sampled_from([JWT])


@pytest.fixture(scope="module")
def site(redis_url: str) -> Iterator[None]:
    tracing = {"EXPORTER": "none", "LAYERS": "all", "LOG_ERRORS": True}
    with Callee() as callee, override_settings(ROOT_URLCONF=__name__, TRACING=tracing):
        _callee[:] = [callee.url]
        logs.install(get_settings())
        yield
    logs.install(get_settings())


@pytest.fixture(params=["our spans", "the SDK's"])
def span_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use this app's spans, and the SDK's spans, which are used with its limits or another provider."""
    before = runtime.current
    if request.param != "our spans":
        runtime.use(before.replace(factory=None))
    yield
    runtime.use(before)


@pytest.mark.usefixtures("site", "db", "span_kind")
@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
@given(secret=SECRETS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_secret_is_not_exported(deed: Callable[[str], Any], spans: Spans, secret: str) -> None:
    spans.clear()
    _doing[:], _secret[:] = [deed], [secret]
    client = Client(raise_request_exception=False)
    client.cookies["sessionid"] = secret
    headers = {
        "authorization": f"Bearer {secret}",
        "cookie": f"a={secret}",
        "x-api-key": secret,
        "user-agent": f"agent token={secret}",
        "baggage": f"token={secret}",
        "referer": f"http://x/?token={secret}",
    }
    try:
        client.get(f"/plain/?token={secret}&next=/%3Fpassword%3D{secret}", headers=headers)
        client.post(f"/invitations/{secret}/?email=ada@example.com", {"password": secret}, headers=headers)
    except DatabaseError:
        pass
    finally:
        connection.close()
    assert len(spans) >= 2
    for span in spans:
        exported = encode_spans([span])
        assert secret.encode()[:16] not in exported, span.to_json()
        assert b"ada@example.com" not in exported, span.to_json()


def without_a_name(secret: str) -> None:
    django_tracing.set_span_attributes({"note": secret, "words": f"got {secret}", "list": ["a", secret]})
    django_tracing.add_span_event(f"got {secret}", {"note": f"({secret})"})
    with django_tracing.create_span(f"work on {secret}", {"note": secret}) as span:
        span.record_error(KeyError(secret))
    with trace_api.get_tracer("shop").start_as_current_span("shop", attributes={"shop.note": secret}) as own:
        own.set_status(trace_api.StatusCode.ERROR, f"no {secret}")
    logging.getLogger("shop").error("no %s", secret)
    requests.get(f"{_callee[0]}/404?q={secret}", timeout=10).raise_for_status()


@pytest.mark.usefixtures("site", "db", "span_kind")
@pytest.mark.parametrize(
    "kind",
    ["github-pat", "stripe-access-token", "slack-bot-token", "aws-access-token", "gcp-api-key", "sendgrid-api-token"]
    + ["npm-access-token", "facebook-secret", "mattermost-access-token", "cohere-api-token", "vault-service-token"],
)
def test_a_token_without_a_name_is_not_exported(kind: str, spans: Spans) -> None:
    secret, parts = draw(kind, random.Random(kind))
    _doing[:], _secret[:] = [without_a_name], [secret]
    client = Client(raise_request_exception=False)
    try:
        client.get(f"/plain/?q={secret}&next=/a/{secret}", headers={"user-agent": f"agent {secret}"})
        client.get(f"/invitations/{secret}/")
    finally:
        connection.close()
    assert len(spans) >= 8
    for span in spans:
        exported = encode_spans([span]).decode("utf-8", "replace")
        assert not is_left(parts, exported), span.to_json()


@pytest.mark.usefixtures("site", "db")
def test_cards_and_email_addresses_are_recognized_everywhere(spans: Spans) -> None:
    _doing[:] = [lambda secret: django_tracing.set_span_attributes({"paid.with": int(CARD), "recorded": CARD})]
    _secret[:] = [""]
    Client().get(f"/plain/?pay={CARD}&to=ada@example.com", headers={"user-agent": f"{CARD} ada@example.com"})
    exported = encode_spans(list(spans))
    assert CARD.encode() not in exported
    assert b"ada@example.com" not in exported


def usual(_: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, name FROM auth_group WHERE name = %s ORDER BY id LIMIT 21", ["editors"])
    for cache in (caches["default"], caches["redis"]):
        cache.get("session:list")
    caches["redis"].client.get_client().get("session:list")  # type: ignore[attr-defined]
    requests.get(f"{_callee[0]}/api/v2/orders/0b0c8c1e-5d2f-4f0b-9a44-2f1d1f6c1a10/?page=2&sort=-created", timeout=10)
    with django_tracing.create_span("import of opentelemetry-instrumentation-psycopg2") as span:
        span.set_attributes(
            {
                "order.id": "0b0c8c1e-5d2f-4f0b-9a44-2f1d1f6c1a10",
                "k8s.pod.name": "web-7d9f8b6c5d-x2k9p",
                "file": "/usr/lib/python3.13/site-packages/django/db/backends/utils.py",
                "gen_ai.usage.input_tokens": 1200,
                "is_authenticated": True,
                "note": "GET /static/admin/js/core.cf103cd04ebf.js took 12.5 ms; 50% of 200",
            }
        )
    with trace_api.get_tracer("shop").start_as_current_span("shop.price"):
        pass


@pytest.mark.usefixtures("site", "db", "span_kind")
def test_an_ordinary_request_remains_readable(spans: Spans) -> None:
    _doing[:], _secret[:] = [usual], [""]
    response = Client().get("/plain/?page=2&category=garden-furniture", headers={"user-agent": "Mozilla/5.0 (X11)"})
    assert len(spans) >= 8
    for span in spans:
        attributes = dict(span.attributes or {})
        assert attributes["correlation.id"] == response["X-Correlation-ID"], span.name
        assert "[redacted]" not in f"{span.name} {attributes}"
    recorded = " ".join(f"{span.name} {dict(span.attributes or {})}" for span in spans)
    for text in (
        "SELECT id, name FROM auth_group WHERE name = %s ORDER BY id LIMIT ?",
        "GET /plain/",
        "http://testserver/plain/?page=2&category=garden-furniture",
        "/api/v2/orders/0b0c8c1e-5d2f-4f0b-9a44-2f1d1f6c1a10/?page=2&sort=-created",
        "cache.get.session:list",
        "GET session:list",
        "web-7d9f8b6c5d-x2k9p",
        "core.cf103cd04ebf.js",
    ):
        assert text in recorded, text


@pytest.mark.usefixtures("site", "span_kind")
@pytest.mark.parametrize(
    ("requested", "shown"),
    [
        ("/reset/MQ/hunter2/", "/reset/MQ/[redacted]/"),
        ("/reset/MQ/s%20t/", "/reset/MQ/[redacted]/"),
        ("/reset/e/e/", "/[redacted]/"),
        ("/verify/482913/", "/verify/[redacted]/"),
        ("/verify/0482913/", "/verify/0[redacted]/"),
        ("/files/a/hunter2", "/files/[redacted]"),
        ("/sign-in/hunter2-now/", "/sign-in/[redacted]-now/"),
        ("/tariffs/winter/", "/tariffs/winter/"),
    ],
)
def test_a_parameter_of_the_route_is_known_by_its_name(requested: str, shown: str, spans: Spans) -> None:
    assert Client().get(f"{requested}?page=2").status_code == 200
    urls = [str((span.attributes or {}).get("http.url", "")) for span in spans]
    assert any(f"{shown}?page=2" in url for url in urls), urls
    for secret in ("hunter2", "482913", "s%20t", "s t"):
        assert secret.encode() not in encode_spans(list(spans))
