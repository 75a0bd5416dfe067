"""Test Jaeger's Thrift protocol with the old exporter and real Jaegers of both versions."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from django_tracing.exceptions import ExportError
from django_tracing.export import build_exporter
from django_tracing.export.jaeger import make_jaeger_exporter
from tests.export.builders import ANY_VALUES, Recorder, make_spans
from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["jaeger", "jaeger_151"])
def backend(request: pytest.FixtureRequest) -> Jaeger:
    found: Jaeger = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["http", "udp"])
def endpoint(request: pytest.FixtureRequest, backend: Jaeger) -> str:
    return backend.thrift_http if request.param == "http" else backend.thrift_udp


def tags(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {item["key"]: item["value"] for item in items}


def trace_of(recorder: Recorder) -> str:
    context = recorder.spans[0].context
    assert context is not None
    return f"{context.trace_id:032x}"


class TestRealJaegers:
    def test_a_probe_stores_nothing(self, backend: Jaeger, endpoint: str) -> None:
        exporter: Any = make_jaeger_exporter(endpoint)
        exporter.probe()
        recorder = Recorder()
        recorder.tracer.start_span("s").end()
        exporter.export(recorder.spans)
        backend.wait_trace(trace_of(recorder), 1)
        assert "unknown" not in str(backend.get("/api/v3/services"))
        exporter.shutdown()

    def test_a_trace_arrives_complete(self, backend: Jaeger, endpoint: str) -> None:
        recorder = Recorder({"service.version": "2.1", "deployment.environment": "staging", "process.pid": 7})
        linked = SpanContext(trace_id=2**127 + 5, span_id=2**63 + 9, is_remote=True)
        with recorder.tracer.start_as_current_span(
            "GET /caf\N{LATIN SMALL LETTER E WITH ACUTE}", kind=SpanKind.SERVER
        ):
            span = recorder.tracer.start_span(
                "db.select.blueprints",
                kind=SpanKind.CLIENT,
                links=[Link(linked)],
                attributes={
                    "text": "\N{SNOWMAN}",
                    "yes": True,
                    "one": 1,
                    "minus": -(2**63),
                    "half": 0.5,
                    "list": ["a", "b"],
                    "huge": 2**80,
                    "broken": "\udcff",
                    **({"raw": b"\x00\xff", "mixed": [1, None, "a"], "map": {"a": {"b": 1}}} if ANY_VALUES else {}),
                },
            )
            span.add_event("exception", {"exception.type": "ValueError", "frames": [1, 2]})
            span.set_status(Status(StatusCode.ERROR, "no \N{SNOWMAN}"))
            span.end()
        exporter = make_jaeger_exporter(endpoint)
        exporter.export(recorder.spans)
        trace = backend.wait_trace(trace_of(recorder), 2)
        child, root = sorted(trace["spans"], key=lambda span: span["operationName"], reverse=True)
        if child["operationName"] != "db.select.blueprints":
            child, root = root, child
        assert root["operationName"] == "GET /caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        assert {reference["spanID"] for reference in child["references"]} == {root["spanID"], f"{2**63 + 9:016x}"}
        found = tags(child["tags"])
        # Jaeger's JSON contains integers beyond JavaScript's range as numbers or as text.
        assert int(found.pop("minus")) == -(2**63)
        assert found["text"] == "\N{SNOWMAN}"
        assert (found["yes"], found["one"], found["half"]) == (True, 1, 0.5)
        assert found["list"] == '["a", "b"]'
        if ANY_VALUES:
            assert found["raw"] == "00ff"
            assert found["mixed"] == '[1, null, "a"]'
            assert found["map"] == '{"a": {"b": 1}}'
        assert found["huge"] == str(2**80)
        assert found["broken"] == "?"
        assert found["error"] is True
        assert found["otel.status_code"] == "ERROR"
        assert found["otel.status_description"] == "no \N{SNOWMAN}"
        assert found["span.kind"] == "client"
        assert tags(root["tags"])["span.kind"] == "server"
        assert {"otel.scope.name", "otel.library.name"} & set(found)
        (log,) = child["logs"]
        fields = tags(log["fields"])
        assert fields["exception.type"] == "ValueError"
        assert fields["frames"] == "[1, 2]"
        assert "exception" in fields.values()
        # The resource describes the process, once.
        (process,) = trace["processes"].values()
        assert process["serviceName"] == "shop"
        described = tags(process["tags"])
        assert described["service.version"] == "2.1"
        assert described["deployment.environment"] == "staging"
        assert described["process.pid"] == "7"
        assert "service.version" not in found
        exporter.shutdown()

    def test_search_by_attributes_of_the_resource(self, backend: Jaeger, endpoint: str) -> None:
        recorder = Recorder({"service.version": f"v{os.urandom(6).hex()}"})
        recorder.tracer.start_span("searched").end()
        exporter = make_jaeger_exporter(endpoint)
        exporter.export(recorder.spans)
        trace = backend.wait_trace(trace_of(recorder))
        assert tags(trace["processes"]["p1"]["tags"])["service.version"].startswith("v")
        exporter.shutdown()

    def test_more_than_a_datagram(self, backend: Jaeger, endpoint: str) -> None:
        exporter = make_jaeger_exporter(endpoint)
        # A busy machine may drop datagrams: then send another trace.
        for attempt in range(4):
            recorder = Recorder()
            with recorder.tracer.start_as_current_span("root"):
                for number in range(60):
                    recorder.tracer.start_span(f"child-{number}", attributes={"text": "x" * 4000}).end()
            exporter.export(recorder.spans)
            try:
                trace = backend.wait_trace(trace_of(recorder), 61, timeout=10)
                break
            except AssertionError:
                if attempt == 3 or not endpoint.startswith("udp"):
                    raise
        assert len(trace["spans"]) == 61
        exporter.shutdown()

    def test_a_span_that_does_not_fit_a_datagram_keeps_its_time(self, backend: Jaeger) -> None:
        recorder = Recorder()
        with recorder.tracer.start_as_current_span("root") as root:
            root.add_event("exception", {"stack": "x" * 70_000})
            root.set_attribute("kept", "yes")
            recorder.tracer.start_span("child", attributes={"text": "x" * 70_000}).end()
        exporter = make_jaeger_exporter(backend.thrift_udp)
        exporter.export(recorder.spans)
        trace = backend.wait_trace(trace_of(recorder), 2)
        by_name = {span["operationName"]: span for span in trace["spans"]}
        assert tags(by_name["root"]["tags"])["kept"] == "yes"
        assert not by_name["root"]["logs"]
        assert "text" not in tags(by_name["child"]["tags"])

    def test_invalid_times_lose_only_their_span(self, backend: Jaeger, endpoint: str) -> None:
        recorder = Recorder()
        tracer = recorder.tracer
        with tracer.start_as_current_span("root"):
            tracer.start_span("far ahead", start_time=2**80).end(2**80 + 1)
            tracer.start_span("good").end()
            odd = tracer.start_span("odd event")
            odd.add_event("far ahead", timestamp=2**80)
            odd.end()
        exporter = make_jaeger_exporter(endpoint)
        with pytest.raises(ExportError) as caught:
            exporter.export(recorder.spans)
        assert (caught.value.reason, caught.value.retryable, caught.value.rejected) == ("rejected", False, 2)
        trace = backend.wait_trace(trace_of(recorder), 2)
        assert {span["operationName"] for span in trace["spans"]} == {"root", "good"}
        exporter.shutdown()


def test_a_span_too_large_for_any_datagram_is_counted() -> None:
    spans = make_spans(2, name="small") + make_spans(1, name="x" * 70_000)
    with pytest.raises(ExportError) as caught:
        make_jaeger_exporter("udp://127.0.0.1:9").export(spans)
    assert (caught.value.reason, caught.value.retryable, caught.value.rejected) == ("rejected", False, 1)


Connect = Callable[..., Any]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes exporters, and shut them down after the test."""
    made: list[Any] = []

    def connect(endpoint: str, **options: Any) -> Any:
        made.append(make_jaeger_exporter(endpoint, **options))
        return made[-1]

    yield connect
    for exporter in made:
        exporter.shutdown()


class TestFailures:
    @pytest.mark.parametrize(
        ("mode", "reason", "retryable"),
        [
            (400, "wrong_protocol", False),
            (401, "unauthorized", False),
            (404, "not_found", False),
            (503, "unavailable", True),
            ("garbage", "wrong_protocol", False),
            ("drop", "wrong_protocol", True),
            ("hang", "timeout", True),
        ],
    )
    def test_responses_are_classified(self, connect: Connect, mode: str | int, reason: str, retryable: bool) -> None:
        with OTLPReceiver() as receiver:
            receiver.mode = mode
            receiver.answer_headers = {"Retry-After": "3"}
            exporter = connect(
                f"http://user:s3cret@127.0.0.1:{receiver.port}/api/traces", timeout=0.5 if mode == "hang" else 20
            )
            for _ in range(2):  # nothing of the first batch is left for the second
                with pytest.raises(ExportError) as caught:
                    exporter.export(make_spans())
                assert (caught.value.reason, caught.value.retryable) == (reason, retryable)
                assert "s3cret" not in str(caught.value)
                assert caught.value.retry_after == (3 if mode == 503 else None)

    @pytest.mark.parametrize(
        ("endpoint", "reason"),
        [
            ("http://127.0.0.1:9/api/traces", "refused"),
            ("http://no-such-host.invalid:14268/api/traces", "dns"),
            ("udp://no-such-host.invalid:6831", "dns"),
        ],
    )
    def test_connections(self, connect: Connect, endpoint: str, reason: str) -> None:
        with pytest.raises(ExportError) as caught:
            connect(endpoint).export(make_spans())
        assert (caught.value.reason, caught.value.retryable) == (reason, True)

    def test_tls_to_a_plain_port(self, connect: Connect) -> None:
        with OTLPReceiver() as receiver, pytest.raises(ExportError) as caught:
            connect(f"https://127.0.0.1:{receiver.port}/api/traces").export(make_spans())
        assert caught.value.reason == "tls"

    def test_a_wrong_header_is_named_without_its_value(self) -> None:
        with pytest.raises(ValueError, match="authorization") as caught:
            make_jaeger_exporter("http://127.0.0.1:9/api/traces", headers={"authorization": "s3cret\n"})
        assert "s3cret" not in str(caught.value)


class _Collector(http.server.BaseHTTPRequestHandler):
    seen: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """Yield an address, and the headers and body of each request sent there."""
    handler = type("Handler", (_Collector,), {"seen": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}/api/traces", handler.seen  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def test_headers_and_credentials(connect: Connect, collector: tuple[str, list[Any]]) -> None:
    address, seen = collector
    connect(f"http://user:p%40ss@{address}", headers={"X-Tenant": "blue"}).export(make_spans())
    headers, _ = seen[0]
    assert headers["content-type"] == "application/x-thrift"
    assert headers["authorization"] == "Basic dXNlcjpwQHNz"
    assert headers["x-tenant"] == "blue"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_send_the_unfinished_batch_of_its_parent(
    connect: Connect, collector: tuple[str, list[Any]]
) -> None:
    address, seen = collector
    exporter = connect(f"http://{address}")
    exporter.export(make_spans())
    # The state after a fork in the middle of a batch.
    exporter._frozen._collector_http_client.http_transport.write(b"half a batch of the parent")
    child = os.fork()
    if child == 0:
        try:
            exporter.export(make_spans(name="child"))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert b"half a batch" not in seen[1][1]
    assert b"child-0" in seen[1][1]


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )


def test_loads_without_a_warning_or_a_log_line() -> None:
    run = _python(
        "from django_tracing.export import build_exporter\n"
        "print(build_exporter('jaeger', endpoint='http://127.0.0.1:9/api/traces'))"
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("thrift", "can't be imported"),
        pytest.param(
            "deprecated",
            "can't be imported",
            marks=pytest.mark.skipif(
                any(needed.lower().startswith("deprecated") for needed in requires("opentelemetry-api") or ()),
                reason="old versions of OpenTelemetry's API and SDK need this package themselves",
            ),
        ),
        ("opentelemetry.exporter.jaeger", ""),
    ],
)
def test_the_error_for_a_missing_package_names_the_fix(missing: str, problem: str) -> None:
    run = _python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from django_tracing.export import build_exporter\n"
        "from django_tracing.exceptions import MissingExtra\n"
        "try:\n    build_exporter('jaeger', endpoint='http://127.0.0.1:9/api/traces')\n"
        "except MissingExtra as error:\n    print(error)"
    )
    assert run.returncode == 0, run.stderr
    assert problem in run.stdout
    assert 'pip install "django-tracing-otel[jaeger]"' in run.stdout
    assert "OTLP, which needs no extra" in run.stdout


def test_build_exporter_passes_all_options(collector: tuple[str, list[Any]]) -> None:
    address, seen = collector
    exporter = build_exporter("jaeger", endpoint=f"http://{address}", headers={"X-Tenant": "blue"}, timeout=5)
    assert exporter is not None
    exporter.export(make_spans())
    assert seen[0][0]["x-tenant"] == "blue"
    exporter.shutdown()
