"""Receive what tracers send over HTTP, in a separate process, and count the spans on request.

``GET /spans`` answers ``{service.name: spans}``. Bodies are kept and read only then, so that counting takes no
processor from what is being measured.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

#: Path, body, its compression.
_bodies: list[tuple[str, bytes, str]] = []
_spans: Counter[str] = Counter()
_bytes: Counter[str] = Counter()


def _otlp(body: bytes) -> None:
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = next(a.value.string_value for a in of_resource.resource.attributes if a.key == "service.name")
        _spans[service] += sum(len(of_scope.spans) for of_scope in of_resource.scope_spans)
        _bytes[service] += of_resource.ByteSize()


def _datadog(body: bytes) -> None:
    """Count traces of version 0.5 of the agent: a table of strings, then a list of indices and values per span."""
    import msgpack  # only needed to measure this tracer

    strings, traces = msgpack.unpackb(body, strict_map_key=False)
    for trace in traces:
        # The first span is the request's, with the configured service; others have "redis" or "postgres".
        _spans[strings[trace[0][0]]] += len(trace)


def _sentry(body: bytes) -> None:
    lines = iter(body.split(b"\n"))
    next(lines)
    for head in lines:
        if head and json.loads(head).get("type") == "transaction":
            transaction = json.loads(next(lines))
            _spans[transaction["environment"]] += 1 + len(transaction["spans"])
        else:
            next(lines, None)


def _elastic(body: bytes) -> None:
    service = ""
    for line in body.splitlines():
        document = json.loads(line)
        if "metadata" in document:
            service = document["metadata"]["service"]["environment"]
        elif "span" in document or document.get("transaction", {}).get("sampled"):
            _spans[service] += 1


_READERS = {"/v1/traces": _otlp, "/v0.5/traces": _datadog, "/envelope/": _sentry, "/intake/v2/events": _elastic}


def count() -> dict[str, Any]:
    while _bodies:
        path, body, compression = _bodies.pop()
        if compression == "gzip":
            body = gzip.decompress(body)
        elif compression == "deflate":
            body = zlib.decompress(body)
        for end, read in _READERS.items():
            if path.endswith(end):
                read(body)
    return {"spans": _spans, "bytes": _bytes}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if body:
            _bodies.append((path, body, self.headers.get("Content-Encoding", "")))
        self._answer(b"" if "protobuf" in self.headers.get("Content-Type", "") else b"{}")

    do_PUT = do_POST

    def do_GET(self) -> None:
        if self.path == "/spans":
            answer: dict[str, Any] = count()
        elif self.path == "/info":
            # Datadog's library requests this from its agent.
            answer = {"endpoints": ["/v0.5/traces"], "client_drop_p0s": False}
        else:
            answer = {"version": "8.17.0"}  # Elastic's library requests the server's version.
        self._answer(json.dumps(answer).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", self.headers.get("Content-Type") or "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    # Ends with the process that started it.
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
