"""Test that no request writes a log line, in this app's loggers or in those of OpenTelemetry that it calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from django.core.exceptions import BadRequest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import default_getter
from opentelemetry.trace import TraceState, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import django_tracing
from django_tracing.conf.loading import load
from django_tracing.context.extraction import (
    extract,
    well_formed_baggage,
    well_formed_traceparent,
    well_formed_tracestate,
)
from django_tracing.context.propagation import available_propagator
from django_tracing.sampling.rules import Rule, compile_rules
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.spans import runtime
from tests.instrumentation.request.test_middleware import tracing as configured

TRACE, PARENT = "ab" * 16, "cd" * 8
CALLER = f"00-{TRACE}-{PARENT}-01"


def view(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    # Forward the context with every propagator, here and as in OpenTelemetry's instrumentations of clients.
    django_tracing.get_trace_context()
    propagate.inject({})
    with django_tracing.create_span("inside"):
        return HttpResponse("ok")


def failing(request: HttpRequest) -> HttpResponse:
    raise ValueError(request.get_full_path())


urlpatterns = [path("", view), path("fail/", failing), path("<path:rest>/things/", view)]


class Never(dict):  # type: ignore[type-arg]
    """An empty dict: messages that are logged once an hour are logged each time."""

    def get(self, key: object, default: object = None) -> object:
        return default


class Lines(logging.Handler):
    """A handler that collects the lines of this app and of OpenTelemetry."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in ("django_tracing", "opentelemetry"):
            self.lines.append(f"{record.name}: {record.getMessage()}\n{record.exc_info}")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Set all loggers to DEBUG; messages that this app logs once per process are logged each time."""
    monkeypatch.setattr("django_tracing.faults._faults.by_key", Never())
    root, handler = logging.getLogger(), Lines()
    monkeypatch.setattr(root, "level", logging.DEBUG)
    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]
    root.addHandler(handler)
    yield handler.lines
    root.removeHandler(handler)
    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Configure everything that reads what a caller sends: every propagator, all kinds of rules, a debug header, proxies."""
    options = {
        "DEBUG_HEADER": "X-Trace-Debug",
        "TRUST_PARENT": ["10.0.0.0/8"],
        "TRUSTED_PROXIES": ["127.0.0.0/8"],
        "KEEP_ERRORS": True,
        "RESPONSE_HEADERS": ["Server-Timing", "traceresponse"],
    }
    sampler = RuleSampler(0.5, load({"EXPORTER": "none", "SAMPLE_RATE": 0.5, **options}, {}))
    rules = [
        Rule(1, "path", path="*/things/*", rate=0.5, max_per_second=5),
        Rule(2, "header", header_name="X-Correlation-ID", header_value="1"),
        Rule(3, "user", user_id="1"),
        Rule(4, "pattern", path="~^/a+b"),
    ]
    sampler.use(compile_rules(rules, "tests"))
    factory = runtime.current.factory
    assert factory is not None
    monkeypatch.setattr(factory, "decide", sampler.decide)
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(available_propagator(["tracecontext", "baggage", "b3", "b3multi", "jaeger"])[0])
    with configured(**options), override_settings(ROOT_URLCONF=__name__):
        yield
    propagate.set_global_textmap(before)


# ----- What callers send

#: Parts of header values that parsers look for, or don't expect.
_PIECES = (
    *(",", "=", ";", ":", "-", "_", ".", "%", " ", "\t", "@", "/", "*", '"', "\\", "[", "]", "+", "?", "&", "#", "~"),
    *(
        "a",
        "0",
        "1",
        "f",
        "ab",
        "%00",
        "%0d%0a",
        "%zz",
        "%25",
        "%e2%82%ac",
        "\x00",
        "\x1b[2J",
        "\xff",
        "\xe9",
        "\x85",
    ),
    *("00-", "ff-", CALLER, TRACE, PARENT, "k=v", "k=v;p=1", "=,", "ot=th:8;rv:", "vendor@x=1", "127.0.0.1", "::1"),
    *("10.0.0.1, ", "[::1]:80", "fe80::1%eth0", "unknown", "for=1.2.3.4", "true", "d", f"{TRACE}:{PARENT}:0:1"),
)
values = st.one_of(
    st.lists(st.sampled_from(_PIECES), max_size=40).map("".join),
    st.tuples(st.sampled_from(_PIECES), st.integers(1, 4000)).map(lambda pair: (pair[0] * pair[1])[:60_000]),
    st.text(st.characters(max_codepoint=255), max_size=100),
)
_HEADERS = (
    *(
        "traceparent",
        "tracestate",
        "baggage",
        "b3",
        "X-B3-TraceId",
        "X-B3-SpanId",
        "X-B3-ParentSpanId",
        "X-B3-Sampled",
    ),
    *("X-B3-Flags", "uber-trace-id", "uberctx-a", "uberctx-key.with%0d", "X-Correlation-ID", "X-Request-ID"),
    *(
        "X-Forwarded-For",
        "Forwarded",
        "Host",
        "User-Agent",
        "X-Trace-Debug",
        "Cookie",
        "Content-Length",
        "Content-Type",
    ),
    *("Referer", "Accept", "Authorization", "X-Anything"),
)
headers = st.dictionaries(st.sampled_from(_HEADERS), values, max_size=8)
#: Most of these are sent with a well-formed context, because the rest isn't read otherwise.
callers = st.one_of(headers, headers.map(lambda given: {**given, "traceparent": CALLER}))
methods = st.one_of(
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PROPFIND", "get", ""]), st.text("aZ-!", max_size=9)
)
paths = st.one_of(
    st.sampled_from(["/", "/fail/", "/x/things/", "//", "/\xff\xfe/things/"]),
    values.map(lambda text: f"/{text}"),
)
requests = st.tuples(methods, paths, values, callers)

#: The smallest of each kind.
_FLOODS = (
    {"baggage": "=," * 2000},
    {"baggage": "," + "=," * 181},
    {"baggage": "a" * 9000},
    {"baggage": "k=" + "*" * 8000},
    {"baggage": "%20=1,\xe9=1,a=1;=,b=%ff"},
    {"baggage": ",".join(f"k{number}=v" for number in range(500))},
    {"tracestate": "=,=", "traceparent": CALLER},
    {"tracestate": ",".join(f"k{number}=v" for number in range(33)), "traceparent": CALLER},
    {"tracestate": "k=" + "v" * 600, "traceparent": CALLER},
    {"tracestate": "k=v,k=w", "traceparent": CALLER},
    {"tracestate": "ot=" + "x:y;" * 60 + "rv:" + "f" * 14, "traceparent": CALLER},
    {"uber-trace-id": f"{TRACE}:{PARENT}:0:1", "uberctx-a": "%ff%0d%0a" * 3000},
    {"uber-trace-id": f"{TRACE}:{PARENT}:0:1", "uberctx-a": "*" * 4000, "uberctx-b": "*" * 4000},
    {"uber-trace-id": f"{TRACE}:{PARENT}:0:1", "uberctx-a": "a" * 1000, "baggage": "k=" + "v" * 8000},
    {"X-Trace-Debug": "trace:" + "a" * 5000},
    {"X-Trace-Debug": "\xff:\xff:\xff"},
    {"Host": "a\x00b" + "c" * 9000},
    {"Content-Type": "a" * 10_001},
)


def floods(test: Any) -> Any:
    for given_headers in _FLOODS:
        test = example(("GET", "/", "", given_headers))(test)
    return settings(
        max_examples=150,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )(given(requests)(test))


def latin(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def refused_by_django(make: Callable[[], object]) -> bool:
    """Return True if Django itself rejects the request before any middleware (such as a Content-Type that is too long)."""
    try:
        make()
    except ValueError:
        return True
    return False


def send_request(method: str, path: str, query: str, given_headers: dict[str, str]) -> None:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
        "wsgi.errors": None,
    }
    for name, value in given_headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"] = value
    if refused_by_django(lambda: _wsgi.request_class(dict(environ))):
        return
    response = _wsgi(environ, lambda status, headers, exc_info=None: lambda data: None)
    for _ in response:
        pass
    response.close()  # type: ignore[attr-defined]


async def send_async_request(method: str, path: str, query: str, given_headers: dict[str, str]) -> None:
    async def receive() -> dict[str, Any]:
        if asked:
            await asyncio.sleep(3600)
        asked.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    asked: list[bool] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method or "GET",
        "scheme": "http",
        "path": path,
        "query_string": latin(query),
        "root_path": "",
        "headers": [(latin(name.lower()), latin(value)) for name, value in given_headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }
    if not refused_by_django(lambda: _asgi.request_class(scope, BytesIO())):
        await _asgi(scope, receive, send)


@pytest.fixture(scope="module", autouse=True)
def handlers() -> Iterator[None]:
    global _wsgi, _asgi
    _wsgi, _asgi = WSGIHandler(), ASGIHandler()
    # As Django's test client does, because other tests use the connections.
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


_wsgi: Any
_asgi: Any


@floods
def test_a_request_makes_no_line(lines: list[str], site: None, request_: tuple[Any, ...]) -> None:
    lines.clear()
    with suppress(BadRequest):  # Django's, before it calls any middleware
        send_request(*request_)
    assert lines == []


@floods
def test_an_async_request_makes_no_line(lines: list[str], site: None, request_: tuple[Any, ...]) -> None:
    lines.clear()
    with suppress(BadRequest):
        asyncio.run(send_async_request(*request_))
    assert lines == []


@floods
def test_a_consumer_s_message_makes_no_line(lines: list[str], site: None, request_: tuple[Any, ...]) -> None:
    lines.clear()
    with django_tracing.use_trace_context({**request_[-1], "correlation": request_[1]}):
        django_tracing.get_trace_context()
        propagate.inject({})
    assert lines == []


# ----- The result is the same as OpenTelemetry's


@given(values)
def test_well_formed_values_are_read_as_by_opentelemetry(value: str) -> None:
    """Values passed to OpenTelemetry's propagators are used completely, and none that they would use is lost."""
    kept = well_formed_baggage(value)
    theirs = baggage.get_all(W3CBaggagePropagator().extract({"baggage": kept}, Context()))
    assert len(theirs) <= 180
    all_of_them = baggage.get_all(W3CBaggagePropagator().extract({"baggage": value}, Context()))
    assert {key: value for key, value in all_of_them.items() if key in theirs} == theirs
    states = well_formed_tracestate(value)
    assert TraceState.from_header([states]).to_header() == states
    assert len(states) <= 512
    parent = well_formed_traceparent(value)
    if not parent:
        found = TraceContextTextMapPropagator().extract({"traceparent": value}, Context())
        assert not get_current_span(found).get_span_context().is_valid or len(value) > 200


def test_headers_of_callers_are_read() -> None:
    header = {
        "traceparent": f" {CALLER}\t",
        "tracestate": "congo=t61rcWkgMzE , rojo=00f067aa0ba902b7,1@vendor=x y",
        "baggage": "tier=gold , name=J%C3%BCrgen%20K;secret;ttl=5,empty=, a%2Bb=c",
    }
    context = extract(header, Context(), default_getter)
    span = get_current_span(context).get_span_context()
    assert (f"{span.trace_id:032x}", span.trace_flags, span.is_remote) == (TRACE, 1, True)
    assert span.trace_state.to_header() == "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7,1@vendor=x y"
    assert dict(baggage.get_all(context)) == {
        "tier": "gold",
        "name": "Jürgen K;secret;ttl=5",
        "empty": "",
        "a+b": "c",
    }
    later = {"traceparent": CALLER.replace("00-", "cc-", 1) + "-what.comes"}
    assert get_current_span(extract(later, Context(), default_getter)).get_span_context().is_valid


@pytest.mark.parametrize("name", ["a%0d%0ab", "%20", "a%3ab", "", "a b", "a%2cb"])
def test_a_name_in_baggage_cannot_break_a_header(name: str) -> None:
    """Jaeger's propagator writes ``uberctx-NAME``: a line break in it fails the site's own call."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(available_propagator(["baggage", "jaeger"])[0])
    try:
        assert dict(baggage.get_all(extract({"baggage": f"{name}=1,ok=2"}, Context(), default_getter))) == {"ok": "2"}
    finally:
        propagate.set_global_textmap(before)


class _Broken(TraceContextTextMapPropagator):
    """A custom propagator that logs and fails."""

    def extract(self, carrier: Any, context: Any = None, getter: Any = default_getter) -> Context:
        logging.getLogger(__name__).warning("What is %s?", getter.get(carrier, "traceparent"))
        raise LookupError("failed")


def test_a_propagator_that_fails_loses_the_callers_context_and_logs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("django_tracing.faults._faults.by_key", {})
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(_Broken())
    try:
        for _ in range(3):
            assert extract({"traceparent": CALLER}, Context(), default_getter) == Context()
    finally:
        propagate.set_global_textmap(before)
    assert [record.getMessage() for record in caplog.records] == [
        "The context of a caller could not be read. It is ignored."
    ]
    logging.getLogger(__name__).warning("Outside of it, that logger writes lines.")
    assert len(caplog.records) == 2
