"""Which exporter is built from which name, and that nothing else is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from django_tracing.export import build_exporter

ROOT = Path(__file__).parents[2]


class Mine(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def make_mine() -> Mine:
    return Mine()


def needs_more(endpoint: str) -> Mine:
    return Mine()


NOTHING = object


def test_kinds() -> None:
    assert build_exporter("none") is None
    assert isinstance(build_exporter("console"), ConsoleSpanExporter)
    assert type(build_exporter("local", local_write=print)).__name__ == "LocalExporter"
    assert type(build_exporter("otlp", endpoint="http://c:4318")).__name__ == "OTLPHTTPExporter"


@pytest.mark.parametrize("name", ["Mine", "make_mine"])
def test_a_dotted_path(name: str) -> None:
    assert isinstance(build_exporter(f"{__name__}.{name}"), Mine)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no_such_module.Exporter", ImportError, "no_such_module"),
        (f"{__name__}.Missing", ImportError, "has no Missing"),
        ("nodots", ImportError, "'nodots' is no dotted path"),
        (f"{__name__}.needs_more", TypeError, "can't be called without arguments.*endpoint"),
        (f"{__name__}.NOTHING", TypeError, "gives object, which has no export"),
    ],
)
def test_a_wrong_dotted_path_is_explained(path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_exporter(path)


@pytest.mark.parametrize("kind", ["otlp", "otlp-grpc", "jaeger", "local"])
def test_what_is_missing_is_said(kind: str) -> None:
    with pytest.raises(ValueError, match="needs a"):
        build_exporter(kind)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import django_tracing.export.queue", ("grpc", "thrift", "sqlite3", "http.client", "google.protobuf")),
        (
            "from django_tracing.export import build_exporter; build_exporter('otlp', endpoint='http://c:4318')",
            ("grpc", "thrift", "sqlite3", "google.protobuf", "django", "opentelemetry.proto"),
        ),
        (
            "from django_tracing.export import build_exporter; build_exporter('local', local_write=print)",
            ("grpc", "thrift", "google.protobuf", "django", "http.client"),
        ),
        (
            "from django_tracing.export import build_exporter; build_exporter('otlp-grpc', endpoint='http://c:4317')",
            ("thrift", "google.protobuf", "django", "opentelemetry.proto"),
        ),
        (
            "from django_tracing.export import build_exporter\n"
            "build_exporter('jaeger', endpoint='http://c:14268/api/traces')",
            ("grpc", "google.protobuf", "django", "requests"),
        ),
    ],
)
def test_only_what_is_used_is_imported(code: str, absent: tuple[str, ...]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    already = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import opentelemetry.sdk.trace.export, sys\nprint([n for n in {absent!r} if n in sys.modules])",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # What the SDK imports by itself is not ours to avoid.
    assert set(eval(run.stdout)) <= set(eval(already.stdout))
