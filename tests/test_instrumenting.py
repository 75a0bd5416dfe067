"""Test an instrumentation of another package, as described in docs/instrumentations/your_library.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import INVALID_SPAN, SpanKind

from django_tracing import create_span, instrumenting
from django_tracing.instrumenting import child_span, recording
from tests.conftest import Spans

ROOT = Path(__file__).parent.parent
EXAMPLE = Path(__file__).parent / "example_instrumentation"
PAGE = ROOT / "docs" / "instrumentations" / "your_library.md"

#: A site in a process of its own: prints the instrumentations that are on, and the spans of a call.
SITE = """
import sys
import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django_tracing"],
    SECRET_KEY="x",
    TRACING={"EXPORTER": "none", "ENABLED_IN_TESTS": True, **TRACING},
)
before = set(sys.modules)
django.setup()
assert "acme" not in sys.modules, "the library is not imported for tracing it"

from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from django_tracing import create_span, instrumentation

exporter = InMemorySpanExporter()
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))

import acme

with create_span("work"):
    assert acme.Client().send("orders", "hello") == 5
print([name for name in instrumentation.installed() if name in NAMES])
print([(span.name, {k: v for k, v in span.attributes.items() if k.startswith("acme")}) for span in exporter.get_finished_spans()])
instrumentation.uninstall()
exporter.clear()
with create_span("work"):
    assert acme.Client().send("orders", "hello") == 5
print([span.name for span in exporter.get_finished_spans()])
from django.core.management import call_command
call_command("check", fail_level="WARNING")
"""


def run(
    *folders: Path, names: tuple[str, ...] = ("acme", "broken"), **tracing: Any
) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "DJANGO_"))},
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, EXAMPLE, *folders))),
    }
    code = f"TRACING = {tracing!r}\nNAMES = {names!r}\n{SITE}"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, cwd=EXAMPLE
    )


SENT = "[('acme.send', {'acme.queue': 'orders', 'acme.length': 5}), ('work', {})]"
UNTRACED = "[('work', {})]"


def package(folder: Path, name: str, code: str) -> Path:
    """Create another package with an instrumentation, as installed."""
    (folder / f"{name}_tracing.py").write_text(code)
    metadata = folder / f"{name}_tracing-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-tracing\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[django_tracing_instrumentation]\n{name} = {name}_tracing\n")
    return folder


def test_it_is_enabled_if_installed_and_can_be_disabled() -> None:
    ended = run()
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[:3] == ["['acme']", SENT, "['work']"]


def test_a_list_in_the_settings_is_complete() -> None:
    ended = run(INSTRUMENTATIONS=["request", "database"])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[:2] == ["[]", UNTRACED]


def test_it_is_enabled_by_its_name_and_a_check_accepts_it() -> None:
    ended = run(INSTRUMENTATIONS=["request", "acme"])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[:2] == ["['acme']", SENT]


@pytest.mark.parametrize(
    "code",
    [
        "raise RuntimeError('while it is imported')",
        "import no_such_library",
        "x = 1",
        "def is_available():\n    raise RuntimeError('asked')",
        "def is_available():\n    return True\ndef install():\n    raise RuntimeError('switched on')",
    ],
)
def test_an_error_in_one_affects_only_this_one(code: str, tmp_path: Path) -> None:
    ended = run(package(tmp_path, "broken", code))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[:3] == ["['acme']", SENT, "['work']"]
    assert 'The instrumentation "broken" could not be switched on; it is left out.' in ended.stderr


def test_an_instrumentation_of_a_missing_library_is_skipped_without_a_log_line(tmp_path: Path) -> None:
    ended = run(package(tmp_path, "broken", "def is_available():\n    return False"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "['acme']"
    assert "broken" not in ended.stderr


def test_an_instrumentation_of_this_app_is_not_replaced(tmp_path: Path) -> None:
    taken = package(tmp_path, "database", "raise RuntimeError('not imported')")
    ended = run(taken, names=("acme", "database"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "['database', 'acme']"
    assert "RuntimeError" not in ended.stderr


def test_a_class_is_instantiated(tmp_path: Path) -> None:
    code = """
class Instrumentation:
    def is_available(self):
        return True

    def install(self):
        print("installed")

    def uninstall(self):
        print("uninstalled")
"""
    folder = package(tmp_path, "broken", code)
    (folder / "broken_tracing-1.0.dist-info" / "entry_points.txt").write_text(
        "[django_tracing_instrumentation]\nbroken = broken_tracing:Instrumentation\n"
    )
    ended = run(folder)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "installed"
    assert "uninstalled" in lines


def test_the_page_shows_the_example_that_is_tested() -> None:
    [shown] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert shown == (EXAMPLE / "acme_tracing.py").read_text()


def test_the_page_has_all_public_names() -> None:
    page = PAGE.read_text()
    headings = {name for line in re.findall(r"^### (.*)$", page, re.MULTILINE) for name in line.split(", ")}
    assert headings == set(instrumenting.__all__)


# ----- child_span


@pytest.fixture
def traced() -> Iterator[None]:
    with create_span("work"):
        yield


def test_a_span_below_the_current_one(spans: Spans, traced: None) -> None:
    assert recording()
    with child_span("acme.send", {"acme.queue": "orders"}) as span:
        span.set_attribute("acme.length", 5)
    sent = spans.one("acme.send")
    assert sent.kind is SpanKind.CLIENT
    assert sent.attributes is not None
    assert sent.attributes["acme.queue"] == "orders"
    assert sent.attributes["acme.length"] == 5


def test_outside_a_trace_it_does_nothing(spans: Spans) -> None:
    assert not recording()
    with child_span("acme.send") as span:
        assert span is INVALID_SPAN
    assert spans.names == []


def test_its_attributes_are_redacted(spans: Spans, traced: None) -> None:
    with pytest.raises(ConnectionError), child_span("acme.send", {"acme.password": "hunter2"}):
        raise ConnectionError("password=hunter2")
    sent = spans.one("acme.send")
    assert sent.attributes is not None
    assert sent.attributes["acme.password"] == "[redacted]"
    assert "hunter2" not in repr([dict(event.attributes or {}) for event in sent.events]) + str(
        sent.status.description
    )
    assert sent.events[0].name == "exception"
