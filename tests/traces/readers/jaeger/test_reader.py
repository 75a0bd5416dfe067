"""Test responses of both versions of Jaeger's query API, and of servers that imitate it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import pytest

from django_tracing.exceptions import JaegerError
from django_tracing.traces.analysis.layout import layout
from django_tracing.traces.analysis.waterfall import waterfall
from django_tracing.traces.durations import duration_text
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.readers.jaeger import http
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from tests.traces.readers.jaeger.helpers import RESOURCE_V3, TRACE_V1, WHOLE_V3, Answer, Server, v1, v3


def test_the_older_api() -> None:
    with Server(v1) as server:
        reader = JaegerReader(server.url)
        assert reader.version == "v1"
        assert reader.services() == ["shop"]
        assert reader.operations("shop") == []
        # Detected once.
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


def test_the_requests_to_the_older_api() -> None:
    with Server(v1) as server:
        reader = JaegerReader(server.url)
        reader.search(service="shop", operation="x", min_duration=0.0015, errors=True, attributes={"a": "b"},
                      start=1, end=9, limit=5, before=(2_000_000_000, "ab"))  # fmt: skip
        parts = next(filter(lambda parts: parts.path == "/api/traces", map(urlsplit, server.asked)))
        assert {key: values[0] for key, values in parse_qs(parts.query).items()} == {
            "service": "shop",
            "operation": "x",
            # Some storages leave out what starts at the limits.
            "start": "999999",
            # A trace that started in the same microsecond may follow because of its id.
            "end": "2000002",
            "minDuration": "1500us",
            "tags": '{"a": "b", "error": "true"}',
            "limit": "20",
        }


def test_connecting_is_no_statement_in_the_older_api() -> None:
    first = TRACE_V1["spans"][0]  # type: ignore[index]
    spans = [
        {**first, "spanID": str(number), "tags": [{"key": "db.system", "value": "x"}, {"key": key, "value": value}]}
        for number, (key, value) in enumerate(
            [("db.operation", "connect"), ("db.operation.name", "pool.wait"), ("db.operation", "select")], start=1
        )
    ]

    def answer(path: str) -> Answer:
        if urlsplit(path).path == "/api/traces":
            return 200, {"data": [{**TRACE_V1, "spans": spans}], "errors": None}
        return v1(path)

    with Server(answer) as server:
        (found,) = JaegerReader(server.url).search(service="shop")
    # Three spans of two milliseconds: the time of connecting is the database's.
    assert (found.sql_count, found.sql_time) == (1, 6_000_000)


def test_an_error_of_the_older_api() -> None:
    with Server(v1) as server, pytest.raises(JaegerError, match=r"\(500\): storage is full\.") as caught:
        JaegerReader(server.url).search(service="explode")
    assert caught.value.reason == "failed"


def test_a_proxy_without_the_older_ui() -> None:
    """If a gateway answers unknown paths with 404 and JSON, this doesn't indicate v3."""

    def answer(path: str) -> Answer:
        return v1(path) if path.startswith(("/api/services", "/api/traces")) else (404, {"error": "no route"})

    with Server(answer) as server:
        assert JaegerReader(server.url).version == "v1"


def test_the_newer_api_below_a_path() -> None:
    with Server(v3) as server:
        reader = JaegerReader(f"{server.url}/jaeger/")
        assert reader.version == "v3"
        # Jaeger's own traces are left out.
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


def test_a_response_of_an_unexpected_shape() -> None:
    with Server(v3) as server, pytest.raises(JaegerError, match="not one of Jaeger's") as caught:
        JaegerReader(f"{server.url}/jaeger").search(service="strange")
    assert caught.value.reason == "not_jaeger"


#: Each value of a response is replaced by each of these.
STRANGE = (None, True, -1, 2**80, 1.5, "x", "9" * 40, [7], {"a": None})
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
    """Yield copies of ``node``, each with one value replaced or left out."""
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
    """Call all methods that the pages call."""
    for service in reader.services():
        reader.operations(service)
    for summary in reader.search():
        duration_text(summary.duration)
    for route in reader.routes():
        duration_text(route.p99)
    layout(reader.dependencies().links)
    trace = reader.trace(trace_id)
    if trace is None:  # the response contains another trace
        return
    assert waterfall(trace).rows
    found = reader.stream(trace_id)
    assert found is not None
    json.loads("".join(otlp_json(found.spans)))
    json.loads("".join(jaeger_json(trace.trace_id, trace.spans)))
    assert reader.span(trace_id, trace.spans[0].span_id) is not None


NAMELESS = {**SUMMARY_V3, "traceId": "ef" * 16, "rootServiceName": "", "rootOperationName": ""}


def test_a_trace_without_a_root_that_cannot_be_read() -> None:
    """Version 3 does not name it, and the trace may be gone a moment later: the list is of use without the name."""

    def answer(path: str) -> Answer:
        if path.startswith("/api/v3/trace-summaries?"):
            services = [{"name": "billing"}, {"name": "shop"}]
            return 200, {"summaries": [NAMELESS | {"services": services}]}
        return v3(f"/jaeger{path}")

    with Server(answer) as server:
        (summary,) = JaegerReader(server.url).search(service="shop")
    assert (summary.name, summary.service, summary.services) == ("", "", ("billing", "shop"))


def test_the_name_of_a_trace_is_read_once() -> None:
    span = {**WHOLE_V3, "traceId": NAMELESS["traceId"]}

    def answer(path: str) -> Answer:
        if path.startswith("/api/v3/trace-summaries?"):
            return 200, {"summaries": [NAMELESS]}
        if path.startswith("/api/v3/traces/"):
            return 200, {"result": {"resourceSpans": [{"resource": RESOURCE_V3, "scopeSpans": [{"spans": [span]}]}]}}
        return v3(f"/jaeger{path}")

    with Server(answer) as server:
        for _ in range(2):
            # Another reader: each page has its own.
            (summary,) = JaegerReader(server.url).search(service="shop")
            assert (summary.name, summary.service, summary.services) == ("GET /items", "shop", ("shop", "billing"))
        assert sum(path.startswith("/api/v3/traces/") for path in server.asked) == 1


@pytest.mark.parametrize("dialect", ["v3", "v1"])
def test_no_response_makes_a_page_fail(dialect: Literal["v3", "v1"], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = dict(ANSWERS[dialect])

    @contextmanager
    def answer_of(client: http.QueryClient, path: str, query: Any, longest: float | None = None) -> Iterator[Any]:
        # A server would take minutes: this tests only how the JSON is read.
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
