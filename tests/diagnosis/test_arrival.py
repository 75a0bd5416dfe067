"""Test sending the test trace and reading it back."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.servers import free_port
from tests.diagnosis.helpers import Result, Web, always, deaf, empty_jaeger, failed
from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver


def test_the_test_trace_is_sent_like_other_spans(receiver: OTLPReceiver) -> None:
    result = Result({"ENDPOINT": receiver.endpoint, "COMPRESSION": "gzip"}, query=False)
    assert result.exit_code == 0
    assert {headers["content-encoding"] for headers in receiver.headers} == {"gzip"}
    assert sorted(span.name for span in receiver.spans) == ["check_tracing", "check_tracing.child"]
    assert "exporter" not in result.names


@pytest.mark.parametrize("address", ["otlp_http", "otlp_grpc", "thrift_http", "thrift_udp"])
def test_a_jaeger_that_accepts_and_shows_the_trace(any_jaeger: Jaeger, address: str) -> None:
    tracing = {"ENDPOINT": getattr(any_jaeger, address), "QUERY_URL": any_jaeger.query}
    if address == "otlp_grpc":
        tracing["EXPORTER"] = "otlp-grpc"  # the port does not imply the protocol
    result = Result(tracing, {"SERVICE_VERSION": "7"})
    assert {step.outcome for step in result.steps} <= {"ok", "skipped"}, result.text
    assert result.exit_code == 0
    assert result.diagnosis.link == f"{any_jaeger.query}/trace/{result.diagnosis.trace_id}"
    assert all(step.seconds >= 0 for step in result.steps)
    assert result.diagnosis.trace_id is not None
    trace = any_jaeger.wait_trace(result.diagnosis.trace_id, spans=2)
    assert {span["operationName"] for span in trace["spans"]} == {"check_tracing", "check_tracing.child"}
    (process,) = trace["processes"].values()
    assert process["serviceName"] == "shop"
    assert {"service.version": "7"}.items() <= {tag["key"]: tag["value"] for tag in process["tags"]}.items()


def test_udp_to_a_closed_port(any_jaeger: Jaeger) -> None:
    result = Result({"ENDPOINT": f"udp://127.0.0.1:{free_port()}", "QUERY_URL": any_jaeger.query}, timeout=1.5)
    assert "UDP" in failed(result, "read").meaning


@pytest.mark.parametrize("query", [True, False])
def test_udp_without_a_query_api(query: bool) -> None:
    endpoint = f"udp://127.0.0.1:{free_port()}"
    result = Result({"ENDPOINT": endpoint, "QUERY_URL": f"http://127.0.0.1:{free_port()}"}, timeout=2, query=query)
    assert result.exit_code == 1
    assert result.last.outcome == "warning"
    assert "unknown whether the trace arrived" in result.last.meaning


def test_accepted_and_not_read_back(receiver: OTLPReceiver) -> None:
    result = Result({"ENDPOINT": receiver.endpoint}, query=False)
    assert result.exit_code == 0
    assert result.last.outcome == "skipped"
    root, child = sorted(receiver.spans, key=lambda span: span.parent_id)
    assert (root.name, root.parent_id, root.service) == ("check_tracing", "", "shop")
    assert (child.name, child.parent_id) == ("check_tracing.child", root.span_id)
    assert root.trace_id == result.diagnosis.trace_id


def test_the_configured_exporter_sends_it(receiver: OTLPReceiver) -> None:
    endpoint = f"http://us%40er:pass-word-1@127.0.0.1:{receiver.port}/in?key=query-secret"
    result = Result({"ENDPOINT": endpoint, "HEADERS": {"x-api-key": "header-secret"}}, query=False)
    assert result.exit_code == 0, result.text
    assert receiver.headers[-1]["x-api-key"] == "header-secret"
    assert receiver.headers[-1]["authorization"].startswith("Basic ")
    for secret in ("pass-word-1", "header-secret", "query-secret", "us%40er"):
        assert secret not in result.text


def test_accepted_and_never_shown(receiver: OTLPReceiver) -> None:
    with Web(empty_jaeger) as web:
        result = Result({"ENDPOINT": receiver.endpoint, "QUERY_URL": web.url}, timeout=1.0)
    step = failed(result, "read")
    assert web.url in step.detail
    assert "QUERY_URL" in step.remedy
    assert "--timeout" in step.remedy


def test_a_missing_query_api_is_a_warning(receiver: OTLPReceiver) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = Result({"ENDPOINT": receiver.endpoint, "QUERY_URL": url})
    assert result.exit_code == 0
    assert (result.last.name, result.last.outcome) == ("read", "warning")
    assert urlsplit(url).netloc in result.last.detail
    assert "QUERY_URL" in result.last.remedy


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_query_api_that_rejects_requests_is_a_warning(receiver: OTLPReceiver, status: int) -> None:
    with Web(always(status)) as web:
        result = Result(
            {"ENDPOINT": receiver.endpoint, "QUERY_URL": web.url.replace("//", "//user:query-pass@")}, timeout=2
        )
    assert (result.exit_code, result.last.outcome) == (0, "warning")
    assert str(status) in result.last.detail
    assert "query-pass" not in result.text


def test_a_query_api_that_fails_once_is_requested_again(receiver: OTLPReceiver) -> None:
    asked: list[str] = []

    def stumbling(method: str, path: str) -> tuple[int, str, bytes]:
        if path.startswith("/api/v3/traces/"):
            asked.append(path)
            if len(asked) == 1:
                return 503, "text/plain", b"warming up"
            spans = [{"traceId": span.trace_id, "spanId": span.span_id, "name": span.name} for span in receiver.spans]
            answer = {"result": {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}}
            return 200, "application/json", json.dumps(answer).encode()
        return empty_jaeger(method, path)

    with Web(stumbling) as web:
        result = Result({"ENDPOINT": receiver.endpoint, "QUERY_URL": web.url})
    assert (result.exit_code, result.last.outcome) == (0, "ok"), result.text
    assert len(asked) == 2


def test_a_query_api_that_never_answers_times_out(receiver: OTLPReceiver) -> None:
    with deaf() as port:
        result = Result({"ENDPOINT": receiver.endpoint, "QUERY_URL": f"http://127.0.0.1:{port}"}, timeout=1.0)
    assert (result.exit_code, result.last.outcome) == (0, "warning")


def test_the_local_store(tmp_path: Path) -> None:
    path = tmp_path / "new" / "traces.sqlite3"
    result = Result({"LOCAL_STORE": path})
    assert {step.outcome for step in result.steps} == {"ok"}, result.text
    assert result.names == ["settings", "traced", "send", "read"]
    assert str(path) in result.step("settings").detail
    assert result.diagnosis.link == f"python manage.py traces {result.diagnosis.trace_id}"
    trace = LocalStore(path).trace(str(result.diagnosis.trace_id))
    assert trace is not None
    assert {span.name for span in trace.spans} == {"check_tracing", "check_tracing.child"}


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    step = failed(Result({"LOCAL_STORE": tmp_path / "file" / "traces.sqlite3"}), "send")
    assert str(tmp_path / "file") in step.detail
    assert "LOCAL_STORE" in step.remedy
    assert "documentation" not in step.remedy


def test_another_program_s_database(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "db.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE shop (id)")
    connection.commit()
    connection.close()
    step = failed(Result({"LOCAL_STORE": path}), "send")
    assert "another program's database" in step.detail
    assert "LOCAL_STORE" in step.remedy


class Exporter(SpanExporter):
    """An exporter that returns, raises or waits for ``mode``."""

    mode: Any = SpanExportResult.SUCCESS
    spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if isinstance(self.mode, BaseException):
            raise self.mode
        if isinstance(self.mode, threading.Event):
            self.mode.wait(30)
            return SpanExportResult.FAILURE
        type(self).spans = list(spans)
        result: SpanExportResult = self.mode
        return result


def NoExporter() -> None:
    return None


@pytest.fixture
def custom(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(Exporter, "mode", SpanExportResult.SUCCESS)
    return {"EXPORTER": "tests.diagnosis.test_arrival.Exporter"}


def test_a_custom_exporter(custom: dict[str, Any]) -> None:
    result = Result(custom)
    assert result.exit_code == 0
    assert [span.name for span in Exporter.spans] == ["check_tracing.child", "check_tracing"]
    assert result.last.outcome == "skipped"
    assert "name" not in result.names


def test_a_custom_exporter_that_fails(custom: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exporter, "mode", SpanExportResult.FAILURE)
    failed(Result(custom), "send")


def test_a_custom_exporter_that_raises(custom: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exporter, "mode", RuntimeError("no route for header-secret-1"))
    result = Result({**custom, "HEADERS": {"authorization": "Bearer header-secret-1"}})
    assert "RuntimeError: no route" in failed(result, "send").detail
    assert "header-secret-1" not in result.text


def test_a_custom_exporter_that_hangs(custom: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ends = threading.Event()
    monkeypatch.setattr(Exporter, "mode", ends)
    try:
        step = failed(Result(custom, timeout=0.3), "send")
    finally:
        ends.set()
    assert "0.3 s" in step.detail


def test_a_console_is_not_read_back(capfd: pytest.CaptureFixture[str]) -> None:
    result = Result({"EXPORTER": "console"})
    assert result.exit_code == 0
    assert result.last.outcome == "skipped"
    out, err = capfd.readouterr()
    # Programs read the standard output of the command, so the exporter must not print there.
    assert '"name": "check_tracing"' in err
    assert out == ""
