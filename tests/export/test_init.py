"""Test which exporter is built from which name, and that nothing else is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from django_tracing.export import build_exporter

ROOT = Path(__file__).parents[2]


def test_kinds() -> None:
    assert build_exporter("none") is None
    assert isinstance(build_exporter("console"), ConsoleSpanExporter)
    assert type(build_exporter("local", local_write=print)).__name__ == "LocalExporter"
    assert type(build_exporter("otlp", endpoint="http://c:4318")).__name__ == "OTLPHTTPExporter"


@pytest.mark.parametrize("kind", ["otlp", "otlp-grpc", "jaeger", "local"])
def test_a_missing_option_is_named(kind: str) -> None:
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
        timeout=120,
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
        timeout=120,
        check=True,
    )
    # This app can't avoid what the SDK imports itself.
    assert set(eval(run.stdout)) <= set(eval(already.stdout))
