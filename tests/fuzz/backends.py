"""What backends answer: Jaeger's query API in both versions, receivers of spans, servers of sampling strategies."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any, Final
from unittest.mock import patch

from hypothesis import strategies as st

from django_tracing.exceptions import ExportError, JaegerError
from django_tracing.export.announcements import warn
from django_tracing.export.answers import fields, rejected_spans, retry_delay
from django_tracing.export.errors import from_status, seconds_to_wait
from django_tracing.export.grpc import _failure
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.net import explain_error
from django_tracing.sampling.remote import JaegerRemoteSampler, _Decider, from_environment, parse_strategy
from django_tracing.traces.readers.jaeger import reader as jaeger_reader
from django_tracing.traces.readers.jaeger.http import QueryClient
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from tests.fuzz.promises import check_line
from tests.fuzz.running import Target
from tests.fuzz.shown import PAGES, pages_of, show, show_links, show_summaries, site
from tests.traces.readers.jaeger.helpers import RESOURCE_V3, TRACE_V1, WHOLE_V3

__all__ = ["TARGETS"]

# ----- Jaeger's query API


class _Answered(QueryClient):
    """A client that gets one answer to everything, in small pieces."""

    def __init__(self) -> None:
        super().__init__("http://jaeger:16686/ui", timeout=5.0)
        self.status = 200
        self.location: str | None = None
        self.body = b""

    @contextmanager
    def _response(
        self, path: str, query: Any, longest: float | None = None
    ) -> Iterator[tuple[int, Callable[[], bytes]]]:
        # What would be sent is a request line.
        target = self._target(path, query)
        assert target.isascii() and target.isprintable() and " " not in target, target
        self._check_status(self.status, self.location)
        size = max(len(self.body) // 3, 1)
        pieces = iter([self.body[at : at + size] for at in range(0, len(self.body), size)])
        yield self.status, lambda: next(pieces, b"")


_client = _Answered()


def _reader(version: Any) -> JaegerReader:
    found = JaegerReader("http://jaeger:16686/ui")
    found._client = _client
    found._version = version
    jaeger_reader._topmosts.clear()
    return found


def _body(document: Any) -> bytes:
    if isinstance(document, bytes):
        return document
    try:
        return json.dumps(document).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        return repr(document).encode("utf-8", "replace")


def _asked(ask: Callable[[], Any]) -> Any:
    """Return what a reader returns. What is wrong with an answer is one exception, with a message of one line."""
    try:
        return ask()
    except JaegerError as error:
        check_line(str(error), 1001)
        return None


def check_spans(version: str, document: Any) -> None:
    _client.status, _client.body = 200, _body(document)
    reader = _reader(version)
    trace = _asked(lambda: reader.trace("ab" * 16))
    if trace is not None:
        show(trace)
    _asked(lambda: reader.span("ab" * 16, "12" * 8))
    stream = _asked(lambda: reader.stream("ab" * 16))
    if stream is not None:
        _asked(lambda: list(stream.spans))


def check_pages(document: Any, page: str, query: str) -> None:
    """The pages, with any trace that a reader lets through."""
    if page not in PAGES:
        return
    _client.status, _client.body = 200, _body(document)
    trace = _asked(lambda: _reader("v3").trace("ab" * 16))
    if trace is not None:
        pages_of(trace, page, urllib.parse.quote(query, safe="=&+%", errors="replace"))


def check_search(version: str, document: Any) -> None:
    _client.status, _client.body = 200, _body(document)
    reader = _reader(version)
    found = _asked(lambda: reader.search(service="shop", limit=5, start=0.5, end=3.0))
    if found is not None:
        show_summaries(found)


def check_lists(version: str, document: Any) -> None:
    _client.status, _client.body = 200, _body(document)
    reader = _reader(version)
    for names in (_asked(reader.services), _asked(lambda: reader.operations("shop"))):
        assert names is None or all(isinstance(name, str) for name in names)


def check_statistics(version: str, document: Any) -> None:
    _client.status, _client.body = 200, _body(document)
    reader = _reader(version)
    routes = _asked(lambda: reader.routes(service="shop"))
    if routes is not None:
        json.dumps([route.as_dict() for route in routes])
    links = _asked(lambda: reader.dependencies(service="shop"))
    if links is not None:
        show_links(links)


def check_version(document: Any, status: Any, location: str) -> None:
    _client.body = _body(document)
    _client.status = status if isinstance(status, int) and 100 <= status < 1000 else 404
    _client.location = location
    reader = _reader(None)
    version = _asked(lambda: reader.version)
    assert version in (None, "v1", "v3")
    _asked(reader.services)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
_NAMES: Final = (
    *(
        "result",
        "resourceSpans",
        "scopeSpans",
        "spans",
        "attributes",
        "value",
        "stringValue",
        "intValue",
        "data",
        "tags",
    ),
    *(
        "traceId",
        "spanId",
        "traceID",
        "spanID",
        "references",
        "processes",
        "logs",
        "fields",
        "summaries",
        "operations",
    ),
    *(
        "startTimeUnixNano",
        "startTime",
        "duration",
        "kind",
        "status",
        "processID",
        "events",
        "links",
        "key",
        "services",
    ),
)
_shaped = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just("ab" * 16),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=12,
)
_documents = _json | _shaped | st.binary(max_size=60)

_SPANS_V3: Final = {
    "result": {
        "resourceSpans": [
            {
                "resource": RESOURCE_V3,
                "scopeSpans": [
                    {
                        "scope": {"name": "django_tracing"},
                        "spans": [
                            {**WHOLE_V3, "parentSpanId": ""},
                            {
                                **WHOLE_V3,
                                "spanId": "56" * 8,
                                "parentSpanId": "12" * 8,
                                "name": "db.select.items",
                                "kind": 3,
                                "attributes": [
                                    {"key": "db.system", "value": {"stringValue": "postgresql"}},
                                    {"key": "db.statement", "value": {"stringValue": "SELECT a FROM b"}},
                                    {"key": "operation.type", "value": {"stringValue": "database"}},
                                    {"key": "code.filepath", "value": {"stringValue": "shop/views.py"}},
                                    {"key": "code.lineno", "value": {"intValue": "42"}},
                                ],
                            },
                            {
                                **WHOLE_V3,
                                "spanId": "78" * 8,
                                "parentSpanId": "99" * 8,
                                "name": "circuit_breaker.pay",
                                "events": [
                                    {
                                        "name": "exception",
                                        "timeUnixNano": "1000000500",
                                        "attributes": [
                                            {"key": "exception.type", "value": {"stringValue": "ValueError"}},
                                            {"key": "exception.message", "value": {"stringValue": "boom"}},
                                            {"key": "exception.stacktrace", "value": {"stringValue": "File x"}},
                                        ],
                                    }
                                ],
                                "attributes": [
                                    {"key": "operation.type", "value": {"stringValue": "circuit_breaker"}},
                                    {"key": "circuit_breaker.name", "value": {"stringValue": "pay"}},
                                    {"key": "circuit_breaker.state", "value": {"stringValue": "open"}},
                                    {"key": "user.id", "value": {"stringValue": "42"}},
                                    {"key": "request.name", "value": {"stringValue": "GET /x"}},
                                    {"key": "http.url", "value": {"stringValue": "http://h/a?b"}},
                                    {"key": "http.status_code", "value": {"intValue": "500"}},
                                ],
                            },
                        ],
                    }
                ],
            }
        ]
    }
}
_SPANS_V1: Final = {
    "data": [
        {
            **TRACE_V1,
            "traceID": "ab" * 16,
            "spans": [
                {
                    **span,
                    "traceID": "ab" * 16,
                    "tags": [
                        *(span["tags"] or ()),
                        {"key": "span.kind", "type": "string", "value": "client"},
                        {"key": "db.system", "type": "string", "value": "redis"},
                        {"key": "otel.status_code", "type": "string", "value": "ERROR"},
                        {"key": "http.status_code", "type": "int64", "value": 200},
                        {"key": "ratio", "type": "float64", "value": 0.5},
                        {"key": "otel.scope.name", "type": "string", "value": "scope"},
                    ],
                }
                for span in TRACE_V1["spans"]  # type: ignore[attr-defined]
            ],
        }
    ],
    "errors": None,
}
_SUMMARIES_V3: Final = {
    "summaries": [
        {
            "traceId": "ab" * 16,
            "rootServiceName": "shop",
            "rootOperationName": "GET /items",
            "minStartTimeUnixNano": "1000000000",
            "maxEndTimeUnixNano": "1002000000",
            "spanCount": 3,
            "errorSpanCount": 1,
            "services": [{"name": "shop"}, {"name": "billing"}],
        }
    ]
}
#: Numbers that JSON can hold, and a system that is a list.
_FORMER: Final = (
    b'{"result": {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "abababababababababababababababab", '
    b'"spanId": "1", "startTimeUnixNano": 1e999}]}]}]}}',
    {
        "result": {
            "resourceSpans": [
                {
                    "scopeSpans": [
                        {
                            "spans": [
                                {
                                    **WHOLE_V3,
                                    "attributes": [
                                        {"key": key, "value": {"arrayValue": {"values": [{"stringValue": "redis"}]}}}
                                        for key in ("db.system", "operation.type", "user.id")
                                    ],
                                }
                            ]
                        }
                    ]
                }
            ]
        }
    },
    {
        "data": [
            {
                **TRACE_V1,
                "traceID": "ab" * 16,
                "spans": [{**TRACE_V1["spans"][0], "traceID": "ab" * 16, "duration": float("inf")}],
            }
        ]
    },  # type: ignore[index]
)
_COUNTS: Final = {"data": [{"parent": "shop", "child": "billing", "callCount": 7}], **_SPANS_V3}

# ----- receivers


def check_answer(answer: bytes) -> None:
    count, reason = rejected_spans(answer)
    assert 0 <= count < 1 << 63
    assert len(reason) <= 201
    error = ExportError(f"x rejected {count}: {reason}", reason="rejected", retryable=False, rejected=count)
    check_line(str(error), 1001)
    warn(str(error))
    delay = retry_delay(answer)
    assert delay is None or 0 <= delay < 1 << 41
    assert sum(1 for _ in fields(answer)) <= len(answer)


def check_status(status: Any, retry_after: str, compressed: Any) -> None:
    status = status if isinstance(status, int) and 0 <= status < 1000 else 503
    error = from_status(status, "http://collector:4318/v1/traces", retry_after, compressed=bool(compressed))
    check_line(str(error), 1001)
    seconds = seconds_to_wait(retry_after)
    assert seconds is None or 0 <= seconds < float("inf")


def check_grpc(code: str, details: str, answer: bytes) -> None:
    delay = retry_delay(answer)
    for given in (code, "UNAVAILABLE", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "INTERNAL"):
        error = _failure(given, details, "collector:4317", compressed=True, retry_after=delay)
        check_line(str(error), 1001)


# ----- whole answers of HTTP


def _socket(answer: bytes) -> socket.socket:
    ours, theirs = socket.socketpair()
    ours.settimeout(5.0)
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    # It may be closed: what it sent arrives.
    _peers.append(theirs)
    return ours


_peers: list[socket.socket] = []


@contextmanager
def _sockets() -> Iterator[None]:
    """Let every connection read the bytes of ``_raw``."""

    def connect(self: http.client.HTTPConnection) -> None:
        self.sock = _socket(_raw[0])

    with (
        patch("django_tracing.export.otlp.open_socket", lambda *args: _socket(_raw[0])),
        patch.object(http.client.HTTPConnection, "connect", connect),
    ):
        yield


_raw = [b""]


def check_http(answer: bytes) -> None:
    _raw[0] = answer
    try:
        exporter = OTLPHTTPExporter("http://collector:4318")
        try:
            exporter.probe()
        except ExportError as error:
            check_line(str(error), 1001)
            warn(str(error))
        exporter.shutdown()
        _asked(lambda: QueryClient("http://jaeger:16686", timeout=5.0).find_version())
        _asked(lambda: JaegerReader("http://jaeger:16686").services())
        sampler = JaegerRemoteSampler("shop", "http://jaeger:5778")
        sampler.ask()
    finally:
        while _peers:
            _peers.pop().close()


def check_network_error(text: str) -> None:
    for kind in (OSError, http.client.HTTPException, ConnectionRefusedError, UnicodeError):
        ExportError(explain_error(kind(text), "h:1").message, reason="refused", retryable=True)


_ANSWERS: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 9\r\n\r\n\x0a\x07\x08\x03\x12\x03bad",
    b"HTTP/1.1 503 Unavailable\r\nRetry-After: 30\r\nConnection: close\r\n\r\nbusy",
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{"services":["shop"]}\r\n0\r\n\r\n',
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.0 302 Found\r\nLocation: http://login/?next=x\r\n\r\n",
    b'HTTP/1.1 200 OK\r\nContent-Length: 41\r\n\r\n{"probabilisticSampling":{"samplingRate":1}}',
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>\x1b[31m</html>",
)
_http_words = (
    *(
        b"HTTP/1.1 ",
        b"200 OK",
        b"\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"Location: ",
        b"Retry-After: ",
    ),
    *(
        b"Content-Type: text/html\r\n",
        b"100 Continue\r\n\r\n",
        b"ffffffff\r\n",
        b"-1\r\n",
        b"0\r\n\r\n",
        b": x\r\n",
        b"\x00",
    ),
)

_PARTIAL: Final = b"\x0a\x10\x08\x03\x12\x0csome reasons"
#: A google.rpc.Status with a RetryInfo of 7.5 seconds.
_RETRY: Final = b"\x08\x08\x1a\x34\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x08\x0a\x06\x08\x07\x10\x80\xca\xb5\xee\x01"

# ----- sampling


def check_strategy(document: Any) -> None:
    if isinstance(document, bytes):
        try:
            document = json.loads(document)
        except (ValueError, RecursionError):
            return
    else:
        # As the decoder of JSON would return it.
        try:
            document = json.loads(_body(document))
        except (ValueError, RecursionError):
            return
    try:
        strategy = parse_strategy(document)
    except ValueError:
        return
    assert strategy.rate is None or 0.0 <= strategy.rate <= 1.0
    assert strategy.per_second is None or 0.0 <= strategy.per_second < float("inf")
    assert 0.0 <= strategy.lower_bound < float("inf")
    assert all(0.0 <= share <= 1.0 for share in strategy.operations.values())
    decider = _Decider(strategy)
    for name in ("GET orders/", "x", *list(strategy.operations)[:3]):
        for trace_id in (0, 1, (1 << 64) - 1, 7 << 60):
            decider.decide(name, trace_id)
    json.dumps(strategy._asdict())


def check_argument(text: str) -> None:
    """OTEL_TRACES_SAMPLER_ARG."""
    try:
        sampler = from_environment(text)
    except ValueError as error:
        assert len(str(error)) < 1000
        return
    sampler.get_description()


_STRATEGY: Final = {
    "strategyType": "PROBABILISTIC",
    "probabilisticSampling": {"samplingRate": 0.8},
    "rateLimitingSampling": None,
    "operationSampling": {
        "defaultSamplingProbability": 0.8,
        "defaultLowerBoundTracesPerSecond": 0.1,
        "perOperationStrategies": [{"operation": "GET orders/", "probabilisticSampling": {"samplingRate": 1}}],
    },
}

TARGETS: Final = (
    *(
        target
        for version, spans, search in (("v1", _SPANS_V1, _SPANS_V1), ("v3", _SPANS_V3, _SUMMARIES_V3))
        for target in (
            Target(
                f"Jaeger {version}: a trace",
                lambda document, version=version: check_spans(version, document),
                _documents,
                (spans, _body(spans)),
                _NAMES,
                _FORMER,
                weight=4,
            ),
            Target(
                f"Jaeger {version}: a search",
                lambda document, version=version: check_search(version, document),
                _documents,
                (search, _body(search)),
                _NAMES,
                weight=3,
            ),
            Target(
                f"Jaeger {version}: names",
                lambda document, version=version: check_lists(version, document),
                _documents,
                (
                    {"data": ["shop", "billing"]},
                    {"services": ["shop"]},
                    {"data": [{"name": "GET /x", "spanKind": "server"}]},
                    {"operations": [{"name": "GET /x", "spanKind": "server"}]},
                ),
                _NAMES,
            ),
            Target(
                f"Jaeger {version}: statistics",
                lambda document, version=version: check_statistics(version, document),
                _documents,
                (_COUNTS, {**_SPANS_V1, "data": [*_SPANS_V1["data"], {"parent": "a", "child": "b", "callCount": 1}]}),
                _NAMES,
                former=({"data": [{"parent": "", "child": "g", "callCount": float("inf")}], "result": {}},),
                linear=False,
                weight=6,
            ),
        )
    ),
    Target(
        "Jaeger: versions and errors",
        lambda values: check_version(*values),
        st.tuples(_documents, st.integers(100, 599), st.text(max_size=30)),
        (
            ({"error": {"httpCode": 400, "message": "required"}}, 400, ""),
            ({"data": None, "errors": [{"code": 500, "msg": "storage is full"}]}, 500, ""),
            (b"<html>", 302, "https://login.example.org/?token=x"),
        ),
        ("error", "errors", "message", "msg"),
    ),
    Target(
        "pages of any trace",
        lambda values: check_pages(*values),
        st.tuples(
            _shaped, st.sampled_from(PAGES), st.sampled_from(["", "all&color=kind", "part", "o=-p99", "service=x"])
        ),
        tuple((_SPANS_V3, page, "") for page in PAGES),
        ("<script>", "javascript:alert(1)", '"><b>x', "' onclick='", "</pre>", "{{ x }}", "{% x %}", "&lt;"),
        around=site,
        linear=False,
        weight=15,
    ),
    Target(
        "receivers' answers in protobuf",
        check_answer,
        st.binary(max_size=60),
        (_PARTIAL, _RETRY, b"\x0a\x00"),
        logs=True,
    ),
    Target(
        "statuses and Retry-After",
        lambda values: check_status(*values),
        st.tuples(st.integers(0, 999), st.text(max_size=40), st.booleans()),
        (
            (503, "30", True),
            (429, formatdate(usegmt=True), False),
            (413, "Sunday, 06-Nov-94 08:49:37 GMT", True),
            (400, "Sun Nov  6 08:49:37 1994", True),
        ),
        ("GMT", "Sun, ", "Nov ", ":49:", "1994", "-", "+0000"),
    ),
    Target(
        "gRPC's statuses",
        lambda values: check_grpc(*values),
        st.tuples(st.text(max_size=20), st.text(max_size=60), st.binary(max_size=40)),
        (
            ("UNAVAILABLE", "failed to connect: Connection refused", _RETRY),
            ("RESOURCE_EXHAUSTED", "message larger than max", b""),
        ),
        ("refused", "dns", "handshake", "settings frame", "Bearer abc", "compress"),
    ),
    Target(
        "answers of HTTP",
        check_http,
        st.lists(st.sampled_from(_http_words), max_size=12).map(b"".join) | st.binary(max_size=60),
        _ANSWERS,
        around=_sockets,
        logs=True,
        linear=False,
        weight=5,
    ),
    Target("errors of the network", check_network_error, st.text(max_size=40), ("[Errno 111] Connection refused",)),
    Target(
        "sampling strategies",
        check_strategy,
        _json | st.binary(max_size=60),
        (_STRATEGY, {"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": 5}}, _body(_STRATEGY)),
        ("strategyType", "samplingRate", "operationSampling", "RATE_LIMITING"),
        ({"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": 10**400}},),
    ),
    Target(
        "OTEL_TRACES_SAMPLER_ARG",
        check_argument,
        st.text(max_size=60),
        ("endpoint=http://localhost:5778/sampling,pollingIntervalMs=5000,initialSamplingRate=0.25", "0.5"),
        ("endpoint=", "pollingIntervalMs=", "initialSamplingRate=", "http://u:p@h", ","),
        linear=False,
    ),
)
