"""Test the public names for readers: the example in docs/traces.md uses only these, and all pages and commands use it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from django_tracing import exceptions, readers
from django_tracing.conf.loading import load
from django_tracing.traces.readers.base import NO_LIMITS, limits_of
from django_tracing.traces.readers.choosing import get_reader
from tests.traces.builders import blueprint_trace

ROOT = Path(__file__).parent.parent
ONE = f"{1:032x}"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class of the example, as a module of a project that has it."""
    text = (ROOT / "docs" / "traces.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text[text.index("## A reader of your own") :], re.DOTALL)
    module = ModuleType("example_reader")
    exec(compile(code, "docs/traces.md", "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "example_reader", module)
    monkeypatch.chdir(tmp_path)
    return module.FileReader  # type: ignore[attr-defined]


def write_spans() -> None:
    """Write spans like the example's program, in the form that a store receives."""
    fields = readers.Span.__slots__
    lines = [
        json.dumps({key: value for key, value in span.items() if key in fields and key not in ("events", "links")})
        for span in blueprint_trace()
    ]
    Path("traces.jsonl").write_text("\n".join(lines))


def test_the_example_uses_public_names_only(example: Any) -> None:
    code = (ROOT / "docs" / "traces.md").read_text()
    imported = set(re.findall(r"^(?:from|import) (django_tracing[\w.]*)", code, re.MULTILINE))
    assert imported == {"django_tracing.readers"}
    reader = example(None)
    assert [name for name in vars(readers.Reader) if not name.startswith("_") and not hasattr(reader, name)] == []


def test_all_names_exist_and_are_documented() -> None:
    text = (ROOT / "docs" / "traces.md").read_text()
    for module in (readers, exceptions):
        assert [name for name in module.__all__ if not hasattr(module, name)] == []
    errors = {name for name in exceptions.__all__ if isinstance(getattr(exceptions, name), type)}
    assert [name for name in errors if f"`{name}`" not in text] == []
    for name in ("LocalStore", "JaegerReader", *readers.ReaderLimits._fields):
        assert f"`{name}`" in text


def test_one_base_class() -> None:
    for error in (exceptions.ReadError, exceptions.ExportError, exceptions.MissingExtra):
        assert issubclass(error, exceptions.TracingError)
    assert issubclass(exceptions.StoreError, exceptions.ReadError)
    assert issubclass(exceptions.JaegerError, exceptions.ReadError)
    assert issubclass(exceptions.MissingExtra, ImportError)


def test_the_former_path() -> None:
    from django_tracing.traces.readers.base import Reader

    assert Reader is readers.Reader


@pytest.mark.usefixtures("without_coverage")
def test_importing_the_exceptions_imports_nothing_else() -> None:
    program = (
        "import sys, django_tracing.exceptions; "
        "print([name for name in ('http.client', 'ssl', 'sqlite3', 'opentelemetry.sdk') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout == "[]\n"


@pytest.fixture
def traces(settings: Any, example: Any) -> Callable[..., str]:
    settings.TRACING = {"READER": "example_reader.FileReader"}
    write_spans()

    def run(command: str, *arguments: str) -> str:
        out = io.StringIO()
        call_command(command, *arguments, stdout=out, stderr=out)
        return out.getvalue()

    return run


def test_commands_read_the_example(traces: Callable[..., str]) -> None:
    (summary,) = json.loads(traces("traces", "--json"))
    assert summary["trace_id"] == ONE
    assert summary["name"] in traces("traces")
    assert f"Trace {ONE}" in traces("traces", ONE[:-1][:32] + ONE[-1])
    assert "No trace in traces.jsonl matches" in traces("traces", "--service", "nobody")
    assert json.loads(traces("traces", "--json", "--service", summary["service"], "--min-duration", "1us")) == [
        summary
    ]
    assert summary["service"] in traces("trace_dependencies")


def test_pages_read_the_example(traces: Callable[..., str], settings: Any, client: Client, db: None) -> None:
    settings.ROOT_URLCONF = "tests.pages.urls"
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    name = json.loads(traces("traces", "--json"))[0]["name"]
    for page in ("", "routes/", f"{ONE}/", "map/", f"{ONE}/spans/{1:016x}/"):
        answer = client.get(f"/admin/django_tracing/trace/{page}")
        assert answer.status_code == 200
        content = answer.content.decode()
        assert "can&#x27;t be read" not in content
        assert page == "map/" or name.replace("<", "&lt;").replace(">", "&gt;") in content
    download = client.get(f"/admin/django_tracing/trace/{ONE}/otlp.json")
    spans = json.loads(download.getvalue())["resourceSpans"]
    assert sum(len(scope["spans"]) for group in spans for scope in group["scopeSpans"]) == len(blueprint_trace())


def test_a_file_that_is_missing_is_reported(settings: Any, example: Any) -> None:
    reader = get_reader(load({"READER": example}, {}))
    with pytest.raises(readers.ReadError, match=r"^traces.jsonl can't be read \(No such file or directory\)\.$"):
        reader.services()


class TestLimits:
    def test_of_the_readers_here(self, tmp_path: Path) -> None:
        assert limits_of(readers.LocalStore(tmp_path / "x.sqlite3")) == NO_LIMITS
        assert limits_of(readers.JaegerReader("http://localhost:16686")) == (True, True, 24 * 3600.0, True)

    def test_a_reader_without_them_has_none(self, example: Any) -> None:
        reader = get_reader(load({"READER": example}, {}))
        assert limits_of(reader) == NO_LIMITS

    def test_a_readers_own(self, example: Any) -> None:
        limited = type("Limited", (example,), {"limits": readers.ReaderLimits(newest_only=True)})
        assert limits_of(get_reader(load({"READER": limited}, {}))).newest_only

    @pytest.mark.parametrize("wrong", [None, "newest", property(lambda reader: 1 / 0)])
    def test_invalid_limits_count_as_none(self, example: Any, wrong: Any) -> None:
        limited = type("Limited", (example,), {"limits": wrong})
        assert limits_of(get_reader(load({"READER": limited}, {}))) == NO_LIMITS

    def test_the_command_names_how_far_back(self, settings: Any, example: Any) -> None:
        settings.TRACING = {"READER": type("Day", (example,), {"limits": readers.ReaderLimits(lookback=5400.0)})}
        Path("traces.jsonl").write_text("")
        out = io.StringIO()
        call_command("traces", stdout=out)
        assert "No traces of the last 90 minutes in traces.jsonl yet." in out.getvalue()
