"""List the faults of receivers and of the network on the way to them."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.e2e.faults.rows import UVICORN, Row, Stage
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
from tests.export.test_receiver_faults import TestProxy, has_ipv6, status

__all__ = ["RECEIVER_ROWS", "comes_back"]


def _fault(name: str, fault: Fault, **options: Any) -> Row:
    """A receiver with ``fault``, which works when the fault is lifted."""

    def prepare(stage: Stage) -> Mapping[str, Any]:
        stage.receiver.fault = fault
        return {"ENDPOINT": stage.receiver.endpoint, **options.get("tracing", {})}

    def lift(stage: Stage) -> None:
        stage.receiver.fault = None

    server = {"server": options["server"]} if "server" in options else {}
    return Row(name, prepare, lift=lift, **server)


def _partial(server: SocketServer, connection: socket.socket) -> None:
    """Reject the last span of each batch, by a partial success."""
    while True:
        request = ExportTraceServiceRequest.FromString(read_request(connection))
        del request.resource_spans[-1].scope_spans[-1].spans[-1]
        server.keep(request.SerializeToString())
        partial = ExportTracePartialSuccess(rejected_spans=1, error_message="one is enough")
        body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)


def _every_third() -> Fault:
    """Answer 500 to each third batch."""
    number = itertools.count(1)

    def fault(server: SocketServer, connection: socket.socket) -> None:
        while True:
            body = read_request(connection)
            bad = next(number) % 3 == 0
            if not bad:
                server.keep(body)
            words = "500 Internal Server Error" if bad else "200 OK"
            connection.sendall(f"HTTP/1.1 {words}\r\nContent-Length: 0\r\n\r\n".encode())

    return fault


def _only_probes(server: SocketServer, connection: socket.socket) -> None:
    """Accept messages without spans, and refuse all others for the time being."""
    while True:
        words = "503 Service Unavailable" if read_request(connection) else "200 OK"
        connection.sendall(f"HTTP/1.1 {words}\r\nContent-Length: 0\r\n\r\n".encode())


def _slow(server: SocketServer, connection: socket.socket) -> None:
    """Take a second for each batch."""
    while not server.stopped.wait(0.7):
        server.receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def _absent(stage: Stage) -> Mapping[str, Any]:
    stage.receiver.down()
    return {"ENDPOINT": stage.receiver.endpoint}


def _up(stage: Stage) -> None:
    stage.receiver.up()


def _absent_for_good(stage: Stage) -> Mapping[str, Any]:
    return {**_absent(stage), "QUEUE_BYTES": 65536, "BATCH_SIZE": 64}


def comes_back(stage: Stage, receiver: Any, count: int, pace: float) -> None:
    """Take ``receiver`` down for ``count`` requests, one in ``pace`` seconds."""
    stage.services.load(20)
    receiver.down()
    stage.services.load(count, pace=pace)
    receiver.up()
    stage.services.load(20)


def _outage(stage: Stage) -> None:
    comes_back(stage, stage.receiver, 60, 0.05)


def _minute(stage: Stage) -> None:
    comes_back(stage, stage.receiver, 600, 0.1)


def _failover(stage: Stage) -> Mapping[str, Any]:
    other = stage.stack.enter_context(SocketServer())
    stage.receivers.append(other)
    stage.receiver.down()
    return {"ENDPOINTS": [stage.receiver.endpoint, other.endpoint]}


def _half_failover(stage: Stage) -> Mapping[str, Any]:
    other = stage.stack.enter_context(SocketServer())
    stage.receivers.append(other)
    stage.receiver.fault = _only_probes
    return {"ENDPOINTS": [stage.receiver.endpoint, other.endpoint]}


def _is_down(stage: Stage) -> list[str]:
    """Each process logs once that nothing is accepted, and once that it is over."""
    log = stage.services.log()
    counts = {words: log.count(words) for words in ("Spans can't be sent", "Spans are sent again")}
    return [f"{counts}"] if any(count > 2 for count in counts.values()) else []


def _ipv6(stage: Stage) -> Mapping[str, Any]:
    other = stage.stack.enter_context(SocketServer(socket.AF_INET6, "::1"))
    stage.receivers.append(other)
    return {"ENDPOINT": other.endpoint}


def _proxy(stage: Stage) -> Mapping[str, Any]:
    proxy = stage.stack.enter_context(SocketServer())
    proxy.fault = TestProxy.forward(stage.receiver)
    # The proxy counts nothing itself: the receiver behind it does.
    stage.receiver.down()
    return {"ENDPOINT": proxy.endpoint}


def _tls(title: str, name: str, not_after: datetime | None = None) -> Row:
    """A certificate that is not accepted, and is renewed."""

    def prepare(stage: Stage) -> Mapping[str, Any]:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(stage.folder / "ca.pem")
        for path, whose, until in (("bad.pem", name, not_after), ("good.pem", "127.0.0.1", None)):
            certificate = authority.issue_cert(whose, not_after=until)
            certificate.private_key_and_cert_chain_pem.write_to_path(stage.folder / path)
        stage.receiver.certificate = stage.folder / "bad.pem"
        endpoint = stage.receiver.endpoint.replace("http:", "https:")
        return {"ENDPOINT": endpoint, "TLS_CA_FILE": str(stage.folder / "ca.pem")}

    def lift(stage: Stage) -> None:
        stage.receiver.certificate = stage.folder / "good.pem"

    return Row(title, prepare, lift=lift)


def _unknown_name(stage: Stage) -> Mapping[str, Any]:
    return {"ENDPOINT": f"http://collector.internal:{stage.receiver.port}", "HOSTS": {"collector.internal": []}}


def _known_name(stage: Stage) -> None:
    stage.services.resolve({"collector.internal": ["127.0.0.1"]})


def _moving_name(stage: Stage) -> Mapping[str, Any]:
    other = SocketServer(host="127.0.0.2")
    other.port = stage.receiver.port
    stage.receivers.append(stage.stack.enter_context(other))
    return {**_unknown_name(stage), "HOSTS": {"collector.internal": ["127.0.0.1"]}}


def _moves(stage: Stage) -> None:
    stage.services.load(40)
    stage.services.resolve({"collector.internal": ["127.0.0.2"]})
    stage.receiver.down()
    stage.services.load(60)


RECEIVER_ROWS = [
    Row("no fault"),
    Row("no fault (uvicorn)", server=UVICORN),
    Row("nothing listens", _absent, lift=_up),
    Row("nothing listens (uvicorn)", _absent, lift=_up, server=UVICORN),
    Row("nothing listens, queue of 64 KiB full", _absent_for_good, lift=_up),
    Row("down for some seconds and back", script=_outage),
    Row("down for 60 s and back", script=_minute),
    _fault("accepts and never answers", hang),
    _fault("accepts and never answers (uvicorn)", hang, server=UVICORN),
    _fault("resets in the middle of the body", reset),
    _fault("closes without an answer", answer("")),
    _fault("400", status(400)),
    _fault("401", status(401)),
    _fault("403", status(403)),
    _fault("404", status(404)),
    _fault("413 for all", status(413)),
    _fault("413 for what is large", refuse_early),
    _fault("429 with Retry-After: 1", status(429, "Retry-After: 1")),
    _fault("500", status(500)),
    _fault("500 for each third batch", _every_third()),
    _fault("503 with Retry-After: ²", status(503, "Retry-After: ²")),
    replace(_fault("503, but messages without spans are accepted", _only_probes), check=_is_down),
    Row("first of two endpoints accepts only messages without spans", _half_failover),
    _fault("redirects", status(307, "Location: http://169.254.169.254/")),
    _fault("partial success", _partial),
    _fault("garbage", answer("\x00\x01 garbage\r\n\r\n")),
    _fault("answers one byte at a time", trickle),
    _fault("reads one byte at a time", sip),
    _fault("slower than production", _slow, tracing={"EXPORT_TIMEOUT": 10.0, "BATCH_SIZE": 64}),
    _fault("HTTP/1.0, a connection for each batch", answer("HTTP/1.0 200 OK\r\n\r\n", receive=True)),
    _tls("TLS certificate expired", "127.0.0.1", datetime(2021, 1, 1, tzinfo=timezone.utc)),
    _tls("TLS certificate of another host", "other.example"),
    Row("name can't be resolved", _unknown_name, lift=_known_name),
    Row("name gets another address", _moving_name, _moves),
    Row("proxy whose receiver is down (502)", _proxy, lift=_up),
    *([Row("IPv6 only", _ipv6)] if has_ipv6() else []),
    Row("first of two endpoints is down", _failover),
]
