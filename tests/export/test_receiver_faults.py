"""Test each fault of a receiver on a real socket: nothing is lost uncounted, and all that waits arrives afterwards."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme

from django_tracing.exceptions import ExportError
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.export.queue import QueueProcessor
from tests.export.builders import make_spans
from tests.export.queues import Make, end
from tests.export.socket_servers import (
    Fault,
    SocketServer,
    answer,
    hang,
    read_request,
    refuse_early,
    reset,
    sip,
    trickle,
)
from tests.jaegers import wait_until


@pytest.fixture
def server() -> Iterator[SocketServer]:
    with SocketServer() as server:
        yield server


def accounted(processor: QueueProcessor, made: int) -> dict[str, int]:
    """Return the dropped spans, by reason. Assert that no span is missing."""
    counts = processor.counters.snapshot()
    dropped: dict[str, int] = counts["dropped"]
    assert made == counts["exported"] + sum(dropped.values()) + processor.queued
    return dropped


def status(code: int, *headers: str) -> Fault:
    lines = "".join(f"{header}\r\n" for header in headers)
    return answer(f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\n{lines}\r\n")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(hang, id="never answers"),
        pytest.param(reset, id="resets in the body"),
        pytest.param(trickle, id="one byte at a time"),
        pytest.param(sip, id="reads one byte at a time"),
        pytest.param(answer(""), id="closes without an answer"),
        pytest.param(status(429), id="429"),
        pytest.param(status(503, "Retry-After: ²"), id="503"),
    ],
)
def test_after_a_temporary_fault_everything_arrives(make: Make, server: SocketServer, fault: Fault) -> None:
    server.fault = fault
    # The second batch is larger than the buffers of a socket.
    processor = make(OTLPHTTPExporter(server.endpoint, timeout=0.3), batch_size=3)
    end(processor, make_spans(3))
    end(processor, make_spans(3, name="large", text="x" * 400_000))
    wait_until(lambda: processor.counters.snapshot()["retries"] >= 2, "two attempts")
    assert processor.queued == 6
    server.fault = None
    wait_until(lambda: processor.queued == 0, "the spans to arrive")
    assert accounted(processor, 6) == {}
    # A receiver that fails after it has read a batch gets it again.
    assert {*server.names} == {f"{name}-{number}" for name in ("span", "large") for number in range(3)}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(400), "wrong_protocol"),
        (status(401), "unauthorized"),
        (status(403), "unauthorized"),
        (status(404), "not_found"),
        (status(405), "not_found"),
        (status(500), "rejected"),
        (status(307, "Location: http://169.254.169.254/"), "rejected"),
        (status(413), "too_large"),
        (answer("\x00\x01 garbage\r\n\r\n"), "wrong_protocol"),
        (answer("HTTP/1.1 99999999999 X\r\n\r\n"), "wrong_protocol"),
        (answer("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"), "wrong_protocol"),
        (answer("HTTP/1.1 200 OK\r\n" + "X: y\r\n" * 200 + "\r\n"), "wrong_protocol"),
    ],
)
def test_what_is_refused_for_ever_is_dropped_at_once(
    make: Make, server: SocketServer, fault: Fault, reason: str
) -> None:
    server.fault = fault
    processor = make(OTLPHTTPExporter(server.endpoint, timeout=5), batch_size=3)
    end(processor, make_spans(6))
    wait_until(lambda: processor.queued == 0, "the spans to be dropped")
    assert accounted(processor, 6) == {reason: 6}
    server.fault = None
    end(processor, make_spans(3, name="next"))
    wait_until(lambda: len(server.names) == 3, "the next batch")


@pytest.mark.parametrize("length", ["99999999999999999999", "-1", "x", "²"])
def test_an_answer_with_a_wrong_length_harms_nothing(make: Make, server: SocketServer, length: str) -> None:
    server.fault = answer(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
    processor = make(OTLPHTTPExporter(server.endpoint, timeout=1), batch_size=3)
    end(processor, make_spans(3))
    wait_until(lambda: processor.counters.snapshot()["exported"] or processor._outbox.paused, "an attempt")
    server.fault = None
    wait_until(lambda: processor.queued == 0, "the spans to arrive")
    assert accounted(processor, 3) == {}


def test_a_message_that_is_refused_before_it_is_read_is_split(make: Make, server: SocketServer) -> None:
    server.fault = refuse_early
    processor = make(OTLPHTTPExporter(server.endpoint, timeout=5), batch_size=64)
    end(processor, make_spans(64, text="x" * 5000))
    wait_until(lambda: processor.queued == 0, "the spans to arrive")
    assert accounted(processor, 64) == {}
    assert sorted(server.names) == sorted(f"span-{number}" for number in range(64))


def test_down_and_back(make: Make, server: SocketServer) -> None:
    processor = make(OTLPHTTPExporter(server.endpoint), batch_size=5)
    end(processor, make_spans(5, name="before"))
    wait_until(lambda: len(server.names) == 5, "the first batch")
    server.down()
    end(processor, make_spans(50, name="meanwhile"))
    wait_until(lambda: processor._outbox.paused, "the outage to be noticed")
    assert processor.queued == 50
    server.up()
    wait_until(lambda: processor.queued == 0, "the spans to arrive")
    assert accounted(processor, 55) == {}
    assert len(server.names) == 55


def test_http_1_0_and_a_connection_closed_after_each_answer(make: Make, server: SocketServer) -> None:
    server.fault = answer("HTTP/1.0 200 OK\r\n\r\n", receive=True)
    processor = make(OTLPHTTPExporter(server.endpoint), batch_size=1)
    end(processor, make_spans(5))
    wait_until(lambda: processor.queued == 0, "the spans to arrive")
    assert server.names == [f"span-{number}" for number in range(5)]
    assert accounted(processor, 5) == {}
    assert server.connections == 5


def test_ipv6_only(make: Make) -> None:
    if not has_ipv6():
        pytest.skip("needs IPv6")
    with SocketServer(socket.AF_INET6, "::1") as server:
        processor = make(OTLPHTTPExporter(server.endpoint), batch_size=1)
        end(processor, make_spans(2))
        wait_until(lambda: processor.queued == 0, "the spans to arrive")
        assert len(server.names) == 2


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
    except OSError:
        return False
    return True


class Names:
    """The system's name server, with answers that change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._resolve)

    def _resolve(self, host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        if host != "collector.internal":
            return self._real(host, port, *args, **options)
        if not self.hosts:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [found for each in self.hosts for found in self._real(each, port, *args, **options)]


def test_a_name_that_fails_and_changes(
    make: Make, server: SocketServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = Names(monkeypatch)
    processor = make(OTLPHTTPExporter(f"http://collector.internal:{server.port}"), batch_size=2)
    end(processor, make_spans(2))
    wait_until(lambda: processor._outbox.paused, "the name to fail")
    assert "The host name of collector.internal" in caplog.text
    names.hosts = ["127.0.0.1"]
    wait_until(lambda: len(server.names) == 2, "the spans to arrive")
    server.down()
    # The next one has the same port at another address; the first address of the name is dead.
    with SocketServer(host="127.0.0.2") as other:
        other.down()
        other.port = server.port
        other.up()
        names.hosts = ["127.0.0.1", "127.0.0.2"]
        end(processor, make_spans(2, name="next"))
        wait_until(lambda: len(other.names) == 2, "the spans at the new address")
    assert accounted(processor, 4) == {}


class TestProxy:
    """A proxy in front of the receiver answers for it, or is gone."""

    @staticmethod
    def forward(to: SocketServer) -> Fault:
        def fault(proxy: SocketServer, connection: socket.socket) -> None:
            while True:
                body = read_request(connection)
                try:
                    with socket.create_connection((to.host, to.port), timeout=5) as upstream:
                        head = f"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                        upstream.sendall(head.encode() + body)
                        connection.sendall(upstream.recv(65536))
                except OSError:
                    page = b"<html>Bad Gateway</html>"
                    connection.sendall(
                        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n"
                        b"Content-Length: %d\r\n\r\n%b" % (len(page), page)
                    )

        return fault

    def test_its_502_is_temporary(self, make: Make, server: SocketServer) -> None:
        with SocketServer() as proxy:
            proxy.fault = self.forward(server)
            processor = make(OTLPHTTPExporter(proxy.endpoint), batch_size=2)
            end(processor, make_spans(2))
            wait_until(lambda: len(server.names) == 2, "the first batch")
            server.down()
            end(processor, make_spans(4, name="meanwhile"))
            wait_until(lambda: processor._outbox.paused, "the 502")
            server.up()
            wait_until(lambda: processor.queued == 0, "the spans to arrive")
            assert accounted(processor, 6) == {}


@pytest.mark.parametrize(
    ("name", "not_after", "words"),
    [("127.0.0.1", datetime(2021, 1, 1, tzinfo=timezone.utc), "expired"), ("other.example", None, "127.0.0.1")],
    ids=["expired", "wrong host"],
)
def test_a_certificate_that_is_not_accepted_and_renewed(
    make: Make, server: SocketServer, tmp_path: Path, name: str, not_after: datetime | None, words: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    bad, good = tmp_path / "bad.pem", tmp_path / "good.pem"
    authority.issue_cert(name, not_after=not_after).private_key_and_cert_chain_pem.write_to_path(bad)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(good)
    server.certificate = bad
    exporter = OTLPHTTPExporter(server.endpoint.replace("http:", "https:"), tls_ca_file=tmp_path / "ca.pem")
    processor = make(exporter, batch_size=2)
    end(processor, make_spans(4))
    wait_until(lambda: processor._outbox.paused, "the certificate to be refused")
    assert words in processor.counters.snapshot()["last_error"]
    assert processor.queued == 4
    server.certificate = good
    wait_until(lambda: processor.queued == 0, "the spans to arrive")
    assert accounted(processor, 4) == {}


@pytest.mark.parametrize("fault", [hang, trickle, sip], ids=["never answers", "answers slowly", "reads slowly"])
def test_a_whole_export_has_one_deadline(server: SocketServer, fault: Callable[..., None]) -> None:
    server.fault = fault
    exporter = OTLPHTTPExporter(server.endpoint, timeout=0.5)
    results: list[ExportError] = []

    def export() -> None:
        try:
            # Several pieces, all larger than the buffers: each would have a time limit of its own.
            exporter.export(make_spans(40, text="x" * 300_000))
        except ExportError as error:
            results.append(error)

    thread = threading.Thread(target=export, daemon=True)
    thread.start()
    thread.join(20)
    assert [error.reason for error in results] == ["timeout"]


def test_a_name_with_very_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address)
            raise ConnectionRefusedError

    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [entry] * 5000)
    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(ExportError) as caught:
        OTLPHTTPExporter("http://collector.internal:9").export(make_spans())
    assert caught.value.reason == "refused"
    assert len(tried) == 16
