"""Test that long traces of Jaeger are read with bounded memory and in linear time."""

from __future__ import annotations

import json
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from django_tracing.exceptions import JaegerError
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.readers.jaeger import http, sample
from django_tracing.traces.readers.jaeger import reader as jaeger
from django_tracing.traces.readers.jaeger import v1 as v1_api
from django_tracing.traces.readers.jaeger import v3 as v3_api
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.text import render_trace
from tests.traces.readers.jaeger.helpers import RESOURCE_V3, WHOLE_V3, Server
from tests.work_counter import growth


def long_v3(count: int, size: int = 100) -> dict[str, Any]:
    """Return a trace whose root comes last and has the latest start, because its clock is ahead."""
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
    # Not in Jaeger's order: the processes follow the spans.
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
    """Return a function that makes a reader which gets the same response for each request."""

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
def test_the_earliest_spans_of_a_long_trace_are_kept(
    dialect: str, answering: Callable[[str, Any], JaegerReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaeger, "MOST_SPANS", 50)
    trace = answering(dialect, LONG[dialect](400)).trace("ab" * 16)
    assert trace is not None
    scale = 1 if dialect == "v3" else 1000
    assert [span.start - 10**9 for span in trace.spans[:50]] == [number * scale for number in range(50)]
    assert {span.service for span in trace.spans} == {"shop"}
    # They are connected: the root is kept although it seems to be the last.
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
def test_a_file_contains_all_spans_of_a_long_trace(
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
def test_a_longer_trace_takes_no_more_memory(
    dialect: str, what: str, answering: Callable[[str, Any], JaegerReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    if dialect == "v3" and what == "search":
        pytest.skip("its summaries are short")
    monkeypatch.setattr(jaeger, "MOST_SPANS", 300)
    monkeypatch.setattr(sample, "WHOLE_SPANS", 150)
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
def test_reading_takes_linear_time(
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

    for ratio in growth(lambda answer: read(answering(dialect, answer)), LONG[dialect], 200, 800, 3200):
        assert ratio < 5


@pytest.mark.parametrize("dialect", ["v3", "v1"])
def test_a_response_above_the_limit_shows_the_spans_read(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for one trace can't be made smaller."""
    monkeypatch.setattr(http, "MAX_ANSWER", 400_000)
    monkeypatch.setattr(JaegerReader, "version", dialect)
    with Server(lambda path: (200, LONG[dialect](2000))) as server:
        trace = JaegerReader(server.url).trace("ab" * 16)
    assert trace is not None
    assert 10 < len(trace.spans) < 2000
    assert trace.uncounted
    assert f"The earliest {len(trace.spans)} of more than {trace.span_count} spans." in render_trace(trace)


def test_a_file_may_take_longer_than_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is sent while it is read. Each read has the timeout of a page's response."""
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
    """They are shown up to a depth, or the response is rejected; there is no RecursionError."""
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
