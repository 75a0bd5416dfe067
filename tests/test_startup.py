"""Test which modules a process imports because of this app, and that later imports are traced."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ROOT, environment

pytestmark = pytest.mark.usefixtures("without_coverage")

#: A project without a database, so that only code that needs SQLite imports it.
PROJECT = """
import json, sys
import opentelemetry.sdk.trace
from django.conf import settings
from django_tracing.spans import runtime
from django_tracing.apps import DjangoTracingConfig

asked = json.loads(sys.argv[1])
for name in asked["imports"]:
    __import__(name)
settings.configure(
    SECRET_KEY="tests-only",
    INSTALLED_APPS=[
        *("django.contrib." + name for name in ("admin", "auth", "contenttypes", "sessions", "messages")),
        "django_tracing",
    ],
    ROOT_URLCONF="tests.urls",
    ALLOWED_HOSTS=["testserver"],
    TRACING=asked["tracing"],
    USE_TZ=True,
)
imported = []
ready = DjangoTracingConfig.ready

def watched(self):
    before = set(sys.modules)
    ready(self)
    imported.extend(sorted(set(sys.modules) - before))

DjangoTracingConfig.ready = watched
import django
django.setup()

def kept():
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter = InMemorySpanExporter()
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    return lambda: [span.name for span in exporter.get_finished_spans()]
"""

TRACING: dict[str, dict[str, Any]] = {
    "otlp": {"EXPORTER": "otlp", "ENDPOINT": "http://127.0.0.1:9"},
    "local": {"EXPORTER": "local"},
    "none": {"EXPORTER": "none"},
}


def start(code: str, exporter: str = "none", imports: tuple[str, ...] = (), **tracing: Any) -> Any:
    """Return the JSON that ``code`` prints in a new process with this app, after importing ``imports``."""
    asked = {"imports": imports, "tracing": {**TRACING[exporter], **tracing}}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROJECT + textwrap.dedent(code), json.dumps(asked)],
        env={**environment(), "DJANGO_SETTINGS_MODULE": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


#: The modules of export/ that only some settings need.
EXPORTERS = ("custom", "failover", "grpc", "jaeger", "local", "otlp", "spool", "spool_start", "spooling")


@pytest.mark.parametrize("exporter", TRACING)
def test_nothing_is_imported_that_is_not_used(exporter: str, tmp_path: Path) -> None:
    tracing = {"LOCAL_STORE": str(tmp_path / "traces.sqlite3")} if exporter == "local" else {}
    imported = start("print(json.dumps(imported))", exporter, **tracing)
    foreign = [
        name for name in imported if name.partition(".")[0] not in ("django", "django_tracing", "opentelemetry")
    ]
    assert foreign == [], "no library, and only modules of Python that Django imports itself"
    upstream = ("opentelemetry.instrumentation.", "opentelemetry.exporter.", "opentelemetry.proto.")
    assert [name for name in imported if name.startswith(upstream)] == []
    exporters = {f"django_tracing.export.{name}" for name in EXPORTERS}.intersection(imported)
    assert exporters == ({f"django_tracing.export.{exporter}"} if exporter != "none" else set())
    reading = (
        "django_tracing.traces",
        "django_tracing.diagnosis.steps",
        "django_tracing.traces.readers.choosing",
        "django_tracing.diagnosis.probes",
    )
    assert [name for name in imported if name.startswith(reading)] == []


def test_sqlite_is_imported_with_the_first_trace_that_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "traces.sqlite3"
    before, after = start(
        """
        before = "sqlite3" in sys.modules
        from django.test import Client
        from django_tracing.spans import runtime
        assert Client().get("/empty/").status_code == 200
        assert runtime.current.queue.force_flush()
        print(json.dumps([before, "sqlite3" in sys.modules]))
        """,
        "local",
        LOCAL_STORE=str(path),
        INSTRUMENTATIONS=["request"],
    )
    assert (before, after) == (False, True)
    assert path.exists()


BREAKER = """
import pybreaker
from opentelemetry import trace
names = kept()
with trace.get_tracer("tests").start_as_current_span("request"):
    assert pybreaker.CircuitBreaker(name="payment-service").call(lambda: 7) == 7
print(json.dumps(["pybreaker" in imported, names()]))
"""


def test_a_breaker_imported_after_the_start_is_traced_and_not_imported_for_it() -> None:
    assert start('assert "pybreaker" not in sys.modules\n' + BREAKER) == [
        False,
        ["circuit_breaker.payment-service", "request"],
    ]


def test_a_breaker_imported_before_the_start_is_traced() -> None:
    assert start(BREAKER, imports=("pybreaker",)) == [False, ["circuit_breaker.payment-service", "request"]]


def test_a_breaker_imported_after_tracing_was_disabled_is_not_traced() -> None:
    off = "from django_tracing import instrumentation\ninstrumentation.uninstall()\n"
    assert start(off + BREAKER) == [False, ["request"]]


CALL = """
from opentelemetry import trace
names = kept()
import requests
with trace.get_tracer("tests").start_as_current_span("request"):
    try:
        requests.get("http://localhost:9/", timeout=5)
    except requests.ConnectionError:
        pass
print(json.dumps(names()))
"""


@pytest.mark.parametrize("imports", [(), ("requests",)], ids=["after", "before"])
def test_a_library_is_traced_whether_it_is_imported_after_the_start_or_before(imports: tuple[str, ...]) -> None:
    assert start(CALL, imports=imports) == ["http.get.localhost", "request"]
