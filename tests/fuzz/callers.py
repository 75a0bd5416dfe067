"""What callers send: headers, requests, jobs and messages."""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from io import BytesIO
from typing import Any, Final

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponse, RawPostDataException
from django.test import override_settings
from hypothesis import strategies as st
from opentelemetry import baggage, propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import default_getter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import TraceState, get_current_span

import django_tracing
from django_tracing.conf.loading import get_settings, load
from django_tracing.conf.values import Settings
from django_tracing.context.clients import client_address, is_trusted, vouched_address
from django_tracing.context.description import url_of
from django_tracing.context.extraction import extract, inject, well_formed_tracestate
from django_tracing.context.outgoing import may_get
from django_tracing.context.propagation import available_propagator
from django_tracing.context.request import incoming_id, well_formed
from django_tracing.context.trace_page import address_in_request, origin_of_url
from django_tracing.export.wire import encode_spans
from django_tracing.instrumentation.channels.messages import CARRIER, CarriedMessage, carrier_of, shown_type
from django_tracing.instrumentation.jobs.tracing import start_run
from django_tracing.instrumentation.log_records import (
    TraceContextFilter,
    TracePageFilter,
    _answered,
    _complete,
    _name_trace,
    structlog_processor,
)
from django_tracing.instrumentation.request.incoming import is_left_out, read_caller
from django_tracing.instrumentation.request.middleware import TracingMiddleware
from django_tracing.instrumentation.request.page_names import _graphql_operation
from django_tracing.redaction.states import redact_tracestate
from django_tracing.sampling.debug_header import is_valid_debug_header
from django_tracing.sampling.trace_state import jaeger_randomness, randomness, with_own_randomness, with_threshold
from django_tracing.spans import end_span
from tests.fuzz.promises import check_attributes, check_headers, check_line
from tests.fuzz.running import Target
from tests.fuzz.spans import keeping

__all__ = ["TARGETS"]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER: Final = f"00-{TRACE}-{PARENT}-01"
_NETWORKS: Final = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fe80::/16"))

# ----- trace context

_PARTS: Final = (
    *(
        CALLER,
        TRACE,
        PARENT,
        "00-",
        "ff-",
        "cc-",
        "-01",
        "-00",
        "01",
        "d",
        "k=v",
        "ot=th:8;rv:",
        "a@b=c",
        "=,",
        ";p=1",
    ),
    *(f"{TRACE}-{PARENT}-1", f"{TRACE}:{PARENT}:0:1", "0" * 32, "0" * 16, "%20", "%0d%0aX: y", ":0:1", "v;p;q=1"),
)
#: As WSGI and ASGI decode headers.
_latin = st.characters(max_codepoint=255)
_values = st.one_of(st.lists(st.sampled_from(_PARTS), max_size=8).map("".join), st.text(_latin, max_size=60))


def _headers(*names: str) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(st.sampled_from(names), _values, min_size=1, max_size=4)


@contextmanager
def _propagators(*names: str) -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(available_propagator(names)[0])
    try:
        yield
    finally:
        propagate.set_global_textmap(before)


def _meta_of(headers: Mapping[str, str]) -> dict[str, str]:
    return {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}


@lru_cache(maxsize=1)
def _trusting() -> Settings:
    return load({"EXPORTER": "none", "TRUST_PARENT": "always"}, {})


def _passed_on(context: Context) -> dict[str, str]:
    carrier: dict[str, str] = {}
    inject(carrier, context)
    check_headers(carrier)
    assert sum(map(len, carrier.values())) <= 20_000
    return carrier


def check_context(headers: Any) -> None:
    """What a caller sent is passed on in headers that can be sent, and comes back as the same."""
    headers = {str(name): value for name, value in headers.items() if isinstance(value, str)}
    for context in (
        read_caller(_meta_of(headers), Context(), _trusting()).context,
        extract({name.lower(): value for name, value in headers.items()}, Context(), default_getter),
    ):
        carrier = _passed_on(context)
        span = get_current_span(context).get_span_context()
        again = extract({name.lower(): value for name, value in carrier.items()}, Context(), default_getter)
        found = get_current_span(again).get_span_context()
        if span.is_valid:
            assert (found.trace_id, found.trace_flags.sampled) == (span.trace_id, span.trace_flags.sampled), carrier
            states(span.trace_state, span.trace_id)
        if len(propagate.get_global_textmap().fields) > 6:
            # Each propagator has its own way to write the same baggage, and there is room for one.
            continue
        known = {name.lower() for name in carrier}
        if any(name == "baggage" or name.startswith("uberctx-") for name in known):
            assert _compared(again) == _compared(context), carrier


def _compared(context: Context) -> dict[str, str]:
    # White space at the ends does not survive a header, nor does an empty one of Jaeger's.
    found = {name.lower(): str(value).strip() for name, value in baggage.get_all(context).items()}
    return {name: value for name, value in found.items() if value}


def check_own_state(text: str) -> None:
    states(TraceState.from_header([well_formed_tracestate(f"ot={text}")]), int(TRACE, 16))


def states(state: TraceState, trace_id: int) -> None:
    """Sampling's part of a caller's tracestate."""
    assert 0 <= randomness(trace_id, state) < 1 << 56
    assert 0 <= jaeger_randomness(trace_id, state) < 1 << 128
    for changed in (with_threshold(state, 5), with_own_randomness(state)):
        written = changed.to_header()
        assert changed.get("ot"), written
        assert TraceState.from_header([written]).to_header() == written
        check_headers({"tracestate": written})
    assert len(redact_tracestate(state.to_header())) <= 10_000


def _context_target(
    name: str, headers: tuple[str, ...], *examples: dict[str, str], former: tuple[dict[str, str], ...] = ()
) -> Target:
    propagators = {"all of them": ("tracecontext", "baggage", "b3", "b3multi", "jaeger")}.get(name, (name,))
    return Target(
        f"trace context: {name}",
        check_context,
        _headers(*headers),
        examples,
        _PARTS,
        former,
        partial(_propagators, *propagators),
    )


_BAGGAGE: Final = "userId=alice,serverNode=DF%2028,isProduction=false;secret;ttl=5,empty="
_STATES: Final = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7,1@vendor=x y,ot=th:c;rv:6e6d1a75832a2f"
_B3: Final = {
    "X-B3-TraceId": TRACE,
    "X-B3-SpanId": PARENT,
    "X-B3-ParentSpanId": "05e3ac9a4f6e3b90",
    "X-B3-Sampled": "1",
}
_UBER: Final = {"uber-trace-id": f"{TRACE}:{PARENT}:0:1", "uberctx-user": "alice", "uberctx-a.b": "J%C3%BCrgen%0A"}


# ----- correlation ids, addresses


def check_correlation(values: tuple[str, str]) -> None:
    first, second = values
    meta = {"HTTP_X_CORRELATION_ID": first, "HTTP_X_REQUEST_ID": second}
    found = incoming_id(meta)
    assert well_formed(found)
    assert len(found) <= 128
    check_headers({"X-Correlation-ID": found})
    assert found in (first, second) or len(found) == 32


def check_clients(values: tuple[str, str]) -> None:
    remote, forwarded = values
    meta = {"REMOTE_ADDR": remote, "HTTP_X_FORWARDED_FOR": forwarded, "HTTP_FORWARDED": forwarded}
    for trusted in ((), _NETWORKS):
        for found in (client_address(meta, trusted), vouched_address(meta, trusted)):
            # The server's own address is what the server says.
            if found and not remote.startswith(found):
                check_line(found, 60)
                ipaddress.ip_address(found)
        is_trusted(meta, _NETWORKS, trusted)
    assert vouched_address(meta, ()) == ""


_addresses = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses().map(lambda address: f"[{address}]:80"),
    st.sampled_from(["", "10.0.0.1", "unix:", "fe80::1%eth0", "::ffff:10.0.0.1", "unknown", "_hidden"]),
    st.text(_latin, max_size=20),
)


# ----- requests


def _view(request: HttpRequest) -> HttpResponse:
    carrier = django_tracing.get_trace_context()
    check_headers(carrier)
    with django_tracing.create_span("inside"):
        django_tracing.set_baggage("tier", "gold")
        return HttpResponse("ok")


_SITE: Final[dict[str, Any]] = {
    "DEBUG_HEADER": "X-Trace-Debug",
    "TRUST_PARENT": ["10.0.0.0/8"],
    "TRUSTED_PROXIES": ["127.0.0.0/8"],
    "KEEP_ERRORS": True,
    "RESPONSE_HEADERS": ["Server-Timing", "traceresponse"],
    "IGNORE_PATHS": ["/health"],
    "QUERY_URL": "http://jaeger:16686",
}
_handler: Any = None


@contextmanager
def _site() -> Iterator[None]:
    global _handler
    from django.conf import settings

    tracing = {**getattr(settings, "TRACING", {}), **_SITE}
    with (
        _propagators("tracecontext", "baggage", "b3", "b3multi", "jaeger"),
        override_settings(TRACING=tracing, ALLOWED_HOSTS=["*", ".example.org"], ROOT_URLCONF="tests.fuzz.callers"),
    ):
        _handler = TracingMiddleware(_view)
        yield


def request_of(headers: Mapping[str, str], method: str, path: str, query: str, body: bytes = b"") -> WSGIRequest:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
    }
    environ.update(_meta_of(headers))
    return WSGIRequest(environ)


def check_request(values: tuple[str, str, str, dict[str, str]]) -> None:
    method, path, query, headers = values
    # A server decodes bytes as Latin-1: there are no others.
    method, path, query = (text.encode("latin-1", "replace").decode("latin-1") for text in (method, path, query))
    headers = {
        str(name): value.encode("latin-1", "replace").decode("latin-1")
        for name, value in headers.items()
        if isinstance(value, str)
    }
    request = request_of(headers, method, path, query)
    is_left_out(request, get_settings())
    with keeping() as spans:
        response = _handler(request)
    assert response.content == b"ok"
    check_headers({name: value for name, value in response.headers.items() if name != "Content-Type"})
    check_line(address_in_request(get_settings(), request, TRACE), 10_000)
    for span in spans:
        check_attributes(span.attributes or {})
        assert len(span.name) <= 300
    ExportTraceServiceRequest.FromString(encode_spans(spans))


_HEADERS: Final = (
    *("traceparent", "tracestate", "baggage", "b3", "uber-trace-id", "uberctx-a", "X-B3-TraceId", "X-Correlation-ID"),
    *("X-Forwarded-For", "Forwarded", "Host", "User-Agent", "X-Trace-Debug", "X-Request-ID", "Referer", "Cookie"),
)
_requests = st.tuples(
    st.sampled_from(["GET", "POST", "PROPFIND", "get", ""]) | st.text(_latin, max_size=9),
    st.one_of(st.text(_latin, max_size=60).map(lambda text: f"/{text}"), st.sampled_from(["/", "//", "/a/%2e/"])),
    st.text(_latin, max_size=60),
    st.dictionaries(st.sampled_from(_HEADERS), _values, max_size=4),
)


def check_host(value: str) -> None:
    host = value.encode("latin-1", "replace").decode("latin-1")
    request = request_of({"Host": host}, "GET", "/a", "b=1")
    assert url_of(request, request.path).startswith("http://")
    check_line(address_in_request(get_settings(), request, TRACE), 10_000)
    with suppress(ValueError):
        check_line(origin_of_url(f"http://{value}/a"), 10_000)
    may_get(f"http://{value}/a", ("example.org", "*.x.org", "a:80"))
    may_get(value, ("example.org", "*.x.org", "a:80"))


def check_debug_header(value: str, path: str) -> None:
    assert not is_valid_debug_header(value, path)


# ----- GraphQL


def check_graphql(values: tuple[Any, str, str]) -> None:
    document, content_type, query = values
    body = document if isinstance(document, bytes) else json.dumps(document).encode("utf-8", "replace")
    request = request_of({}, "POST", "/graphql", query.encode("latin-1", "replace").decode("latin-1"), body)
    request.META["CONTENT_TYPE"] = content_type
    request.content_type = content_type
    # The view has read it.
    with suppress(RawPostDataException, SuspiciousOperation, BadRequest):
        request.body  # noqa: B018
    if "form" in content_type:
        with suppress(Exception):
            request.POST  # noqa: B018
    name = _graphql_operation(request, HttpResponse())
    if name is not None:
        check_line(name, 100)


_OPERATION: Final = {
    "operationName": "ListOrders",
    "query": "query ListOrders { orders { id } }",
    "variables": {"a": 1},
}


# ----- jobs and messages


def check_job(carrier: Any) -> None:
    """A worker gets anything as what a job carries."""
    started = start_run("task.run.a", {"task.name": "a"}, carrier)
    if started is not None:
        state = started.state
        assert state is None or well_formed(state.correlation_id)
        check_headers(_passed_on(started.context))
        end_span(started.span)
        check_attributes(getattr(started.span, "attributes", None) or {})


_CARRIER: Final = {
    "traceparent": CALLER,
    "tracestate": _STATES,
    "baggage": _BAGGAGE,
    "X-Correlation-ID": "a1b2",
    "user.id": "42",
    "user.subscription": "gold",
}


def check_use(headers: Any) -> None:
    """The public way to continue a trace: a mapping, pairs, texts or bytes."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    if not isinstance(pairs, (list, type({}.items()))) or not all(isinstance(pair, tuple) for pair in pairs):
        return
    with django_tracing.use_trace_context(headers):
        check_headers(django_tracing.get_trace_context())
        assert well_formed(django_tracing.get_correlation_id() or "x")


def check_message(message: Any) -> None:
    if not isinstance(message, dict):
        return
    check_line(shown_type(message), 80)
    carried = CarriedMessage({**message, CARRIER: message.get(CARRIER)})
    headers = carrier_of(carried)
    if headers is not None:
        _passed_on(extract(headers, Context(), default_getter))
    assert CARRIER not in carried


# ----- log records


def check_record(values: tuple[Any, dict[str, Any], str]) -> None:
    """Fields for formatters, JSON or not; and runserver's line, which gets the address of the trace."""
    message, extra, host = values
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, message, (), None)
    record.__dict__.update({str(key): value for key, value in extra.items()})
    before = dict(record.__dict__)
    _complete(record)
    TraceContextFilter().filter(record)
    TracePageFilter().filter(record)
    ours = {"trace_id", "span_id", "correlation_id", "service", "trace_url"}
    for key, value in record.__dict__.items():
        if key not in ours:
            assert value is before[key]
    for key in ours - before.keys():
        check_line(getattr(record, key), 1000)
    event: dict[str, Any] = dict(extra)
    structlog_processor(None, "info", event)
    host = host.encode("latin-1", "replace").decode("latin-1")
    context = get_current_span(extract({"traceparent": CALLER}, Context(), default_getter)).get_span_context()
    _answered.request = context, request_of({"Host": host}, "GET", "/", "")
    line = logging.LogRecord("django.server", logging.INFO, __file__, 1, '"%s" %s', ("GET / HTTP/1.1", "200"), None)
    _name_trace(line)
    check_line(line.getMessage(), 10_000)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.binary(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)

urlpatterns: list[Any] = []

TARGETS: Final = (
    _context_target(
        "tracecontext",
        ("traceparent", "tracestate"),
        {"traceparent": CALLER, "tracestate": _STATES},
        {"traceparent": f"cc-{TRACE}-{PARENT}-01-what.comes", "tracestate": "k=" + "v" * 250},
    ),
    _context_target("baggage", ("baggage",), {"baggage": _BAGGAGE}, {"baggage": "a%2Bb=c , name=J%C3%BCrgen%20K"}),
    _context_target(
        "b3", ("b3",), {"b3": f"{TRACE}-{PARENT}-1-05e3ac9a4f6e3b90"}, {"b3": f"{PARENT}-{PARENT}-d"}, {"b3": "0"}
    ),
    _context_target("b3multi", tuple(_B3), _B3, {**_B3, "X-B3-Flags": "1"}),
    _context_target(
        "jaeger",
        tuple(_UBER),
        _UBER,
        {**_UBER, "uber-trace-id": "abc:1:0:3"},
        former=({**_UBER, "uberctx-\x8a": "e"}, {**_UBER, "uberctx-a\r\nSet-Cookie": "b"}),
    ),
    _context_target(
        "all of them",
        ("traceparent", "tracestate", "baggage", "b3", *_B3, *_UBER, "X-Correlation-ID"),
        {"traceparent": CALLER, "tracestate": _STATES, "baggage": _BAGGAGE, **_B3, **_UBER, "X-Correlation-ID": "a1"},
    ),
    Target(
        "tracestate of sampling",
        check_own_state,
        st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=",="), max_size=80),
        ("th:c;rv:6e6d1a75832a2f", "rv:00000000000000;th:0"),
        ("th:", "rv:", ";"),
    ),
    Target(
        "correlation ids",
        check_correlation,
        st.tuples(_values, _values),
        (("a1b2-c3", ""), ("", "01HZX.1:2_3"), ("x" * 128, "y" * 129)),
    ),
    Target(
        "X-Forwarded-For",
        check_clients,
        st.tuples(_addresses, st.lists(_addresses, max_size=5).map(", ".join)),
        (
            ("10.0.0.1", "203.0.113.7, 10.1.2.3"),
            ("fe80::1", "[2001:db8::7]:4711, fe80::2%eth0"),
            ("", "::ffff:1.2.3.4"),
        ),
        ("10.0.0.1, ", "fe80::1%", "::ffff:10.0.0.1", "[", "]:80", ","),
        (("10.0.0.1", "::1%\nb"), ("10.0.0.1", "1.2.3.4, fe80::2%\x1b[31m"), ("10.0.0.1", f"::5%{'a' * 900}")),
    ),
    Target(
        "Host",
        check_host,
        st.text(_latin, max_size=60),
        ("a.example.org:8000", "[::1]:80", "127.0.0.1"),
        around=_site,
    ),
    Target(
        "requests",
        check_request,
        _requests,
        (
            (
                "GET",
                "/items/42/",
                "page=2&token=abc",
                {"Host": "a.example.org", "traceparent": CALLER, "baggage": _BAGGAGE},
            ),
            (
                "POST",
                "/a/b",
                "",
                {"X-Forwarded-For": "1.2.3.4, 10.0.0.1", "User-Agent": "Mozilla/5.0", "b3": f"{TRACE}-{PARENT}-1"},
            ),
            ("GET", "/reset/abc/", "q=%e4%bd%a0", {"X-Trace-Debug": "trace:1abc:def", "X-Correlation-ID": "a1"}),
        ),
        _PARTS,
        around=_site,
        weight=6,
    ),
    Target(
        "debug header",
        lambda values: check_debug_header(*values),
        st.tuples(st.text(_latin, max_size=60), st.text(max_size=20)),
        (("8a5edab282632443219e051e4ade2d1d:1vOjJU:" + "a" * 43, "/orders/"), ("a:b:c", "/")),
        (":", "1vOjJU"),
        ((":\ud800", "/\udcff"),),
    ),
    Target(
        "GraphQL operations",
        check_graphql,
        st.tuples(
            _anything.map(lambda value: repr(value).encode("utf-8", "replace")) | st.binary(max_size=60),
            st.sampled_from(
                [
                    "application/json",
                    "application/graphql",
                    "application/x-www-form-urlencoded",
                    "multipart/form-data; boundary=x",
                ]
            ),
            st.text(_latin, max_size=40),
        ),
        (
            (_OPERATION, "application/json", ""),
            ([_OPERATION, _OPERATION], "application/json", ""),
            (b"query ListOrders { orders { id } }", "application/graphql", ""),
            (b"query=mutation+Pay+%7B+pay+%7D&operationName=Pay", "application/x-www-form-urlencoded", ""),
            (b"", "application/json", "query=query+Q+%7Ba%7D&operationName=Q"),
            (
                b'--x\r\nContent-Disposition: form-data; name="operations"\r\n\r\n{"query": "query Q {a}"}\r\n--x--\r\n',
                "multipart/form-data; boundary=x",
                "",
            ),
        ),
        ("query ", "mutation ", "operationName", "}", "a=1&" * 300),
        ((b"", "application/json", "a=1&" * 1001),),
    ),
    Target(
        "what jobs carry",
        check_job,
        _anything,
        (_CARRIER, {"uber-trace-id": f"{TRACE}:{PARENT}:0:1", "X-Correlation-ID": "x"}),
        _PARTS,
        around=partial(_propagators, "tracecontext", "baggage", "b3", "jaeger"),
        weight=2,
    ),
    Target(
        "use_trace_context",
        check_use,
        st.dictionaries(st.sampled_from(_HEADERS), _values | st.binary(max_size=20), max_size=4)
        | st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12) | st.binary(max_size=12)), max_size=4),
        ({"traceparent": CALLER, "baggage": _BAGGAGE}, {"Traceparent": CALLER.encode(), "x-correlation-id": b"a1"}),
        _PARTS,
        around=partial(_propagators, "tracecontext", "baggage", "jaeger"),
    ),
    Target(
        "channel layers' messages",
        check_message,
        st.dictionaries(st.sampled_from(["type", CARRIER, "text"]), _anything, max_size=3),
        ({"type": "chat.message", CARRIER: _CARRIER, "text": "hello"},),
        _PARTS,
        around=partial(_propagators, "tracecontext", "baggage", "jaeger"),
    ),
    Target(
        "log records",
        check_record,
        st.tuples(
            _anything,
            st.dictionaries(st.sampled_from(["service", "trace_id", "a"]), _anything, max_size=2),
            st.text(_latin, max_size=20),
        ),
        (("paid %s", {"service": "mine"}, "a.example.org"), ({"a": 1}, {}, "localhost:8000")),
        around=_site,
        linear=False,
    ),
)
