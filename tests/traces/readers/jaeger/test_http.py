"""Test the errors of requests to Jaeger's query API, by cause."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from django_tracing.exceptions import JaegerError
from django_tracing.traces.readers.jaeger import http
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from example_project.servers import free_port
from tests.traces.readers.jaeger.helpers import PAGE, Server, v3


@pytest.fixture
def silent() -> Iterator[int]:
    """Yield the port of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def talker(sent: bytes) -> Iterator[int]:
    """Yield the port of a server that sends ``sent`` and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                # The client may close the connection at any time.
                with connection, suppress(OSError):
                    connection.sendall(sent)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        # Unlike close(), this wakes up the thread in accept().
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def ssh() -> Iterator[int]:
    yield from talker(b"SSH-2.0-OpenSSH_9.6\r\n")


def fails(url: str, **options: Any) -> JaegerError:
    with pytest.raises(JaegerError) as caught:
        JaegerReader(url, **options).services()
    return caught.value


def test_nothing_listens() -> None:
    port = free_port()
    error = fails(f"http://127.0.0.1:{port}")
    assert error.reason == "refused"
    assert str(error) == f"Nothing listens on 127.0.0.1:{port}. Is Jaeger running, and is QUERY_URL right?"


@pytest.mark.parametrize("host", ["jaeger.invalid", "a..b", "x" * 70])
def test_an_unknown_host(host: str) -> None:
    error = fails(f"http://{host}:16686")
    assert error.reason == "dns"
    assert host in str(error)


def test_a_server_that_sends_nothing(silent: int) -> None:
    error = fails(f"http://127.0.0.1:{silent}", timeout=0.1)
    assert error.reason == "timeout"
    assert "within 0.1 s" in str(error)


def test_a_server_that_sends_slowly() -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert fails(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2).reason == "timeout"
        finally:
            stop.set()
            thread.join()


def test_an_endless_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 1 << 20)
    with Server(lambda path: (200, "x" * (1 << 21))) as server:
        error = fails(server.url)
    assert error.reason == "failed"
    assert "longer than 1 MiB" in str(error)


def test_tls_to_a_server_without_tls(ssh: int) -> None:
    error = fails(f"https://127.0.0.1:{ssh}")
    assert error.reason == "tls"
    assert "http://" in str(error)


def test_a_server_that_does_not_speak_http(ssh: int) -> None:
    assert fails(f"http://127.0.0.1:{ssh}").reason == "not_jaeger"


@pytest.mark.parametrize("status", [401, 403])
def test_missing_credentials(status: int) -> None:
    with Server(lambda path: (status, "no")) as server:
        error = fails(server.url)
    assert error.reason == "unauthorized"
    assert str(status) in str(error)


def test_a_login_page() -> None:
    with Server(lambda path: (302, ""), {"Location": "https://login.example.com/?token=hush"}) as server:
        error = fails(server.url)
        assert server.asked == ["/api/v3/trace-summaries"]
    assert error.reason == "unauthorized"
    assert "redirects to https://login.example.com (" in str(error)
    assert "hush" not in str(error)


def test_no_query_api_at_this_address() -> None:
    with Server(lambda path: (404, "404 page not found")) as server:
        error = fails(f"{server.url}/wrong")
        assert server.asked == ["/wrong/api/v3/trace-summaries", "/wrong/api/services"]
    assert error.reason == "not_found"
    assert "/… (404)" in str(error)


@pytest.mark.parametrize("body", [PAGE, {"hello": "world"}, ["data"], "", "[" * 100_000, 7, None])
def test_a_response_of_another_program(body: Any) -> None:
    with Server(lambda path: (200, body)) as server:
        assert fails(server.url).reason == "not_jaeger"


def test_a_server_error() -> None:
    with Server(lambda path: (503, {"error": {"httpCode": 503, "message": "no storage"}})) as server:
        error = fails(server.url)
    assert error.reason == "failed"
    assert "(503): no storage." in str(error)


def test_credentials_are_sent_and_never_shown() -> None:
    with Server(v3) as server:
        address = server.url.replace("http://", "http://us%40er:pa%3Ass@")
        reader = JaegerReader(f"{address}/jaeger", headers={"X-Scope-OrgID": "7"})
        reader.services()
        sent = server.received_headers[-1]
        assert sent["Authorization"] == "Basic " + base64.b64encode(b"us@er:pa:ss").decode()
        assert sent["X-Scope-OrgID"] == "7"
        for shown in (repr(reader), reader.trace_link("x"), reader.query_url):
            assert "pa" not in shown.replace("127.0.0.1", "")
            assert "us%40er" not in shown
    assert "pa" not in str(fails(f"{address}/jaeger"))
