"""Test OpenTelemetry's instrumentations in place of this app's, and opentelemetry-instrument: the receiver gets the
same flow, with each operation once."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.callees import Callee
from tests.e2e.processes import ROOT, Process
from tests.receivers import OTLPReceiver, ReceivedSpan

RUNSERVER = [sys.executable, "-m", "django", "runserver", "127.0.0.1:{port}", "--skip-checks"]
GUNICORN = ["gunicorn", "tests.e2e.wsgi", "--bind", "127.0.0.1:{port}", "--log-level", "warning"]
UVICORN = ["uvicorn", "tests.e2e.asgi:application", "--port", "{port}", "--log-level", "warning", "--lifespan", "off"]
SERVERS = {"runserver": [*RUNSERVER, "--noreload"], "gunicorn": GUNICORN, "uvicorn": UVICORN}

CLIENTS = ["redis", "requests", "httpx", "urllib3", "urllib"]
OURS = ["request", "layers", "database", "cache", "circuit_breaker", "psycopg", *CLIENTS]
THEIRS = ["django", "layers", "psycopg", "cache", "circuit_breaker", *CLIENTS]


@pytest.fixture(scope="module")
def callee() -> Iterator[Callee]:
    with Callee() as callee:
        yield callee


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as receiver:
        yield receiver


def tracing(callee: Callee, **more: object) -> str:
    return json.dumps({"EXPORT_INTERVAL": 0.1, "LAYERS": "off", "PEER_SERVICES": {callee.host: "users"}, **more})


def drive(server: Process, receiver: OTLPReceiver, callee: Callee, path: str = "/flow/7/") -> list[ReceivedSpan]:
    """Return the spans of one flow after the process has ended and sent everything; fail on other spans."""
    receiver.clear()
    status, body, headers = server.get(
        path, **{"X-User": "ada", "X-Callee": callee.url, "X-Correlation-ID": "flow-1"}
    )
    assert (status, body) == (200, b"200"), server.log()
    assert headers["x-correlation-id"] == "flow-1"
    # It ends last and is sent last; unwanted spans may follow until the process ends.
    receiver.wait_for(lambda spans: [span for span in spans if span.kind == "server" and "flow" in span.name])
    server.stop()
    return list(receiver.spans)


def below(spans: list[ReceivedSpan], parent: ReceivedSpan) -> list[str]:
    return sorted(span.name for span in spans if span.parent_id == parent.span_id)


def check_flow(spans: list[ReceivedSpan], server_name: str, callee: Callee, *, database: bool = True) -> None:
    """Check what must be true for each instrumentation. Only our ``database`` traces connecting."""
    doubled = {span: count for span, count in Counter(span.span_id for span in spans).items() if count > 1}
    assert not doubled, "each span arrives once"
    assert len({span.trace_id for span in spans}) == 1, sorted(span.name for span in spans)
    [server] = [span for span in spans if span.kind == "server"]
    assert server.name == server_name
    assert server.parent_id == ""
    assert {
        "operation.type": "http",
        "http.method": "GET",
        "http.status_code": 200,
        "correlation.id": "flow-1",
        "user.id": "7",
        "user.email": "a***@example.com",
    }.items() <= server.attributes.items()
    expected = [
        "cache.set.blueprint:*",
        *(["db.connect"] if database else []),
        "db.select.pg_attribute",
        "db.select.pg_class",
        "http.get.users",
        "redis.get",
    ]
    assert below(spans, server) == expected, sorted(span.name for span in spans)
    assert sorted(span.name for span in spans) == sorted([server_name, *expected]), "and nothing else"
    for span in spans:
        assert span.attributes["correlation.id"] == "flow-1", span.name
        assert "operation.type" in span.attributes, span.name
    [outgoing] = [span for span in spans if span.name == "http.get.users"]
    assert callee.received[-1]["traceparent"].split("-")[1:3] == [outgoing.trace_id, outgoing.span_id]
    assert callee.received[-1]["x-correlation-id"] == "flow-1"
    assert "hunter2" not in repr(spans)
    assert "ada@" not in repr(spans)


@pytest.mark.parametrize("name", SERVERS)
def test_this_apps_instrumentations(name: str, receiver: OTLPReceiver, callee: Callee) -> None:
    with Process(
        SERVERS[name],
        DJANGO_SETTINGS_MODULE="tests.e2e.upstream_settings",
        JAEGER_ENDPOINT=receiver.endpoint,
        TRACING_SETTINGS=tracing(callee, INSTRUMENTATIONS=OURS),
    ) as server:
        spans = drive(server, receiver, callee)
    check_flow(spans, "GET /flow/<int:number>/", callee)


@pytest.mark.parametrize("name", SERVERS)
def test_opentelemetrys_django_and_psycopg(name: str, receiver: OTLPReceiver, callee: Callee) -> None:
    with Process(
        SERVERS[name],
        DJANGO_SETTINGS_MODULE="tests.e2e.upstream_settings",
        JAEGER_ENDPOINT=receiver.endpoint,
        TRACING_SETTINGS=tracing(callee, INSTRUMENTATIONS=THEIRS),
    ) as server:
        spans = drive(server, receiver, callee)
    # Django sends a statement for each new connection, which only OpenTelemetry's psycopg instrumentation shows.
    spans = [span for span in spans if "set_config" not in span.attributes.get("db.statement", "")]
    check_flow(spans, "GET flow/<int:number>/", callee, database=False)
    scopes = {span.name: span.scope for span in spans}
    assert scopes["GET flow/<int:number>/"] == "opentelemetry.instrumentation.django"
    assert scopes["db.select.pg_class"] == "opentelemetry.instrumentation.psycopg"
    assert scopes["cache.set.blueprint:*"] == "django_tracing"


@pytest.mark.parametrize("instrumentations", [OURS, THEIRS], ids=["ours", "theirs"])
def test_an_async_view(instrumentations: list[str], receiver: OTLPReceiver, callee: Callee) -> None:
    with Process(
        UVICORN,
        DJANGO_SETTINGS_MODULE="tests.e2e.upstream_settings",
        JAEGER_ENDPOINT=receiver.endpoint,
        TRACING_SETTINGS=tracing(callee, INSTRUMENTATIONS=instrumentations),
    ) as server:
        spans = drive(server, receiver, callee, "/flow-async/7/")
    [request] = [span for span in spans if span.kind == "server"]
    assert below(spans, request) == ["cache.set.blueprint:*", "http.get.users"]
    assert len(spans) == 3
    assert {span.attributes["correlation.id"] for span in spans} == {"flow-1"}


@pytest.mark.parametrize("name", SERVERS)
def test_errors_streams_and_ignored_paths_with_opentelemetrys_django(
    name: str, receiver: OTLPReceiver, callee: Callee
) -> None:
    with Process(
        SERVERS[name],
        DJANGO_SETTINGS_MODULE="tests.e2e.upstream_settings",
        JAEGER_ENDPOINT=receiver.endpoint,
        TRACING_SETTINGS=tracing(callee, INSTRUMENTATIONS=THEIRS),
    ) as server:
        assert server.get("/boom/?password=hunter2")[0] == 500
        assert server.get("/stream/")[:2] == (200, b"chunk" * 3)
        assert server.get("/health/")[0] == 200
        receiver.wait_for(lambda spans: len([span for span in spans if span.kind == "server"]) == 2)
        server.stop()
        spans = list(receiver.spans)
    assert sorted(span.name for span in spans if span.kind == "server") == ["GET boom/", "GET stream/"]
    assert [span.name for span in spans if not span.parent_id and span.kind != "server"] == [], "no roots"
    [boom] = receiver.named("GET boom/")
    assert boom.status == "error"
    assert boom.attributes["http.status_code"] == 500
    assert {event for event, _ in boom.events} == {"exception"}
    assert "hunter2" not in repr(spans)


# ----- opentelemetry-instrument


def under_instrument(arguments: list[str]) -> list[str]:
    program, *rest = arguments
    return ["opentelemetry-instrument", str(Path(sys.executable).parent / program), *rest]


def instrumented(receiver: OTLPReceiver, **more: str) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "tests.e2e.upstream_settings",
        "OTEL_SERVICE_NAME": "instrumented",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **more,
    }


@pytest.mark.parametrize("instrumentations", [OURS, THEIRS], ids=["ours", "theirs"])
@pytest.mark.parametrize("name", SERVERS)
def test_opentelemetry_instrument(
    name: str, instrumentations: list[str], receiver: OTLPReceiver, callee: Callee
) -> None:
    with Process(
        under_instrument(SERVERS[name]),
        **instrumented(receiver, TRACING_SETTINGS=tracing(callee, INSTRUMENTATIONS=instrumentations)),
    ) as server:
        # Spans from before the server was ready, and of the test's requests that wait for it.
        spans = drive(server, receiver, callee)
        log = server.log()
    [request] = [span for span in spans if span.name == "GET flow/<int:number>/"]
    spans = [span for span in spans if span.trace_id == request.trace_id]
    spans = [span for span in spans if "set_config" not in span.attributes.get("db.statement", "")]
    check_flow(spans, "GET flow/<int:number>/", callee, database="database" in instrumentations)
    assert {span.service for span in spans} == {"instrumented"}
    scopes = {span.name: span.scope for span in spans}
    assert scopes["GET flow/<int:number>/"] == "opentelemetry.instrumentation.django"
    ours = "database" in instrumentations
    assert scopes["db.select.pg_class"] == ("django_tracing" if ours else "opentelemetry.instrumentation.psycopg")
    assert "Traceback" not in log


def test_opentelemetry_instrument_with_autoreload(receiver: OTLPReceiver, callee: Callee) -> None:
    with Process(
        under_instrument(RUNSERVER),
        **instrumented(receiver, DEBUG="1", TRACING_SETTINGS=tracing(callee, INSTRUMENTATIONS=OURS)),
    ) as server:
        receiver.clear()
        server.get("/flow/7/", **{"X-User": "ada", "X-Callee": callee.url, "X-Correlation-ID": "flow-1"})
        receiver.wait_for(lambda spans: any("flow" in span.name for span in spans))
        spans = list(receiver.spans)
        log = server.log()
    [request] = [span for span in spans if span.kind == "server" and "flow" in span.name]
    spans = [span for span in spans if span.trace_id == request.trace_id]
    check_flow(spans, request.name, callee)
    assert "Traceback" not in log


MANAGE = """
import os
import sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.upstream_settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def manage(tmp_path: Path) -> Path:
    """Create a manage.py, and the metadata of this checkout as pip would install it."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    metadata = tmp_path / "django_tracing_otel-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: django-tracing-otel\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "".join(f"[{group}]{points}\n" for group, points in setup["options.entry_points"].items())
    )
    (tmp_path / "manage.py").write_text(MANAGE)
    return tmp_path / "manage.py"


@pytest.mark.parametrize("reload", [[], ["--noreload"]], ids=["autoreload", "noreload"])
@pytest.mark.parametrize("instrumentations", [OURS, THEIRS], ids=["ours", "theirs"])
def test_opentelemetry_instrument_before_a_manage_py_that_names_the_settings(
    instrumentations: list[str], reload: list[str], manage: Path, receiver: OTLPReceiver, callee: Callee
) -> None:
    runserver = [sys.executable, str(manage), "runserver", "127.0.0.1:{port}", "--skip-checks", *reload]
    with Process(
        ["opentelemetry-instrument", "env", "-u", "DJANGO_SETTINGS_MODULE", *runserver],
        **instrumented(
            receiver,
            DEBUG="1",
            PYTHONPATH=os.pathsep.join([str(manage.parent), str(ROOT)]),
            TRACING_SETTINGS=tracing(callee, INSTRUMENTATIONS=instrumentations),
        ),
    ) as server:
        receiver.clear()
        server.get("/flow/7/", **{"X-User": "ada", "X-Callee": callee.url, "X-Correlation-ID": "flow-1"})
        receiver.wait_for(lambda spans: any(span.kind == "server" and "flow" in span.name for span in spans))
        spans = list(receiver.spans)
    [request] = [span for span in spans if span.kind == "server" and "flow" in span.name]
    spans = [span for span in spans if span.trace_id == request.trace_id]
    spans = [span for span in spans if "set_config" not in span.attributes.get("db.statement", "")]
    check_flow(spans, request.name, callee, database="database" in instrumentations)
    theirs = "django" in instrumentations
    assert request.scope == ("opentelemetry.instrumentation.django" if theirs else "django_tracing")


def test_spans_are_also_sent_to_this_apps_endpoint(receiver: OTLPReceiver, callee: Callee) -> None:
    with (
        OTLPReceiver() as second,
        Process(
            under_instrument(GUNICORN),
            **instrumented(
                receiver,
                JAEGER_ENDPOINT=second.endpoint,
                # Takes precedence over JAEGER_ENDPOINT if this app has its own provider, but not here.
                TRACING_SETTINGS=tracing(callee, INSTRUMENTATIONS=OURS, ENDPOINT=second.endpoint),
            ),
        ) as server,
    ):
        spans = drive(server, second, callee)
        request = next(span for span in spans if "flow" in span.name)
        for received in (receiver, second):
            ids = [span.span_id for span in received.spans if span.trace_id == request.trace_id]
            assert len(ids) == len(set(ids)) == 7, received.spans
