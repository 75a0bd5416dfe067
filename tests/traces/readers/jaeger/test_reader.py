"""What goes wrong with Jaeger's query API, told apart, and answers of servers that are not quite Jaeger."""

from __future__ import annotations

import base64
import json
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest

from django_tracing.exceptions import JaegerError
from django_tracing.traces.analysis.layout import layout
from django_tracing.traces.analysis.waterfall import waterfall
from django_tracing.traces.durations import duration_text
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.readers.jaeger import http
from django_tracing.traces.readers.jaeger import reader as jaeger
from django_tracing.traces.readers.jaeger import v1 as v1_api
from django_tracing.traces.readers.jaeger import v3 as v3_api
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.text import render_trace
from example_project.servers import free_port
from tests.work_counter import growth

Answer = tuple[int, Any]
PAGE = "<!DOCTYPE html><title>Jaeger UI</title>"


class Server:
    """An HTTP server on a free port that answers what ``answer`` makes of a path; bodies that are no text are JSON."""

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


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def talker(sent: bytes) -> Iterator[int]:
    """The port of a server that greets with ``sent`` and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                # The other side may hang up at any time.
                with connection, suppress(OSError):
                    connection.sendall(sent)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        # Unlike closing, this wakes up who waits in accept().
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


def test_a_server_that_says_nothing(silent: int) -> None:
    error = fails(f"http://127.0.0.1:{silent}", timeout=0.1)
    assert error.reason == "timeout"
    assert "within 0.1 s" in str(error)


def test_a_server_that_drips() -> None:
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


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_ANSWER", 1 << 20)
    with Server(lambda path: (200, "x" * (1 << 21))) as server:
        error = fails(server.url)
    assert error.reason == "failed"
    assert "longer than 1 MiB" in str(error)


def test_tls_spoken_to_a_server_without(ssh: int) -> None:
    error = fails(f"https://127.0.0.1:{ssh}")
    assert error.reason == "tls"
    assert "http://" in str(error)


def test_something_that_speaks_no_http(ssh: int) -> None:
    assert fails(f"http://127.0.0.1:{ssh}").reason == "not_jaeger"


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_are_asked_for(status: int) -> None:
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
def test_something_else_answers(body: Any) -> None:
    with Server(lambda path: (200, body)) as server:
        assert fails(server.url).reason == "not_jaeger"


def test_a_jaeger_that_is_ill() -> None:
    with Server(lambda path: (503, {"error": {"httpCode": 503, "message": "no storage"}})) as server:
        error = fails(server.url)
    assert error.reason == "failed"
    assert "(503): no storage." in str(error)


# ----- Dialects


def v1(path: str) -> Answer:
    """A Jaeger before 2.19 as a proxy or a backend with the same API would be: no v3 at all, pages elsewhere."""
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


#: As clients of Jaeger's own sent them, before OpenTelemetry: short ids, no kinds, errors as text, log fields.
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


def test_the_older_dialect() -> None:
    with Server(v1) as server:
        reader = JaegerReader(server.url)
        assert reader.version == "v1"
        assert reader.services() == ["shop"]
        assert reader.operations("shop") == []
        # Found out once.
        assert [urlsplit(path).path for path in server.asked] == [
            "/api/v3/trace-summaries",
            "/api/services",
            "/api/services",
            "/api/operations",
        ]
        trace = reader.trace("0" * 16 + "ab" * 8)
        assert trace is not None
        old, child = trace.spans
        assert (old.span_id, old.kind, old.status, old.service) == ("0" * 15 + "1", "internal", "error", "shop")
        assert old.attributes == {"big": 9007199254740993}
        assert [(event.name, event.time, event.attributes) for event in old.events] == [
            ("", 1_000_500_000, {"message": "hm"})
        ]
        assert (child.parent_id, child.service) == ("0" * 15 + "1", "")
        assert [(link.trace_id, link.span_id) for link in child.links] == [("0" * 16 + "cd" * 8, "0" * 15 + "7")]
        assert reader.trace("f" * 32) is None


def test_what_the_older_dialect_is_asked() -> None:
    with Server(v1) as server:
        reader = JaegerReader(server.url)
        reader.search(service="shop", operation="x", min_duration=0.0015, errors=True, attributes={"a": "b"},
                      start=1, end=9, limit=5, before=(2_000_000_000, "ab"))  # fmt: skip
        parts = urlsplit(server.asked[-1])
        assert parts.path == "/api/traces"
        assert {key: values[0] for key, values in parse_qs(parts.query).items()} == {
            "service": "shop",
            "operation": "x",
            "start": "1000000",
            # What began in the same microsecond may be older by its id.
            "end": "2000001",
            "minDuration": "1500us",
            "tags": '{"a": "b", "error": "true"}',
            "limit": "6",
        }


def test_an_error_of_the_older_dialect() -> None:
    with Server(v1) as server, pytest.raises(JaegerError, match=r"\(500\): storage is full\.") as caught:
        JaegerReader(server.url).search(service="explode")
    assert caught.value.reason == "failed"


def test_a_proxy_without_the_older_ui() -> None:
    """Where unknown paths give 404 with JSON, as gateways do, that is no sign of v3."""

    def answer(path: str) -> Answer:
        return v1(path) if path.startswith(("/api/services", "/api/traces")) else (404, {"error": "no route"})

    with Server(answer) as server:
        assert JaegerReader(server.url).version == "v1"


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


#: Nothing but what a span can't be without, and one value of each kind.
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


def test_the_newer_dialect_below_a_path() -> None:
    with Server(v3) as server:
        reader = JaegerReader(f"{server.url}/jaeger/")
        assert reader.version == "v3"
        # Jaeger's own traces are nobody's.
        (summary,) = reader.search()
        assert not [path for path in server.asked if "serviceName=jaeger" in path]
        assert (summary.trace_id, summary.name, summary.span_count, summary.services) == ("ab" * 16, "", 0, ())
        trace = reader.trace("ab" * 16)
        assert trace is not None
        (span,) = trace.spans
        assert (span.parent_id, span.kind, span.status, span.name, span.start) == ("", "internal", "unset", "", 0)
        assert str(span.attributes.pop("double")) == "nan"
        assert span.attributes == {
            "integer": 9007199254740993,
            "list": [False, None],
            "none": [],
            "map": {"x": "y"},
            "bytes": "AA==",
            "empty": None,
        }
        assert reader.trace("f" * 32) is None
        assert reader.trace_link("ab" * 16) == f"{server.url}/jaeger/trace/{'ab' * 16}"


def test_an_answer_of_a_strange_shape() -> None:
    with Server(v3) as server, pytest.raises(JaegerError, match="not one of Jaeger's") as caught:
        JaegerReader(f"{server.url}/jaeger").search(service="strange")
    assert caught.value.reason == "not_jaeger"


#: Each of its values is replaced by each of these.
STRANGE = (None, True, -1, 2**80, 1.5, "x", "9" * 40, [7], {"a": None})
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
SUMMARY_V3 = {
    "traceId": "ab" * 16,
    "rootServiceName": "shop",
    "rootOperationName": "GET /items",
    "minStartTimeUnixNano": "1000000000",
    "maxEndTimeUnixNano": "1002000000",
    "spanCount": 1,
    "errorSpanCount": 1,
    "services": [{"name": "shop"}, {"name": "billing"}],
}
RESOURCE_V3 = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
SPANS_V3 = {"result": {"resourceSpans": [{"resource": RESOURCE_V3, "scopeSpans": [
    {"scope": {"name": "django_tracing"}, "spans": [WHOLE_V3, {**WHOLE_V3, "spanId": "34" * 8, "parentSpanId": ""}]},
]}]}}  # fmt: skip
CALLS = {"data": [{"parent": "shop", "child": "billing", "callCount": 7}]}
ANSWERS: dict[str, dict[str, Any]] = {
    "v3": {
        "/api/v3/services": {"services": ["shop"]},
        "/api/v3/operations": {"operations": [{"name": "GET /items", "spanKind": "server"}]},
        "/api/v3/trace-summaries": {"summaries": [SUMMARY_V3]},
        "/api/v3/traces": SPANS_V3,
        f"/api/v3/traces/{'ab' * 16}": SPANS_V3,
        "/api/dependencies": CALLS,
    },
    "v1": {
        "/api/services": {"data": ["shop"]},
        "/api/operations": {"data": [{"name": "old", "spanKind": ""}]},
        "/api/traces": {"data": [TRACE_V1]},
        f"/api/traces/{'0' * 16}{'ab' * 8}": {"data": [TRACE_V1]},
        "/api/dependencies": CALLS,
    },
}


def replaced(node: Any) -> Iterator[Any]:
    """``node`` with one of its values replaced, or left out, in every way."""
    yield from STRANGE
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        for value in replaced(node[key]):
            copy = node.copy()
            copy[key] = value
            yield copy
        copy = node.copy()
        del copy[key]
        yield copy


def read_everything(reader: JaegerReader, trace_id: str) -> None:
    """As the pages do."""
    for service in reader.services():
        reader.operations(service)
    for summary in reader.search():
        duration_text(summary.duration)
    for route in reader.routes():
        duration_text(route.p99)
    layout(reader.dependencies().links)
    trace = reader.trace(trace_id)
    if trace is None:  # what is answered is another trace's
        return
    assert waterfall(trace).rows
    found = reader.stream(trace_id)
    assert found is not None
    json.loads("".join(otlp_json(found.spans)))
    json.loads("".join(jaeger_json(trace.trace_id, trace.spans)))
    assert reader.span(trace_id, trace.spans[0].span_id) is not None


@pytest.mark.parametrize("dialect", ["v3", "v1"])
def test_no_answer_is_so_strange_that_a_page_fails(
    dialect: Literal["v3", "v1"], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = dict(ANSWERS[dialect])

    @contextmanager
    def answer_of(client: http.QueryClient, path: str, query: Any, longest: float | None = None) -> Iterator[Any]:
        # A server would take minutes: what is tried is what is made of its JSON.
        pieces = iter([json.dumps(answers[path]).encode()])
        yield 200, lambda: next(pieces, b"")

    monkeypatch.setattr(JaegerReader, "version", dialect)
    monkeypatch.setattr(http.QueryClient, "_response", answer_of)
    trace_id = "ab" * 16 if dialect == "v3" else "0" * 16 + "ab" * 8
    read_everything(JaegerReader("http://jaeger"), trace_id)
    refused = 0
    for path, answer in ANSWERS[dialect].items():
        for strange in replaced(answer):
            answers[path] = strange
            try:
                read_everything(JaegerReader("http://jaeger"), trace_id)
            except JaegerError as error:
                refused += error.reason == "not_jaeger"
        answers[path] = answer
    assert refused > 100


# ----- Long traces


def long_v3(count: int, size: int = 100) -> dict[str, Any]:
    """A trace whose root is the last to come, and says that it began last: its clock runs ahead."""
    spans = [
        {
            **WHOLE_V3,
            "spanId": f"{number + 2:016x}",
            "parentSpanId": f"{1:016x}",
            "startTimeUnixNano": str(10**9 + (number * 7919) % count),
            "attributes": [{"key": "text", "value": {"stringValue": "y" * size}}],
        }
        for number in range(count - 1)
    ]
    root = {**WHOLE_V3, "spanId": f"{1:016x}", "parentSpanId": "", "startTimeUnixNano": str(2 * 10**9)}
    scope = {"scope": {"name": "django_tracing"}, "spans": [*spans, root]}
    # In the order that Jaeger does not write: what belongs to the spans comes behind them.
    return {"result": {"resourceSpans": [{"scopeSpans": [scope], "resource": RESOURCE_V3}]}}


def long_v1(count: int, size: int = 100) -> dict[str, Any]:
    spans = [
        {
            "traceID": "ab" * 16,
            "spanID": f"{number + 2:x}",
            "operationName": "child",
            "references": [{"refType": "CHILD_OF", "traceID": "ab" * 16, "spanID": "1"}],
            "startTime": 10**6 + (number * 7919) % count,
            "duration": 5,
            "tags": [{"key": "text", "type": "string", "value": "y" * size}],
            "logs": [],
            "processID": "p1",
        }
        for number in range(count - 1)
    ]
    root = {
        "traceID": "ab" * 16,
        "spanID": "1",
        "operationName": "GET /items",
        "startTime": 2 * 10**6,
        "processID": "p1",
    }
    return {"data": [{"traceID": "ab" * 16, "spans": [*spans, root], "processes": {"p1": {"serviceName": "shop"}}}]}


LONG: dict[str, Callable[..., dict[str, Any]]] = {"v3": long_v3, "v1": long_v1}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], JaegerReader]:
    """A reader of one answer, whatever is asked."""

    def make(dialect: str, answer: Any) -> JaegerReader:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

        @contextmanager
        def answer_of(client: http.QueryClient, path: str, query: Any, longest: float | None = None) -> Iterator[Any]:
            pieces = (body[begin : begin + 65536] for begin in range(0, len(body), 65536))
            yield 200, lambda: next(pieces, b"")

        monkeypatch.setattr(JaegerReader, "version", dialect)
        monkeypatch.setattr(http.QueryClient, "_response", answer_of)
        return JaegerReader("http://jaeger")

    return make


@pytest.mark.parametrize("dialect", ["v3", "v1"])
def test_of_a_long_trace_the_earliest_are_kept(
    dialect: str, answering: Callable[[str, Any], JaegerReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaeger, "MOST_SPANS", 50)
    trace = answering(dialect, LONG[dialect](400)).trace("ab" * 16)
    assert trace is not None
    scale = 1 if dialect == "v3" else 1000
    assert [span.start - 10**9 for span in trace.spans[:50]] == [number * scale for number in range(50)]
    assert {span.service for span in trace.spans} == {"shop"}
    # They hang together: the root is there though it seems to be the last.
    (root,) = trace.tree()
    assert root.span.parent_id == ""
    assert (len(trace.spans), trace.span_count, trace.left_out, trace.unstored) == (51, 400, 349, 0)


@pytest.mark.parametrize("dialect", ["v3", "v1"])
def test_one_span_of_a_long_trace(
    dialect: str, answering: Callable[[str, Any], JaegerReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaeger, "MOST_SPANS", 50)
    made = []
    module = {"v1": v1_api, "v3": v3_api}[dialect]
    original = module.Span
    monkeypatch.setattr(module, "Span", lambda **fields: made.append(1) or original(**fields))
    reader = answering(dialect, LONG[dialect](400))
    found = reader.span("ab" * 16, f"{399:016x}")
    assert found is not None
    assert (found.span.span_id, found.span.service, found.trace_name) == (f"{399:016x}", "shop", "GET /items")
    assert found.trace_start == 10**9
    assert len(made) <= 3
    assert reader.span("ab" * 16, f"{4000:016x}") is None


@pytest.mark.parametrize("dialect", ["v3", "v1"])
def test_a_file_has_all_of_a_long_trace(
    dialect: str, answering: Callable[[str, Any], JaegerReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaeger, "MOST_SPANS", 50)
    found = answering(dialect, LONG[dialect](400)).stream("ab" * 16)
    assert found is not None
    spans = list(found.spans)
    assert len({span.span_id for span in spans}) == 400
    if dialect == "v1":
        assert {span.service for span in spans} == {"shop"}


@pytest.mark.parametrize("dialect", ["v3", "v1"])
@pytest.mark.parametrize("what", ["trace", "span", "stream", "search", "routes", "dependencies"])
def test_no_more_memory_for_a_longer_trace(
    dialect: str, what: str, answering: Callable[[str, Any], JaegerReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    if dialect == "v3" and what == "search":
        pytest.skip("its summaries are short")
    monkeypatch.setattr(jaeger, "MOST_SPANS", 300)
    monkeypatch.setattr(jaeger, "WHOLE_SPANS", 300)
    monkeypatch.setattr(JaegerReader, "_services", lambda reader, service: ["shop"])
    monkeypatch.setattr(http.QueryClient, "ask", lambda *args, **options: [])

    def peak(count: int) -> int:
        reader = answering(dialect, LONG[dialect](count, 1000))
        ask: dict[str, Callable[[], object]] = {
            "trace": lambda: reader.trace("ab" * 16),
            "span": lambda: reader.span("ab" * 16, f"{7:016x}"),
            "stream": lambda: sum(1 for _ in reader.stream("ab" * 16).spans),  # type: ignore[union-attr]
            "search": reader.search,
            "routes": reader.routes,
            "dependencies": reader.dependencies,
        }
        tracemalloc.start()
        ask[what]()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(400)
    assert peak(4000) < 1.6 * peak(400)


@pytest.mark.parametrize("dialect", ["v3", "v1"])
@pytest.mark.parametrize("what", ["trace", "span", "stream", "search"])
def test_work_grows_with_the_answer(
    dialect: str, what: str, answering: Callable[[str, Any], JaegerReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JaegerReader, "_services", lambda reader, service: ["shop"])
    if dialect == "v3" and what == "search":
        pytest.skip("its summaries are short")

    def read(reader: JaegerReader) -> None:
        if what == "stream":
            found = reader.stream("ab" * 16)
            assert found is not None
            assert list(found.spans)
        elif what == "search":
            reader.search()
        else:
            getattr(reader, what)("ab" * 16, *([f"{7:016x}"] if what == "span" else []))

    for ratio in growth(lambda answer: read(answering(dialect, answer)), LONG[dialect], 100, 400, 1600):
        assert ratio < 5


@pytest.mark.parametrize("dialect", ["v3", "v1"])
def test_an_answer_that_is_longer_than_is_read_shows_what_came(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one trace there is nothing less to ask for."""
    monkeypatch.setattr(http, "MAX_ANSWER", 400_000)
    monkeypatch.setattr(JaegerReader, "version", dialect)
    with Server(lambda path: (200, LONG[dialect](2000))) as server:
        trace = JaegerReader(server.url).trace("ab" * 16)
    assert trace is not None
    assert 10 < len(trace.spans) < 2000
    assert trace.uncounted
    assert f"The earliest {len(trace.spans)} of more than {trace.span_count} spans." in render_trace(trace)


def test_a_file_may_take_longer_than_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for: what came is sent on. Each read of it has the timeout of a page's answer."""
    monkeypatch.setattr(JaegerReader, "version", "v3")
    body = json.dumps(long_v3(40)).encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                for begin in range(0, len(body), len(body) // 10):
                    connection.sendall(body[begin : begin + len(body) // 10])
                    threading.Event().wait(0.06)

        thread = threading.Thread(target=drip)
        thread.start()
        found = JaegerReader(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.4).stream("ab" * 16)
        assert found is not None
        assert sum(1 for _ in found.spans) == 40
        thread.join()


@pytest.mark.parametrize("dialect", ["v3", "v1"])
@pytest.mark.parametrize("depth", [50, 400, 100_000])
def test_values_of_any_depth(dialect: str, depth: int, answering: Callable[[str, Any], JaegerReader]) -> None:
    """They are shown as deep as they can be, or the answer is refused; nothing runs out of Python's stack."""
    answer = json.dumps(LONG[dialect](2))
    nested = "[" * depth + "]" * depth
    if dialect == "v3":
        deep = '{"arrayValue":{"values":[' * depth + "{}" + "]}}" * depth
        answer = answer.replace(json.dumps({"stringValue": "y" * 100}), deep)
    else:
        answer = answer.replace(json.dumps("y" * 100), nested)
    assert len(answer) > 2 * depth
    reader = answering(dialect, answer.encode())
    try:
        trace = reader.trace("ab" * 16)
    except JaegerError as error:
        assert error.reason == "not_jaeger"
        assert depth > 50
        return
    assert trace is not None
    render_trace(trace)
    json.dumps(trace.as_dict())
    json.loads("".join(otlp_json(trace.spans)))
    json.loads("".join(jaeger_json(trace.trace_id, trace.spans)))


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
