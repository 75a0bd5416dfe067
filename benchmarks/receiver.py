"""The receiver, in a process of its own: takes what tracers send over HTTP, and counts spans when asked.

``GET /spans`` answers ``{service.name: spans}``. Bodies are kept and read only then, so that counting takes no
processor from what is being measured.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_bodies: list[tuple[bytes, bool]] = []
_spans: Counter[str] = Counter()
_bytes: Counter[str] = Counter()


def count() -> dict[str, Any]:
    while _bodies:
        body, zipped = _bodies.pop()
        message = ExportTraceServiceRequest.FromString(gzip.decompress(body) if zipped else body)
        for of_resource in message.resource_spans:
            service = next(a.value.string_value for a in of_resource.resource.attributes if a.key == "service.name")
            _spans[service] += sum(len(of_scope.spans) for of_scope in of_resource.scope_spans)
            _bytes[service] += of_resource.ByteSize()
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
        if self.path.endswith("/v1/traces") and body:
            _bodies.append((body, self.headers.get("Content-Encoding") == "gzip"))
        self._answer(b"" if "protobuf" in self.headers.get("Content-Type", "") else b"{}")

    do_PUT = do_POST

    def do_GET(self) -> None:
        self._answer(json.dumps(count() if self.path == "/spans" else {}).encode())

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
    # Ends with whoever started it.
    import threading

    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
