"""Test that every worker of gunicorn, uvicorn and runserver exports its spans."""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.processes import Process
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver, ReceivedSpan

GUNICORN = ["gunicorn", "tests.e2e.wsgi", "--bind", "127.0.0.1:{port}", "--log-level", "warning"]
UVICORN = ["uvicorn", "tests.e2e.asgi:application", "--port", "{port}", "--log-level", "warning", "--lifespan", "off"]


def requests_of(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
    return [span for span in spans if span.kind == "server"]


def test_gunicorn_and_uvicorn_workers_export(subtests_servers: tuple[list[str], int]) -> None:
    arguments, workers = subtests_servers
    with (
        OTLPReceiver() as receiver,
        Process(
            arguments,
            JAEGER_ENDPOINT=receiver.endpoint,
            SERVICE_NAME="served",
            TRACING_SETTINGS='{"EXPORT_INTERVAL": 0.1}',
        ) as server,
    ):

        def send(number: int) -> str:
            return server.get(f"/query/?n={number}")[2]["x-correlation-id"]

        sent: set[str] = set()

        def enough(spans: list[ReceivedSpan]) -> bool:
            pids = {span.resource["process.pid"] for span in requests_of(spans)}
            return len(requests_of(spans)) >= len(sent) and len(pids) >= workers

        def sent_enough() -> bool:
            with ThreadPoolExecutor(8) as pool:
                sent.update(pool.map(send, range(16)))
            receiver.wait_for(lambda spans: len(requests_of(spans)) >= len(sent))
            return enough(receiver.spans)

        # The kernel chooses the worker for a request, and one may start long after the other.
        wait_until(sent_enough, "each worker to receive a request", 60)
        spans = receiver.wait_for(enough)
        assert {span.attributes["correlation.id"] for span in requests_of(spans)} == sent
        assert len(requests_of(spans)) == len(sent), "each request is one span, and arrives once"
        assert server.process.pid not in {span.resource["process.pid"] for span in spans} or workers == 1
        assert {span.service for span in spans} == {"served"}
        by_id = {span.span_id: span for span in spans}
        statements = [span for span in spans if span.name == "db.select"]
        assert len(statements) == len(sent)
        assert all(by_id[span.parent_id].name == "GET /query/" for span in statements)


@pytest.fixture(
    params=[
        pytest.param(([*GUNICORN, "--workers", "2"], 2), id="gunicorn-sync"),
        pytest.param(([*GUNICORN, "--workers", "2", "--preload"], 2), id="gunicorn-sync-preload"),
        pytest.param(
            ([*GUNICORN, "--workers", "2", "--worker-class", "gthread", "--threads", "4"], 2), id="gunicorn-gthread"
        ),
        pytest.param(
            ([*GUNICORN, "--workers", "2", "--worker-class", "gthread", "--threads", "4", "--preload"], 2),
            id="gunicorn-gthread-preload",
        ),
        pytest.param((UVICORN, 1), id="uvicorn"),
        pytest.param(([*UVICORN, "--workers", "2"], 2), id="uvicorn-workers"),
    ]
)
def subtests_servers(request: pytest.FixtureRequest) -> tuple[list[str], int]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("arguments", [GUNICORN, UVICORN], ids=["gunicorn", "uvicorn"])
def test_waiting_spans_are_sent_when_the_server_ends(arguments: list[str]) -> None:
    with OTLPReceiver() as receiver:
        with Process(
            arguments, JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS='{"EXPORT_INTERVAL": 3600}'
        ) as server:
            server.get("/empty/")
            assert receiver.spans == []
            server.stop()
        receiver.wait_for(lambda spans: requests_of(spans))


@pytest.mark.parametrize("arguments", [GUNICORN, UVICORN], ids=["gunicorn", "uvicorn"])
def test_a_backend_that_is_down_loses_no_response_and_logs_one_line(arguments: list[str]) -> None:
    with Process(
        arguments,
        JAEGER_ENDPOINT="http://127.0.0.1:9",
        TRACING_SETTINGS='{"EXPORT_INTERVAL": 0.05, "SHUTDOWN_TIMEOUT": 0.5}',
    ) as server:
        for _ in range(30):
            assert server.get("/empty/")[0] == 200
        server.stop()
        log = server.log()
    assert log.count("Spans can't be sent") == 1, log
    assert "Traceback" not in log


def test_a_hanging_backend_does_not_delay_the_end() -> None:
    with OTLPReceiver() as receiver:
        receiver.mode = "hang"
        with Process(
            GUNICORN,
            JAEGER_ENDPOINT=receiver.endpoint,
            TRACING_SETTINGS='{"EXPORT_INTERVAL": 0.05, "SHUTDOWN_TIMEOUT": 0.5, "EXPORT_TIMEOUT": 600}',
        ) as server:
            server.get("/empty/")
            receiver.wait_for_requests(1)
            # Process.stop fails if it takes more than 20 s; the exporter would wait for 600 s.
            assert server.stop() == 0


def test_runserver_exports_once_from_the_process_that_serves() -> None:
    with (
        OTLPReceiver() as receiver,
        Process(
            [sys.executable, "-m", "django", "runserver", "127.0.0.1:{port}", "--skip-checks"],
            JAEGER_ENDPOINT=receiver.endpoint,
            DEBUG="1",
            TRACING_SETTINGS='{"EXPORT_INTERVAL": 0.1}',
        ) as server,
    ):
        server.get("/empty/?only=this")
        spans = receiver.wait_for(lambda spans: requests_of(spans))
        assert [span.name for span in requests_of(spans)] == ["GET /empty/"]
        assert requests_of(spans)[0].resource["process.pid"] != server.process.pid, (
            "the reloader doesn't handle requests"
        )


def test_with_wrong_settings_the_application_runs_and_logs_the_reason_once() -> None:
    with Process(GUNICORN, TRACING_SETTINGS=json.dumps({"SAMPLING_RATE": 1})) as server:
        assert server.get("/empty/")[0] == 200
        log = server.log()
    assert log.count("Tracing is off") == 1
    assert 'TRACING["SAMPLING_RATE"]' in log
    assert 'Did you mean "SAMPLE_RATE"?' in log


def test_a_disabled_sdk_does_nothing() -> None:
    with (
        OTLPReceiver() as receiver,
        Process(
            GUNICORN,
            JAEGER_ENDPOINT=receiver.endpoint,
            OTEL_SDK_DISABLED="true",
            TRACING_SETTINGS='{"EXPORT_INTERVAL": 0.05}',
        ) as server,
    ):
        assert "x-correlation-id" not in server.get("/empty/")[2]
        server.stop()
        assert receiver.spans == []


def test_without_settings_traces_are_written_to_the_local_store(tmp_path: Path) -> None:
    from django_tracing.traces.readers.sqlite.store import LocalStore

    path = tmp_path / "traces.sqlite3"
    with Process([*GUNICORN, "--workers", "2"], TRACING_SETTINGS=json.dumps({"LOCAL_STORE": str(path)})) as server:
        for _ in range(10):
            server.get("/empty/")
        server.stop()
    assert len(LocalStore(path).search(operation="GET /empty/", limit=50)) == 10


@pytest.mark.parametrize(
    ("arguments", "path"), [(GUNICORN, "/endless/"), (UVICORN, "/endless-async/")], ids=["gunicorn", "uvicorn"]
)
def test_a_client_that_disconnects_ends_the_span_of_a_stream(arguments: list[str], path: str) -> None:
    with (
        OTLPReceiver() as receiver,
        Process(
            arguments,
            JAEGER_ENDPOINT=receiver.endpoint,
            TRACING_SETTINGS='{"EXPORT_INTERVAL": 0.05, "QUEUE_BYTES": 1000000}',
        ) as server,
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert client.recv(100_000)
            assert client.recv(100_000)
            assert requests_of(receiver.spans) == [], "the span must not end before the body"
        (span,) = requests_of(receiver.wait_for(lambda spans: requests_of(spans)))
        assert span.name == f"GET {path}"
        assert span.attributes["http.client_disconnected"] is True
        assert span.status == "unset"
        assert server.get("/empty/")[0] == 200
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("arguments", [GUNICORN, UVICORN], ids=["gunicorn", "uvicorn"])
def test_a_stream_that_is_read_completely(arguments: list[str]) -> None:
    with (
        OTLPReceiver() as receiver,
        Process(arguments, JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS='{"EXPORT_INTERVAL": 0.05}') as server,
    ):
        path = "/stream/" if arguments is GUNICORN else "/stream-async/"
        body = server.get(path)[1].decode()
        (span,) = requests_of(receiver.wait_for(lambda spans: requests_of(spans)))
        assert body == span.span_id * 3, "the span is current while each chunk is made"
        assert "http.client_disconnected" not in span.attributes
        below = receiver.wait_for(lambda spans: [span for span in spans if span.name == "cache.get.chunk:*"])
        assert {child.parent_id for child in below if child.name == "cache.get.chunk:*"} == {span.span_id}
