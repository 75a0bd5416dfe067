"""Test that credentials and queries of addresses of any form are not shown to people."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from django_tracing import checks
from django_tracing.conf.loading import load
from django_tracing.diagnosis.steps import Diagnosis
from django_tracing.export import build_exporter
from django_tracing.net import explain_error, parse_address, shown_address
from django_tracing.sampling.remote import JaegerRemoteSampler, from_environment
from django_tracing.traces.readers.jaeger.reader import JaegerReader

#: Too short for check_tracing's own masking, so that it hides no leak.
SECRET = "kD3vX"

SCHEMES = [
    "http://",
    "https://",
    "HTTP://",
    "",
    "//",
    "http:/",
    "http:",
    "udp://",
    "grpc://",
    " http://",
    "http:\\\\",
]
#: Credentials, whole and damaged: a password with a character that should have been encoded, or with an encoded "@".
CREDENTIALS = [
    *("", "{secret}:x@", "u:{secret}@", "u:p/{secret}@", "u:p?{secret}@", "u:p#{secret}@", "u:{secret}%40"),
    *("{secret}@", "u:a@{secret}@", "u:\\{secret}@"),
]
HOSTS = ["{host}", "a..b", "[::1]:1", "[::1", "ho st", "x" * 70 + ".de", "{host}9999", "127.0.0.1:x"]
TAILS = [
    *("", "?{secret}", "?api_key={secret}", "/?k={secret}", "/v1/traces?api_key={secret}", "/v1/traces?{secret}=1"),
    *("#{secret}", "/v1/traces#{secret}", "/v1/traces%3Fapi_key={secret}", "/v1/traces;api_key={secret}"),
    *(":{secret}", "&api_key={secret}", ";{secret}", "\\?{secret}", "/v1 traces?{secret}", "/v1/é?{secret}"),
    *(",{secret}", "/api/traces?api_key={secret},x"),
]

shapes = (
    st.tuples(*map(st.sampled_from, (SCHEMES, CREDENTIALS, HOSTS, TAILS)))
    .map("".join)
    .filter(lambda shape: "{secret}" in shape)
)
#: Addresses that the settings accept.
valid_shapes = (
    st.tuples(*map(st.sampled_from, (SCHEMES[:2], CREDENTIALS, HOSTS[:1], TAILS)))
    .map("".join)
    .filter(lambda shape: "{secret}" in shape)
)


def result_of(function: Callable[[], Any]) -> str:
    """What ``function`` returns or raises, as text."""
    try:
        return str(function())
    except Exception as error:
        return f"{type(error).__name__}: {error} {error!r}"


@given(shapes)
@settings(max_examples=400)
def test_an_address_of_any_shape_is_reported_without_them(shape: str) -> None:
    address = shape.format(secret=SECRET, host="127.0.0.1:1")
    texts = [
        shown_address(address),
        result_of(lambda: repr(parse_address(address))) if not load({"ENDPOINT": address}, {}).problems else "",
        result_of(lambda: JaegerRemoteSampler("shop", address).get_description()),
        result_of(lambda: from_environment(address).get_description()),
        result_of(lambda: from_environment(f"endpoint={address}").get_description()),
    ]
    for found in (
        load({"ENDPOINT": address, "QUERY_URL": address, "REMOTE_SAMPLING_URL": address}, {}),
        load({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": address}),
    ):
        texts += [repr(problem) for problem in found.problems]
    with override_settings(TRACING={"ENDPOINT": address, "QUERY_URL": address}):
        texts += map(str, (*checks.check_settings(), *checks.check_deployment()))
    assert not [text for text in texts if SECRET in text]


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    """A server that answers with ``server.status`` and a web page."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            page = b"<title>Log in</title>"
            self.send_response(server.status)  # type: ignore[attr-defined]
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@given(
    valid_shapes,
    st.sampled_from([200, 302, 400, 401, 404, 418, 500, None]),
    st.sampled_from(["otlp", "jaeger", "otlp-grpc"]),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_failure_shows_them(
    server: ThreadingHTTPServer, caplog: pytest.LogCaptureFixture, shape: str, status: int | None, exporter: str
) -> None:
    """Neither exporters, readers, samplers and check_tracing, nor their log lines. No status: nothing listens."""
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    server.status = status  # type: ignore[attr-defined]
    address = shape.format(secret=SECRET, host=f"127.0.0.1:{server.server_port if status else 1}")
    found = load(
        {"ENDPOINT": address, "QUERY_URL": address, "REMOTE_SAMPLING_URL": address, "EXPORTER": exporter}, {}
    )
    if found.problems:
        return
    span = TracerProvider().get_tracer("tests").start_span("x")
    span.end()

    def export() -> Any:
        made = build_exporter(exporter, endpoint=address, timeout=5)
        assert made is not None
        try:
            return made.export([span])  # type: ignore[list-item]
        finally:
            made.shutdown()

    texts = [
        result_of(export),
        result_of(lambda: JaegerReader(address, timeout=5).services()),
        result_of(lambda: JaegerRemoteSampler("shop", address, timeout=5).ask()),
        *(f"{step.detail} {step.meaning} {step.remedy}" for step in Diagnosis(found, timeout=20).steps()),
        *(f"{record.getMessage()} {record.exc_text}" for record in caplog.records),
    ]
    assert texts[1].startswith("JaegerError")
    assert not [text for text in texts if SECRET in text]


def test_the_text_of_an_error_of_http_is_not_shown() -> None:
    """The text may contain the target of the request."""
    import http.client

    error = http.client.InvalidURL(f"URL can't contain control characters. '/v1/traces?api_key={SECRET}\\n'")
    assert explain_error(error, "jaeger:4318") == ("not_http", "jaeger:4318 does not speak HTTP.")
