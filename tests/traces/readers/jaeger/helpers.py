"""Serve responses of Jaeger's query API or of another program."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]
PAGE = "<!DOCTYPE html><title>Jaeger UI</title>"


class Server:
    """An HTTP server on a free port that sends the result of ``answer`` for a path; bodies other than text are JSON."""

    def __init__(self, answer: Callable[[str], Answer], headers: dict[str, str] | None = None) -> None:
        self.asked: list[str] = []
        self.received_headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.received_headers.append(dict(self.headers))
                status, body = answer(self.path)
                content = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def v1(path: str) -> Answer:
    """Answer like a proxy or a backend with the API of Jaeger before 2.19: no v3 API, and pages at another address."""
    parts = urlsplit(path)
    if parts.path == "/api/services":
        return 200, {"data": ["shop"], "total": 1, "errors": None}
    if parts.path == "/api/operations":
        return 200, {"data": None, "errors": None}
    if parts.path == "/api/traces" and "explode" in parts.query:
        return 500, {"data": None, "errors": [{"code": 500, "msg": "storage is full"}]}
    if parts.path == "/api/traces":
        return 200, {"data": [TRACE_V1], "errors": None}
    if parts.path == f"/api/traces/{'0' * 16}{'ab' * 8}":
        return 200, {"data": [TRACE_V1], "errors": None}
    if parts.path.startswith("/api/traces/"):
        return 404, {"data": None, "errors": [{"code": 404, "msg": "trace not found"}]}
    return 200, PAGE


#: Spans of Jaeger's former clients, before OpenTelemetry: short ids, no kinds, errors as text, log fields.
TRACE_V1 = {
    "traceID": "ab" * 8,
    "spans": [
        {
            "traceID": "ab" * 8,
            "spanID": "1",
            "operationName": "old",
            "references": [],
            "startTime": 1_000_000,
            "duration": 2_000,
            "tags": [
                {"key": "error", "type": "string", "value": "true"},
                {"key": "big", "type": "int64", "value": "9007199254740993"},
            ],
            "logs": [{"timestamp": 1_000_500, "fields": [{"key": "message", "type": "string", "value": "hm"}]}],
            "processID": "p1",
        },
        {
            "traceID": "ab" * 8,
            "spanID": "2",
            "operationName": "child",
            "references": [
                {"refType": "CHILD_OF", "traceID": "ab" * 8, "spanID": "1"},
                {"refType": "FOLLOWS_FROM", "traceID": "cd" * 8, "spanID": "7"},
            ],
            "startTime": 1_000_100,
            "duration": 100,
            "tags": None,
            "logs": None,
            "processID": "gone",
        },
    ],
    "processes": {"p1": {"serviceName": "shop", "tags": []}},
}


def v3(path: str) -> Answer:
    parts = urlsplit(path)
    if parts.path == "/jaeger/api/v3/trace-summaries":
        if not parts.query:
            return 400, {
                "error": {"httpCode": 400, "message": "query.startTimeMin and query.startTimeMax are required"}
            }
        return 200, {"summaries": [{"traceId": "ab" * 16}]} if "strange" not in parts.query else {"summaries": [7]}
    if parts.path == "/jaeger/api/v3/services":
        return 200, {"services": ["shop", "jaeger"]}
    if parts.path == f"/jaeger/api/v3/traces/{'ab' * 16}":
        return 200, {"result": {"resourceSpans": [{"scopeSpans": [{"spans": [SPAN_V3]}]}]}}
    if parts.path.startswith("/jaeger/api/v3/traces/"):
        return 404, {"error": {"httpCode": 404, "message": "No traces found"}}
    return 404, "404 page not found"


def endless(path: str) -> Answer:
    """A Jaeger of the shop that has a trace for each millisecond, always, and none with an error."""
    parts = urlsplit(path)
    if parts.path != "/api/v3/trace-summaries":
        return (200, {"services": ["shop"]}) if parts.path == "/api/v3/services" else (404, {"error": {}})
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    if not query:
        return 400, {"error": {"httpCode": 400, "message": "query.startTimeMin is required"}}
    # Python 3.10 does not parse Z.
    first, last = (
        int(datetime.fromisoformat(query[f"query.startTime{end}"].replace("Z", "+00:00")).timestamp() * 1000)
        for end in ("Min", "Max")
    )
    starts = range(last, max(first, last - int(query["query.searchDepth"])), -1)
    return 200, {
        "summaries": [
            {
                "traceId": f"{start:032x}",
                "rootServiceName": "shop",
                "rootOperationName": "GET /items",
                "minStartTimeUnixNano": str(start * 1_000_000),
                "maxEndTimeUnixNano": str(start * 1_000_000 + 1000),
                "spanCount": 1,
            }
            for start in starts
        ]
    }


#: Only the required fields of a span, and one value of each kind.
SPAN_V3 = {
    "traceId": "AB" * 16,
    "spanId": "12" * 8,
    "attributes": [
        {"key": "integer", "value": {"intValue": "9007199254740993"}},
        {"key": "double", "value": {"doubleValue": "NaN"}},
        {"key": "list", "value": {"arrayValue": {"values": [{"boolValue": False}, {}]}}},
        {"key": "none", "value": {"arrayValue": {}}},
        {"key": "map", "value": {"kvlistValue": {"values": [{"key": "x", "value": {"stringValue": "y"}}]}}},
        {"key": "bytes", "value": {"bytesValue": "AA=="}},
        {"key": "empty"},
    ],
}


WHOLE_V3 = {
    **SPAN_V3,
    "name": "GET /items",
    "kind": 2,
    "parentSpanId": "34" * 8,
    "startTimeUnixNano": "1000000000",
    "endTimeUnixNano": "1002000000",
    "status": {"code": 2, "message": "it broke"},
    "events": [{"name": "exception", "timeUnixNano": "1000000500", "attributes": []}],
    "links": [{"traceId": "cd" * 16, "spanId": "7" * 16}],
}
RESOURCE_V3 = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
