"""Stand in for the receivers of other tracers: Datadog's agent, Sentry, Elastic's APM server and Logfire.

New Relic's agent does not send to it: its developer mode answers itself, and writes what it would send into a file.
"""

from __future__ import annotations

import ast
import gzip
import json
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from tests.receivers import decode

__all__ = ["OtherReceiver", "TheirSpan", "read_audit_log"]


class TheirSpan(NamedTuple):
    """A span of another tracer, as far as all of them have it."""

    name: str
    id: str
    trace: str


def _datadog_4(body: bytes) -> list[TheirSpan]:
    import msgpack

    return [
        TheirSpan(f"{span['name']} {span['resource']}", str(span["span_id"]), str(span["trace_id"]))
        for trace in msgpack.unpackb(body, strict_map_key=False)
        for span in trace
    ]


def _datadog_5(body: bytes) -> list[TheirSpan]:
    import msgpack

    strings, traces = msgpack.unpackb(body, strict_map_key=False)
    return [
        TheirSpan(f"{strings[span[1]]} {strings[span[2]]}", str(span[4]), str(span[3]))
        for trace in traces
        for span in trace
    ]


def _sentry(body: bytes) -> list[TheirSpan]:
    found = []
    lines = iter(body.split(b"\n"))
    next(lines)
    for head in lines:
        if not head:
            continue
        content = next(lines, b"")
        if json.loads(head).get("type") == "transaction":
            transaction = json.loads(content)
            root = transaction["contexts"]["trace"]
            found.append(TheirSpan(transaction["transaction"], root["span_id"], root["trace_id"]))
            found += [
                TheirSpan(f"{span.get('op')} {span.get('description')}", span["span_id"], span["trace_id"])
                for span in transaction["spans"]
            ]
    return found


def _elastic(body: bytes) -> list[TheirSpan]:
    found = []
    for line in body.splitlines():
        document = json.loads(line)
        for kind in ("transaction", "span"):
            if kind in document:
                span = document[kind]
                found.append(TheirSpan(span["name"], span["id"], span["trace_id"]))
    return found


def _otlp(body: bytes) -> list[TheirSpan]:
    return [
        TheirSpan(span.name, span.span_id, span.trace_id)
        for span in decode(body)
        # Logfire announces a span that is open.
        if span.attributes.get("logfire.span_type") != "pending_span"
    ]


#: The end of a path -> what reads its body.
_READERS: dict[str, Callable[[bytes], list[TheirSpan]]] = {
    "/v0.4/traces": _datadog_4,
    "/v0.5/traces": _datadog_5,
    "/envelope": _sentry,
    "/intake/v2/events": _elastic,
    "/v1/traces": _otlp,
}


def read_audit_log(path: Path) -> list[TheirSpan]:
    """Return the spans that New Relic's agent wrote into its audit log, as Python prints them."""
    found = []
    for request in (path.read_text() if path.exists() else "").split("=" * 78):
        if "'method': 'span_event_data'" in request and "DATA: " in request:
            for event in ast.literal_eval(request.partition("DATA: ")[2].strip())[2]:
                span = event[0]
                found.append(TheirSpan(span["name"], span["guid"], span["traceId"]))
    return found


class OtherReceiver:
    """``with OtherReceiver() as receiver``: listens on ``receiver.url`` and keeps ``receiver.spans``."""

    def __init__(self) -> None:
        self.spans: list[TheirSpan] = []
        self.paths: list[str] = []
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver._take(self.path, body, self.headers.get("Content-Encoding", ""))
                self._answer({})

            do_PUT = do_POST

            def do_GET(self) -> None:
                if self.path.startswith("/v1/info"):
                    # Logfire checks its token.
                    self._answer({"project_name": "theirs", "project_url": receiver.url, "organization_name": "x"})
                else:
                    # Datadog's library asks its agent, Elastic's asks for the version of the server.
                    self._answer({"endpoints": ["/v0.5/traces", "/v0.4/traces"], "version": "8.17.0"})

            def _answer(self, answer: dict[str, Any]) -> None:
                content = b"" if "protobuf" in self.headers.get("Content-Type", "") else json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", self.headers.get("Content-Type") or "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _take(self, path: str, body: bytes, compression: str) -> None:
        if compression == "gzip":
            body = gzip.decompress(body)
        elif compression == "deflate":
            body = zlib.decompress(body)
        path = path.partition("?")[0].rstrip("/")
        found: list[TheirSpan] = []
        for end, read in _READERS.items():
            if path.endswith(end) and body:
                found = read(body)
        with self._changed:
            self.paths.append(path)
            self.spans += found
            self._changed.notify_all()

    def __enter__(self) -> OtherReceiver:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
