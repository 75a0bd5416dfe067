"""Test trace context through a real Django service: from a caller, and with each client to another service."""

from __future__ import annotations

import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path
from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter, TextMapPropagator, default_getter, default_setter
from opentelemetry.sdk.trace import ReadableSpan

from django_tracing.context.extraction import extract
from django_tracing.context.propagation import available_propagator
from tests.callees import CLIENTS, Callee
from tests.conftest import Spans

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def call(request: HttpRequest, client: str) -> HttpResponse:
    return HttpResponse(str(CLIENTS[client](request.headers["X-Callee"])))


urlpatterns = [path("call/<client>/", call)]


class Service:
    """This project as a WSGI server; ``send`` sends a request that makes it call ``callee``."""

    def __init__(self, callee: Callee) -> None:
        self.callee = callee

        class Handler(WSGIRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

        self._server = WSGIServer(("127.0.0.1", 0), Handler)
        self._server.set_app(WSGIHandler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def send(self, client: str, headers: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the headers that the callee received and those of the response, with names in lower case."""
        request = urllib.request.Request(
            f"{self.url}/call/{client}/", headers={**headers, "X-Callee": self.callee.url}
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.read() == b"200"
            return self.callee.received[-1], {name.lower(): value for name, value in response.headers.items()}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture(scope="module")
def callee() -> Iterator[Callee]:
    with Callee() as callee:
        yield callee


@pytest.fixture
def service(callee: Callee, spans: Spans) -> Iterator[Service]:
    with override_settings(ROOT_URLCONF=__name__, TRACING={"LAYERS": "off", "PEER_SERVICES": {callee.host: "users"}}):
        service = Service(callee)
        yield service
        service.stop()


@pytest.fixture
def propagators() -> Iterator[Any]:
    before = propagate.get_global_textmap()

    def use(*names: str) -> None:
        propagate.set_global_textmap(available_propagator(names)[0])

    yield use
    propagate.set_global_textmap(before)


def ids(span: ReadableSpan) -> tuple[str, str]:
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


#: Name -> headers from a caller, and expected headers at the callee for a call's trace and span id.
FORMATS = {
    "tracecontext": (
        {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=opaque"},
        {"traceparent": r"00-{trace}-{span}-0[13]", "tracestate": "vendor=opaque"},
    ),
    "b3": ({"b3": f"{TRACE}-{PARENT}-1"}, {"b3": "{trace}-{span}-1"}),
    "b3multi": (
        {"X-B3-TraceId": TRACE, "X-B3-SpanId": PARENT, "X-B3-Sampled": "1"},
        {"x-b3-traceid": "{trace}", "x-b3-spanid": "{span}", "x-b3-sampled": "1"},
    ),
    "jaeger": ({"uber-trace-id": f"{TRACE}:{PARENT}:0:1"}, {"uber-trace-id": r"{trace}:{span}:[0-9a-f]+:0?[13]"}),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", FORMATS)
def test_context_goes_in_and_out(name: str, client: str, service: Service, spans: Spans, propagators: Any) -> None:
    propagators(name)
    sent, wanted = FORMATS[name]
    got, _ = service.send(client, sent)
    server, outgoing = spans.one("GET /call/<client>/"), spans.one("http.get.users")
    assert ids(server)[0] == ids(outgoing)[0] == TRACE
    assert server.parent is not None
    assert server.parent.is_remote
    assert f"{server.parent.span_id:016x}" == PARENT
    assert outgoing.parent is not None
    assert f"{outgoing.parent.span_id:016x}" == ids(server)[1]
    for header, pattern in wanted.items():
        # Jaeger's ids may lack their leading zeros.
        trace_id, span_id = ids(outgoing)
        if name == "jaeger":
            span_id = f"0*{span_id.lstrip('0')}"
        assert re.fullmatch(pattern.replace("{trace}", trace_id).replace("{span}", span_id), got[header]), got
    others = {header for other, (_, headers) in FORMATS.items() if other != name for header in headers}
    assert not others & set(got), "one format, not all of them"


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("tracecontext", {"traceparent": f"00-{TRACE}-{PARENT}-00"}),
        ("b3", {"b3": f"{TRACE}-{PARENT}-0"}),
        ("b3multi", {"X-B3-TraceId": TRACE, "X-B3-SpanId": PARENT, "X-B3-Sampled": "0"}),
        ("jaeger", {"uber-trace-id": f"{TRACE}:{PARENT}:0:0"}),
    ],
)
def test_the_decision_of_a_caller_that_does_not_sample_is_kept(
    name: str, headers: dict[str, str], service: Service, spans: Spans, propagators: Any
) -> None:
    propagators(name)
    got, response = service.send("requests", headers)
    assert len(spans) == 0
    assert TRACE in "".join(got.values()), "the trace continues unsampled"
    assert got["x-correlation-id"] == response["x-correlation-id"]


def test_several_formats_at_once(service: Service, spans: Spans, propagators: Any) -> None:
    propagators("tracecontext", "baggage", "b3", "jaeger")
    got, _ = service.send("requests", {"b3": f"{TRACE}-{PARENT}-1", "baggage": "tier=gold"})
    assert {"traceparent", "b3", "uber-trace-id", "baggage"} <= set(got)
    assert ids(spans.one("http.get.users"))[0] == TRACE
    assert TRACE in got["traceparent"]


@pytest.mark.parametrize("client", CLIENTS)
def test_trace_context_and_baggage_are_the_default(client: str, service: Service, spans: Spans) -> None:
    got, _ = service.send(client, {"traceparent": f"00-{TRACE}-{PARENT}-01", "baggage": "tier=gold,region=eu"})
    assert got["traceparent"].startswith(f"00-{TRACE}-")
    assert set(got["baggage"].split(",")) == {"tier=gold", "region=eu"}


@pytest.mark.parametrize("client", CLIENTS)
def test_the_correlation_id_is_forwarded(client: str, service: Service, spans: Spans) -> None:
    got, response = service.send(client, {"X-Correlation-ID": "order-7.1:a"})
    assert got["x-correlation-id"] == response["x-correlation-id"] == "order-7.1:a"
    assert {(span.attributes or {})["correlation.id"] for span in spans} == {"order-7.1:a"}


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 129, "<script>", "ä"])
def test_a_malformed_correlation_id_is_replaced(wrong: str, service: Service, spans: Spans) -> None:
    got, response = service.send("requests", {"X-Correlation-ID": wrong.encode("utf-8").decode("latin-1")})
    assert got["x-correlation-id"] == response["x-correlation-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", got["x-correlation-id"])


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": ""},
        {"traceparent": "garbage"},
        {"traceparent": f"00-{'0' * 32}-{PARENT}-01"},
        {"traceparent": f"00-{TRACE}-{'0' * 16}-01"},
        {"traceparent": f"ff-{TRACE}-{PARENT}-01"},
        {"traceparent": f"00-{TRACE.replace('4', 'z')}-{PARENT}-01"},
        {"traceparent": f"00-{TRACE}-{PARENT}"},
        {"traceparent": "00-" + "a" * 5000},
        {"traceparent": "\xff\xfe"},
        {"b3": "1-2-3-4-5-6"},
        {"b3": "-"},
        {"X-B3-TraceId": "not hex", "X-B3-SpanId": "1", "X-B3-Sampled": "maybe"},
        {"uber-trace-id": "a:b"},
        {"uber-trace-id": "::::"},
        {"uber-trace-id": f"{TRACE}:{PARENT}:0:zz"},
        {"uber-trace-id": "%"},
    ],
)
def test_malformed_context_starts_a_new_trace(
    headers: dict[str, str], service: Service, spans: Spans, propagators: Any
) -> None:
    propagators("tracecontext", "baggage", "b3", "b3multi", "jaeger")
    got, _ = service.send("requests", headers)
    server, outgoing = spans.one("GET /call/<client>/"), spans.one("http.get.users")
    assert server.parent is None
    assert server.context.is_valid
    assert outgoing.context.trace_id == server.context.trace_id
    assert ids(server)[0] in got["traceparent"]


class ListingPropagator(TextMapPropagator):
    """Read every listed header, as old versions of Jaeger's propagator do."""

    def extract(self, carrier: Any, context: Context | None = None, getter: Getter[Any] = default_getter) -> Context:
        found = {key: values[0] for key in getter.keys(carrier) if (values := getter.get(carrier, key) or fail(key))}
        return context_api.set_value("listed", found, context)

    def inject(self, carrier: Any, context: Context | None = None, setter: Setter[Any] = default_setter) -> None:
        pass

    @property
    def fields(self) -> set[str]:
        return set()


def fail(key: str) -> list[str]:
    raise TypeError(f"{key} is listed without a value")


def test_propagators_are_only_shown_headers_with_a_value(propagators: Any) -> None:
    propagators()
    propagate.set_global_textmap(ListingPropagator())
    headers = {
        "uber-trace-id": f"{TRACE}:{PARENT}:0:1",
        "uberctx-a": "*" * 1300,
        "uberctx-b": "a" * 9000,
        "uberctx-c": "*" * 1300,
        "uberctx-d": "*" * 1300,
        "uberctx-e": "blue",
        "traceparent": "garbage",
        "x-odd": "\x00",
        "x-empty": "",
    }
    expected = ("uber-trace-id", "uberctx-a", "uberctx-c", "uberctx-e")
    found = extract(headers, Context(), default_getter)
    assert found.get("listed") == {name: headers[name] for name in expected}


@pytest.mark.parametrize(
    "headers",
    [
        {"tracestate": "=,=,=,,", "baggage": "=;=,,%zz=\xff"},
        {"tracestate": "a" * 5000, "baggage": "k=" + "v" * 9000},
        {"baggage": ",".join(f"k{number}=v" for number in range(500))},
    ],
)
def test_malformed_headers_beside_a_context_are_ignored(
    headers: dict[str, str], service: Service, spans: Spans
) -> None:
    service.send("requests", {"traceparent": f"00-{TRACE}-{PARENT}-01", **headers})
    assert ids(spans.one("http.get.users"))[0] == TRACE


def test_without_propagators_only_the_correlation_id_is_sent(
    service: Service, spans: Spans, propagators: Any
) -> None:
    propagators()
    got, _ = service.send("requests", {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Correlation-ID": "abc"})
    assert "traceparent" not in got
    assert got["x-correlation-id"] == "abc"
    assert ids(spans.one("http.get.users"))[0] != TRACE


def test_outside_a_request_there_is_no_correlation_id() -> None:
    carrier: dict[str, str] = {}
    with trace.get_tracer("tests").start_as_current_span("command"):
        available_propagator(["tracecontext"])[0].inject(carrier)
    assert set(carrier) == {"traceparent"}


def test_a_missing_package_is_named() -> None:
    _, (missing,) = available_propagator(["tracecontext", "ottrace"])
    assert "pip install opentelemetry-propagator-ot-trace." in str(missing)


def test_a_package_that_cannot_be_imported_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.propagators.b3", None)
    propagator, (missing,) = available_propagator(["tracecontext", "b3"])
    assert 'The propagator "b3" can\'t be imported (ModuleNotFoundError' in str(missing)
    assert "traceparent" in propagator.fields
