"""Test the headers of outgoing calls with each client: the user's headers are kept, and only listed hosts receive any."""

from __future__ import annotations

import random
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import requests
from django.test import override_settings
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as context_api
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from django_tracing import get_trace_context
from django_tracing.conf.loading import load
from django_tracing.context.outgoing import may_get
from django_tracing.context.request import RequestState, with_request_state
from tests.callees import CLIENTS, Callee

tracer = trace.get_tracer("tests")
#: A traceparent set by the user, for example to forward one.
THEIRS = f"00-{'1' * 32}-{'2' * 16}-01"
STATE = "vendor=theirs"


@pytest.fixture(scope="module")
def callee() -> Iterator[Callee]:
    with Callee() as callee:
        yield callee


@pytest.fixture(params=list(CLIENTS))
def get(request: pytest.FixtureRequest) -> Callable[..., int]:
    return CLIENTS[request.param]


@contextmanager
def request(*, sampled: bool = True, correlation: str = "ours-1") -> Iterator[str]:
    """Enter a request's context with a sampled or an unsampled span; yield its trace id."""
    context = baggage.set_baggage("who", "ours", with_request_state(RequestState(correlation)))
    if not sampled:
        parent = SpanContext(7, 8, False, TraceFlags(0))
        context = trace.set_span_in_context(NonRecordingSpan(parent), context)
    token = context_api.attach(context)
    try:
        if not sampled:
            yield f"{7:032x}"
        else:
            with tracer.start_as_current_span("request") as span:
                yield f"{span.get_span_context().trace_id:032x}"
    finally:
        context_api.detach(token)


@pytest.mark.parametrize("sampled", [True, False])
class TestExistingHeaders:
    @pytest.mark.parametrize("name", ["X-Correlation-ID", "x-correlation-id"])
    def test_a_correlation_id_is_kept(
        self, get: Callable[..., int], callee: Callee, sampled: bool, name: str
    ) -> None:
        with request(sampled=sampled) as trace_id:
            get(callee.url, {name: "theirs-1"})
        headers = callee.received[-1]
        assert headers["x-correlation-id"] == "theirs-1"
        assert trace_id in headers["traceparent"], "the other headers are set"
        assert headers["baggage"] == "who=ours"

    def test_a_baggage_header_is_kept(self, get: Callable[..., int], callee: Callee, sampled: bool) -> None:
        with request(sampled=sampled):
            get(callee.url, {"Baggage": "who=theirs"})
        assert callee.received[-1]["baggage"] == "who=theirs"

    def test_a_traceparent_is_kept_with_its_own_state(
        self, get: Callable[..., int], callee: Callee, sampled: bool
    ) -> None:
        for headers in ({"traceparent": THEIRS}, {"Traceparent": THEIRS, "tracestate": STATE}):
            with request(sampled=sampled):
                get(callee.url, headers)
            assert callee.received[-1]["traceparent"] == THEIRS
            assert callee.received[-1].get("tracestate") == headers.get("tracestate")

    def test_the_user_s_own_dict_is_not_changed(self, get: Callable[..., int], callee: Callee, sampled: bool) -> None:
        headers = {"Accept": "text/plain"}
        with request(sampled=sampled):
            get(callee.url, headers)
        assert headers == {"Accept": "text/plain"}
        assert "traceparent" in callee.received[-1]


def test_headers_of_a_repeated_request_are_not_taken_for_the_users(callee: Callee) -> None:
    """A prepared request or a request object contains the headers that were injected when it was first sent."""
    prepared = requests.Request("GET", callee.url).prepare()
    again = urllib.request.Request(callee.url)
    with requests.Session() as session, httpx.Client() as client:
        built = client.build_request("GET", callee.url)
        for send in (
            lambda: session.send(prepared),
            lambda: urllib.request.urlopen(again).close(),
            lambda: client.send(built),
        ):
            for number in range(3):
                with request(correlation=f"request-{number}") as trace_id:
                    send()
                assert trace_id in callee.received[-1]["traceparent"]
                assert callee.received[-1]["x-correlation-id"] == f"request-{number}"


def test_the_result_of_get_trace_context_can_be_forwarded(callee: Callee) -> None:
    with request():
        headers = get_trace_context()
    with request(correlation="another"):
        requests.get(callee.url, headers=headers, timeout=10)
    assert headers.items() <= callee.received[-1].items() | {("X-Correlation-ID", headers["X-Correlation-ID"])}


def test_a_message_s_headers_are_replaced() -> None:
    """Headers copied from one message to the next don't pass through an HTTP client."""
    with request() as trace_id:
        carrier = {"traceparent": THEIRS}
        propagate.inject(carrier)
        assert trace_id in carrier["traceparent"]


@pytest.mark.parametrize("sampled", [True, False])
class TestHosts:
    @pytest.mark.parametrize(
        ("hosts", "gets"),
        [
            (["*"], True),
            (["127.0.0.1"], True),
            (["*.internal", "127.0.0.1:{port}"], True),
            (["localhost"], False),
            (["127.0.0.1:1"], False),
            ([], False),
        ],
    )
    def test_by_host(
        self, get: Callable[..., int], callee: Callee, sampled: bool, hosts: list[str], gets: bool
    ) -> None:
        port = callee.host.partition(":")[2]
        tracing = {"PROPAGATE_TO": [host.format(port=port) for host in hosts]}
        with override_settings(TRACING=tracing), request(sampled=sampled):
            assert get(callee.url, {"X-Own": "1"}) == 200
        headers = callee.received[-1]
        assert [name in headers for name in ("traceparent", "baggage", "x-correlation-id")] == [gets] * 3
        assert headers["x-own"] == "1"

    def test_without_a_trace(self, get: Callable[..., int], callee: Callee, sampled: bool) -> None:
        token = context_api.attach(with_request_state(RequestState("ours-1")))
        for hosts, gets in ((["127.0.0.1"], True), (["elsewhere"], False)):
            with override_settings(TRACING={"PROPAGATE_TO": hosts}):
                get(callee.url)
            assert ("x-correlation-id" in callee.received[-1]) is gets
        context_api.detach(token)

    def test_headers_of_the_user_are_sent_to_every_host(
        self, get: Callable[..., int], callee: Callee, sampled: bool
    ) -> None:
        with override_settings(TRACING={"PROPAGATE_TO": []}), request(sampled=sampled):
            get(callee.url, {"traceparent": THEIRS, "X-Correlation-ID": "theirs-1"})
        assert callee.received[-1]["traceparent"] == THEIRS
        assert callee.received[-1]["x-correlation-id"] == "theirs-1"

    def test_a_redirect_to_another_host_removes_them(
        self, get: Callable[..., int], callee: Callee, sampled: bool
    ) -> None:
        with Callee() as elsewhere:
            with override_settings(TRACING={"PROPAGATE_TO": [callee.host]}), request(sampled=sampled):
                assert get(f"{callee.url}/?to={elsewhere.url}/", {"X-Own": "1"}) == 200
            assert "traceparent" in callee.received[-1]
            [headers] = elsewhere.received
        assert not headers.keys() & {"traceparent", "baggage", "x-correlation-id"}
        assert headers["x-own"] == "1"

    def test_a_redirect_keeps_the_users_headers(self, get: Callable[..., int], callee: Callee, sampled: bool) -> None:
        with Callee() as elsewhere:
            with override_settings(TRACING={"PROPAGATE_TO": []}), request(sampled=sampled):
                assert get(f"{callee.url}/?to={elsewhere.url}/", {"X-Correlation-ID": "theirs-1"}) == 200
            [headers] = elsewhere.received
        assert headers["x-correlation-id"] == "theirs-1"

    def test_a_redirect_keeps_them_if_all_hosts_are_allowed(
        self, get: Callable[..., int], callee: Callee, sampled: bool
    ) -> None:
        with Callee() as elsewhere:
            with request(sampled=sampled) as trace_id:
                assert get(f"{callee.url}/?to={elsewhere.url}/") == 200
            [headers] = elsewhere.received
        assert trace_id in headers["traceparent"]


def test_injections_without_a_host() -> None:
    with override_settings(TRACING={"PROPAGATE_TO": []}), request():
        assert "traceparent" in get_trace_context()
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        assert "traceparent" in carrier


@pytest.mark.parametrize(
    ("url", "hosts", "gets"),
    [
        ("https://api.example.com/x", ("api.example.com",), True),
        ("https://API.Example.com./x", ("api.example.com",), True),
        ("https://api.example.com/x", ("api.example.com:443",), True),
        ("http://api.example.com/x", ("api.example.com:443",), False),
        ("https://api.example.com:8443/", ("api.example.com",), True),
        ("https://api.example.com/", ("*.example.com",), True),
        ("https://a.b.example.com/", ("*.example.com",), True),
        ("https://api.example.com:8443/", ("*.example.com:8443",), True),
        ("https://example.com/", ("*.example.com",), False),
        ("https://evilexample.com/", ("*.example.com", "example.com"), False),
        ("https://example.com.evil.net/", ("*.example.com", "example.com"), False),
        ("https://example.com@evil.net/", ("*.example.com", "example.com"), False),
        ("https://evil.net/?example.com", ("*.example.com", "example.com"), False),
        ("http://[::1]:8000/", ("[::1]:8000",), True),
        ("http://[::1]:8000/", ("::1",), True),
        ("http://[::1/", ("::1",), False),
        ("nonsense", ("nonsense",), False),
        ("", ("",), False),
    ],
)
def test_hosts(url: str, hosts: tuple[str, ...], gets: bool) -> None:
    assert may_get(url, hosts) is gets


def test_no_carrier_makes_a_call_fail() -> None:
    numbers = random.Random(2)

    class Refuses(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("an unusual carrier")

    for carrier in ([], Refuses(), {b"traceparent": b"x"}, {None: None}, object(), "text", 7):
        with request(sampled=bool(numbers.getrandbits(1))), CalledContext():
            propagate.inject(carrier)  # type: ignore[arg-type]


class CalledContext:
    def __enter__(self) -> None:
        from django_tracing.context.outgoing import CalledSpan

        span = CalledSpan(trace.get_current_span().get_span_context(), "http://x/")
        self._token = context_api.attach(trace.set_span_in_context(span))

    def __exit__(self, *exc_info: Any) -> None:
        context_api.detach(self._token)


@pytest.mark.parametrize(
    "wrong", [["*internal"], ["*."], ["api.*"], "*.internal", ["http://x"], ["a/b"], ["a.*"], [7], [""]]
)
def test_an_invalid_setting(wrong: Any) -> None:
    [problem] = load({"PROPAGATE_TO": wrong}, {}).problems
    assert problem.setting == "PROPAGATE_TO"
