"""Code of other packages that ends its process, raises or returns anything: at the start and in requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conf.forks import APP, Forks, plant_package


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


class Kind(NamedTuple):
    """A place where foreign code is named: by an entry point's group, a variable, or a setting."""

    group: str = ""
    variables: dict[str, str] = {}
    tracing: dict[str, Any] = {}
    #: Whether requests are traced without it.
    traced: bool = True


KINDS = {
    "sampler": Kind("opentelemetry_traces_sampler", {"OTEL_TRACES_SAMPLER": "planted"}),
    "propagator": Kind("opentelemetry_propagator", {"OTEL_PROPAGATORS": "tracecontext,planted"}),
    "propagator of a setting": Kind("opentelemetry_propagator", {}, {"PROPAGATORS": ["tracecontext", "planted"]}),
    "detector": Kind("opentelemetry_resource_detector", {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "planted"}),
    "id generator": Kind("opentelemetry_id_generator", {"OTEL_PYTHON_ID_GENERATOR": "planted"}),
    "context": Kind("opentelemetry_context", {"OTEL_PYTHON_CONTEXT": "planted"}),
    "provider": Kind("opentelemetry_tracer_provider", {"OTEL_PYTHON_TRACER_PROVIDER": "planted"}),
    "meter provider": Kind("opentelemetry_meter_provider", {"OTEL_PYTHON_METER_PROVIDER": "planted"}),
    "instrumentation": Kind("django_tracing_instrumentation"),
    "instrumentation by name": Kind("django_tracing_instrumentation", {}, {"INSTRUMENTATIONS": ["request", "planted"]}),
    "instrumentor": Kind("opentelemetry_instrumentor", {}, {"INSTRUMENTATIONS": ["request", "planted"]}),
    "exporter": Kind("", {}, {"EXPORTER": "planted.Planted"}),
    "exporter of a variable": Kind("", {"OTEL_TRACES_EXPORTER": "otlp,planted"}),
    "redact": Kind("", {}, {"REDACT": "planted.Planted"}, traced=False),
    "subscription": Kind("", {}, {"SUBSCRIPTION": "planted.Planted"}),
    "reader": Kind("", {}, {"READER": "planted.Planted"}),
}

#: What the package does, by when it does it.
MOMENTS = {
    "import": "{error}\n",
    "call": "class Planted:\n    def __init__(self, *args, **kwargs):\n        {error}\n",
    "use": "class Planted:\n    def __getattr__(self, name):\n        {error}\n",
}
ERRORS = {
    "SystemExit": "import sys; sys.exit(3)",
    "BaseException": "raise type('Fatal', (BaseException,), {})('fatal')",
    "GeneratorExit": "raise GeneratorExit",
    "RuntimeError": "raise RuntimeError('broken')",
}
USE = """
from django.core.management import call_command
from django.test import Client
from django_tracing.spans import runtime
from io import StringIO
response = Client().get("/empty/", headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
assert response.status_code == 200
call_command("migrate", verbosity=0)
print("TRACED", runtime.current.tracing)
"""


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_code_that_ends_its_process_does_not_end_the_start(
    kind: str, moment: str, error: str, forks: Forks, tmp_path: Path
) -> None:
    group, variables, tracing, traced = KINDS[kind]
    code = MOMENTS[moment].format(error=ERRORS[error])
    plant_package(tmp_path, code, **({group: "planted = planted:Planted"} if group else {}))
    tracing = {"EXPORTER": "none", "ENABLED_IN_TESTS": True, **tracing}
    done = forks.run(f"TRACING = {tracing!r}\n{APP}{USE}", variables, (tmp_path,))
    assert done.code == 0, done.err
    # Only what decides on what may leave turns tracing off.
    assert f"TRACED {traced or moment != 'import'}" in done.out, done.err
