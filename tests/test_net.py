"""Test that a server which answers byte by byte delays nothing longer than the timeout."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from django_tracing.diagnosis.probes import post
from django_tracing.exceptions import ExportError, ReadError
from django_tracing.export.jaeger import make_jaeger_exporter
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.net import parse_address
from django_tracing.sampling.remote import JaegerRemoteSampler
from django_tracing.traces.readers.jaeger.reader import JaegerReader

#: Each byte well within the timeout, all of them far beyond it.
TIMEOUT = 0.5
PAUSE = 0.05
BYTES = 400

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
#: Sent at once; the rest follows byte by byte.
ANSWERS = {
    "status": b"HTTP/1.1 2",
    "headers": HEAD + b"X-Slow: ",
    "body": HEAD + b"Content-Length: %d\r\n\r\n" % BYTES,
}


@pytest.fixture(params=ANSWERS)
def dripping(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the address of such a server."""
    ended = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def drip(client: socket.socket) -> None:
        with client:
            try:
                client.recv(65536)
                client.sendall(ANSWERS[request.param])
                for _ in range(BYTES):
                    client.sendall(b"0")
                    if ended.wait(PAUSE):
                        break
            except OSError:
                pass  # the client has disconnected

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(client,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    ended.set()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


def test_an_exporter_times_out(dripping: str) -> None:
    exporter = OTLPHTTPExporter(dripping, timeout=TIMEOUT)
    span = TracerProvider().get_tracer("x").start_span("x")
    span.end()
    with pytest.raises(ExportError) as caught:
        exporter.export([span])  # type: ignore[list-item]
    assert caught.value.reason == "timeout"
    exporter.shutdown()


def test_jaegers_thrift_times_out(dripping: str, request: pytest.FixtureRequest) -> None:
    exporter = make_jaeger_exporter(f"{dripping}/api/traces", timeout=TIMEOUT)
    span = TracerProvider().get_tracer("x").start_span("x")
    span.end()
    if request.node.callspec.params["dripping"] == "body":
        # The body isn't read: the status is enough.
        exporter.export([span])  # type: ignore[list-item]
    else:
        with pytest.raises(ExportError) as caught:
            exporter.export([span])  # type: ignore[list-item]
        assert caught.value.reason == "timeout"
    exporter.shutdown()


def test_a_probe_times_out(dripping: str) -> None:
    with pytest.raises(TimeoutError):
        post(parse_address(f"{dripping}/api/traces"), {}, TIMEOUT)


def test_a_reader_times_out(dripping: str) -> None:
    with pytest.raises(ReadError) as caught:
        JaegerReader(dripping, timeout=TIMEOUT).services()
    assert caught.value.reason == "timeout"


def test_the_sampler_times_out(dripping: str, caplog: pytest.LogCaptureFixture) -> None:
    sampler = JaegerRemoteSampler("shop", dripping, timeout=TIMEOUT)
    assert sampler.ask() is False
    assert "did not answer in time" in caplog.text
    sampler.close()
