"""Test the spans of outgoing requests, made with each client to a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests
from django.test import override_settings
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing.context.request import RequestState, with_request_state
from django_tracing.instrumentation.upstream.http_client import describe, peer_service
from example_project.servers import free_port
from tests.callees import CLIENTS, Callee
from tests.conftest import Spans

tracer = trace.get_tracer("tests")


@pytest.fixture(scope="module")
def callee() -> Iterator[Callee]:
    with Callee() as callee:
        yield callee


@pytest.fixture(params=list(CLIENTS))
def get(request: pytest.FixtureRequest) -> Callable[[str], int]:
    return CLIENTS[request.param]


@pytest.fixture
def named(callee: Callee) -> Iterator[None]:
    with override_settings(TRACING={"PEER_SERVICES": {callee.host: "user-service"}}):
        yield


def test_a_call_is_one_span_named_after_its_service(
    get: Callable[[str], int], callee: Callee, spans: Spans, named: None
) -> None:
    scope = RequestState("abc-1")
    token = context_api.attach(with_request_state(scope))
    with tracer.start_as_current_span("request") as parent:
        assert get(f"{callee.url}/users/7?page=2&access_token=hunter2") == 200
    context_api.detach(token)

    assert spans.names == ["http.get.user-service", "request"]
    span = spans.one("http.get.user-service")
    assert span.kind is SpanKind.CLIENT
    assert span.parent == parent.get_span_context()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["operation.type"] == "external"
    assert span.attributes["peer.service"] == "user-service"
    assert span.attributes["http.method"] == "GET"
    assert span.attributes["http.status_code"] == 200
    assert span.attributes["http.url"] == f"{callee.url}/users/7?page=2&access_token=[redacted]"
    assert span.attributes["correlation.id"] == "abc-1"

    headers = callee.received[-1]
    sent = span.context
    assert headers["traceparent"] == f"00-{sent.trace_id:032x}-{sent.span_id:016x}-{sent.trace_flags:02x}"
    assert headers["x-correlation-id"] == "abc-1"


@pytest.mark.parametrize("status", [404, 503])
def test_an_error_response_is_an_error_of_the_call(
    get: Callable[[str], int], callee: Callee, spans: Spans, named: None, status: int
) -> None:
    with tracer.start_as_current_span("request"):
        assert get(f"{callee.url}/{status}") == status
    span = spans.one("http.get.user-service")
    assert span.attributes is not None
    assert span.attributes["http.status_code"] == status
    assert span.status.status_code is StatusCode.ERROR


def test_an_unreachable_service_raises_the_same_exception_as_without_tracing(
    get: Callable[[str], int], spans: Spans
) -> None:
    url = f"http://127.0.0.1:{free_port()}/?password=hunter2"
    with pytest.raises(Exception) as plain:  # noqa: PT011  # each client raises its own exception
        get(url)
    assert len(spans) == 0
    with tracer.start_as_current_span("request"), pytest.raises(plain.type):
        get(url)
    span = spans.one("http.get.127.0.0.1")
    assert span.status.status_code is StatusCode.ERROR
    assert "hunter2" not in span.to_json()


def test_a_call_outside_a_trace_makes_no_span_and_sends_no_context(
    get: Callable[[str], int], callee: Callee, spans: Spans
) -> None:
    assert get(callee.url) == 200
    assert len(spans) == 0
    assert "traceparent" not in callee.received[-1]
    assert "x-correlation-id" not in callee.received[-1]


def test_a_call_in_an_unsampled_trace_sends_that_it_is_not_sampled(
    get: Callable[[str], int], callee: Callee, spans: Spans
) -> None:
    parent = trace.SpanContext(0x1234, 0x5678, is_remote=False, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(parent)):
        assert get(callee.url) == 200
    assert len(spans) == 0
    _, trace_id, _, flags = callee.received[-1]["traceparent"].split("-")
    assert (trace_id, flags) == (f"{0x1234:032x}", "00")


def test_baggage_is_sent_with_the_call(get: Callable[[str], int], callee: Callee, spans: Spans) -> None:
    token = context_api.attach(baggage.set_baggage("tier", "gold"))
    with tracer.start_as_current_span("request"):
        get(callee.url)
    context_api.detach(token)
    assert callee.received[-1]["baggage"] == "tier=gold"


def test_the_method_is_in_the_name(callee: Callee, spans: Spans, named: None) -> None:
    with tracer.start_as_current_span("request"):
        requests.post(callee.url, timeout=10)
        requests.request("BREW", callee.url, timeout=10)
    assert spans.names == ["http.post.user-service", "http.other.user-service", "request"]


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://users.internal:8080/x", "users"),
        ("http://users.internal:9090/x", "others"),
        ("http://USERS.Internal:9090/x", "others"),
        ("https://pay.example.com/charge", "payments"),
        ("https://pay.example.com:443/charge", "payments"),
        ("https://pay.example.com:8443/charge", "pay.example.com"),
        ("http://pay.example.com/charge", "pay.example.com"),
        ("http://10.0.0.7:80/", "10.0.0.7"),
        ("http://[::1]:8000/", "loopback"),
        ("http://[::2]:8000/", "::2"),
        ("http://user:password@10.0.0.8/", "10.0.0.8"),
        ("http://", "unknown"),
        ("http://[broken", "unknown"),
        ("http://host:port/", "unknown"),
        ("/only/a/path", "unknown"),
        ("http://" + "a" * 500 + "/", "a" * 99 + "…"),
    ],
)
def test_peer_service(url: str, service: str) -> None:
    services = {
        "users.internal:8080": "users",
        "users.internal": "others",
        "pay.example.com:443": "payments",
        "[::1]:8000": "loopback",
    }
    assert peer_service(url, services) == service


def test_long_names_are_cut() -> None:
    described = describe({"http.request.method": "GET", "url.full": "http://" + "a" * 500}, {})
    assert described is not None
    assert len(described[0]) == 100


@pytest.mark.parametrize(
    "attributes", [{}, {"http.method": "GET"}, {"http.url": "http://a/"}, {"db.system": "redis"}]
)
def test_spans_of_other_calls_are_unchanged(attributes: dict[str, str]) -> None:
    assert describe(attributes, {}) is None
