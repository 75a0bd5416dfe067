"""Run an OTLP/HTTP receiver that decodes requests with opentelemetry-proto and can fail on demand."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

__all__ = ["OTLPReceiver", "ReceivedSpan"]

_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_STATUSES = {0: "unset", 1: "ok", 2: "error"}


@dataclass
class ReceivedSpan:
    """One span as it arrived; ids in hex, ``parent_id`` "" for a root, times in nanoseconds."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    status: str
    status_message: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: str
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    #: Span ids of what it is linked to.
    links: list[str] = field(default_factory=list)

    @property
    def service(self) -> str:
        return str(self.resource.get("service.name"))


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {item.key: _value(item.value) for item in value.kvlist_value.values}
    return getattr(value, kind)


def _attributes(items: Any) -> dict[str, Any]:
    return {item.key: _value(item.value) for item in items}


def decode(body: bytes) -> list[ReceivedSpan]:
    """The spans of an ExportTraceServiceRequest."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        ReceivedSpan(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            name=span.name,
            kind=_KINDS[span.kind],
            start=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            status=_STATUSES[span.status.code],
            status_message=span.status.message,
            attributes=_attributes(span.attributes),
            resource=_attributes(group.resource.attributes),
            scope=scope.scope.name,
            events=[(event.name, _attributes(event.attributes)) for event in span.events],
            links=[link.span_id.hex() for link in span.links],
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


class OTLPReceiver:
    """``with OTLPReceiver() as receiver``: listens on ``receiver.endpoint`` and keeps ``receiver.spans``.

    ``receiver.mode`` changes live what it does: ``ok``; a status as an int; ``hang`` (answers when the mode changes or
    the receiver stops); ``drop`` (closes without an answer); ``garbage`` (answers what is no HTTP).
    ``receiver.interim`` has the statuses of what is sent before each answer, as some proxies do.
    ``receiver.answer_headers`` and ``receiver.answer_body`` go with each answer. ``receiver.decide`` may choose another
    mode, headers and body for each request, by its spans.
    """

    def __init__(self, port: int = 0) -> None:
        self.spans: list[ReceivedSpan] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        #: The number of connections so far.
        self.connections = 0
        self.interim: tuple[int, ...] = ()
        self.answer_headers: dict[str, str] = {}
        self.answer_body = b""
        self.decide: Callable[[list[ReceivedSpan]], tuple[str | int, dict[str, str], bytes]] | None = None
        self._open: list[socket.socket] = []
        self._mode: str | int = "ok"
        self._changed = threading.Condition()
        self._stopped = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with receiver._changed:
                    receiver.connections += 1
                    receiver._open.append(self.connection)

            def do_POST(self) -> None:
                receiver._answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *args: Any) -> None:
                pass  # a client that disconnected

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def mode(self) -> str | int:
        return self._mode

    @mode.setter
    def mode(self, mode: str | int) -> None:
        with self._changed:
            self._mode = mode
            self._changed.notify_all()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        with self._changed:
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.paths.append(handler.path)
            self._changed.notify_all()
            if self._mode == "hang":
                self._changed.wait_for(lambda: self._mode != "hang" or self._stopped)
            mode = self._mode
            headers, answer = self.answer_headers, self.answer_body
            if self.decide is not None:
                mode, headers, answer = self.decide(decode(body))
        if mode == "drop":
            handler.close_connection = True
            handler.connection.close()
            return
        if mode == "garbage":
            handler.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
            handler.close_connection = True
            return
        status = mode if isinstance(mode, int) else 200
        if status == 200:
            with self._changed:
                self.bodies.append(body)
                self.spans.extend(decode(body))
                self._changed.notify_all()
        for interim in self.interim:
            handler.send_response_only(interim)
            handler.end_headers()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def use_tls(self, certificate: Path, *, clients: Path | None = None) -> None:
        """Speak TLS from now on. ``certificate`` has the certificate and its key.

        ``clients`` is the authority by which clients must identify themselves.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        # Each connection's thread does its handshake: here, it would block other connections.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    def close_connections(self) -> None:
        """Close all connections, as a receiver does with idle clients."""
        with self._changed:
            connections, self._open = self._open, []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wait_for(self, wanted: int | Callable[[list[ReceivedSpan]], Any], timeout: float = 20) -> list[ReceivedSpan]:
        """The spans, once there are ``wanted`` of them or ``wanted(spans)`` is true; fails after ``timeout`` seconds."""
        predicate = wanted if callable(wanted) else lambda spans: len(spans) >= wanted
        with self._changed:
            arrived = self._changed.wait_for(lambda: predicate(self.spans), timeout)
            assert arrived, f"timed out after {timeout} s; there are {[span.name for span in self.spans]}"
            return list(self.spans)

    def wait_for_requests(self, count: int, timeout: float = 20) -> None:
        """Wait until ``count`` requests have arrived, with any response."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.headers) >= count, timeout), (
                f"{len(self.headers)} requests came"
            )

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in list(self.spans) if span.name == name]

    def clear(self) -> None:
        with self._changed:
            self.spans.clear()
            self.headers.clear()
            self.bodies.clear()
            self.paths.clear()

    def __enter__(self) -> OTLPReceiver:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
