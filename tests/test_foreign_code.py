"""Code of other packages that ends its process, raises or returns anything: at the start and in requests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
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
    "instrumentation by name": Kind(
        "django_tracing_instrumentation", {}, {"INSTRUMENTATIONS": ["request", "planted"]}
    ),
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


#: Each kind at each moment; what is raised there is the same for all kinds.
CASES = [
    *((kind, moment, "SystemExit") for kind in KINDS for moment in MOMENTS),
    *((kind, "import", "BaseException") for kind in KINDS),
    *((kind, moment, error) for kind in ("sampler", "exporter") for moment, error in product(MOMENTS, ERRORS)),
]


@pytest.mark.parametrize(("kind", "moment", "error"), dict.fromkeys(CASES))
def test_code_that_ends_its_process_does_not_end_the_start(
    kind: str, moment: str, error: str, forks: Forks, tmp_path: Path
) -> None:
    group, variables, tracing, traced = KINDS[kind]
    code = MOMENTS[moment].format(error=ERRORS[error])
    plant_package(tmp_path, code, **({group: "planted = planted:Planted"} if group else {}))
    tracing = {"EXPORTER": "none", "ENABLED_IN_TESTS": True, **tracing}
    done = forks.run(f"TRACING = {tracing!r}\n{APP}{USE}", variables, (tmp_path,))
    assert done.code == 0, done.err
    # Off is what needs a function that is not there, or a provider that gives no tracer.
    off = (not traced and moment == "import") or (kind, moment) == ("provider", "use")
    assert f"TRACED {not off}" in done.out, done.err


def test_ctrl_c_still_ends_the_start(forks: Forks, tmp_path: Path) -> None:
    plant_package(tmp_path, "raise KeyboardInterrupt", opentelemetry_traces_sampler="planted = planted:Planted")
    done = forks.run(f"TRACING = {{}}\n{APP}", {"OTEL_TRACES_SAMPLER": "planted"}, (tmp_path,))
    assert done.code == 1
    assert "KeyboardInterrupt" in done.err


def test_a_log_filter_that_raises_does_not_end_the_start(forks: Forks) -> None:
    filtered = """
import logging
def broken(record):
    raise RuntimeError("broken")
logging.getLogger("django_tracing").addFilter(broken)
"""
    for tracing, traced in (({"EXPORTER": "wrong.path"}, True), ({"NO_SETTING": 1}, False)):
        done = forks.run(f"TRACING = {tracing!r}\n{filtered}{APP}{USE}", {"OTEL_SPAN_EVENT_COUNT_LIMIT": "many"})
        assert done.code == 0, done.err
        assert f"TRACED {traced}" in done.out


# ----- in requests


OWN_TRACER = """
from opentelemetry import trace
with trace.get_tracer("shop").start_as_current_span("checkout") as span:
    print("OWN", span.is_recording())
"""


@pytest.mark.parametrize("value", ["missing", "planted", " "])
def test_a_wrong_meter_provider_breaks_no_tracer_of_the_users_own(value: str, forks: Forks, tmp_path: Path) -> None:
    code = "class Planted:\n    def __init__(self):\n        raise RuntimeError('broken')"
    plant_package(tmp_path, code, opentelemetry_meter_provider="planted = planted:Planted")
    tracing = "TRACING = {'EXPORTER': 'none'}\n"
    done = forks.run(f"{tracing}{APP}{OWN_TRACER}", {"OTEL_PYTHON_METER_PROVIDER": value}, (tmp_path,))
    assert done.code == 0, done.err
    assert "OWN True" in done.out


RESULTS = {
    "raises": "raise RuntimeError",
    "exits": "import sys; sys.exit(3)",
    "none": "return None",
    "decision": "return SamplingResult(True)",
    "attributes": "result = SamplingResult(Decision.RECORD_AND_SAMPLE); result.attributes = 7; return result",
    "tracestate": "return SamplingResult(Decision.RECORD_AND_SAMPLE, {}, 'a=b')",
}
SAMPLER = """
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
class Planted(Sampler):
    def __init__(self, argument): pass
    def get_description(self): raise RuntimeError
    def should_sample(self, *args, **kwargs):
        {result}
"""
OUTGOING = """
from django_tracing import get_trace_context
with trace.get_tracer("shop").start_as_current_span("call"):
    print("HEADERS", sorted(get_trace_context()))
"""


@pytest.mark.parametrize("result", RESULTS)
def test_a_sampler_that_raises_or_returns_anything_decides_nothing(result: str, forks: Forks, tmp_path: Path) -> None:
    plant_package(
        tmp_path, SAMPLER.format(result=RESULTS[result]), opentelemetry_traces_sampler="planted = planted:Planted"
    )
    code = f"TRACING = {{'EXPORTER': 'none'}}\n{APP}{USE}{OWN_TRACER}{OUTGOING}"
    done = forks.run(code, {"OTEL_TRACES_SAMPLER": "planted"}, (tmp_path,))
    assert done.code == 0, done.err
    assert "OWN True" in done.out
    assert "traceparent" in done.out


def test_a_huge_name_makes_a_short_log_line(forks: Forks) -> None:
    names = ("OTEL_PYTHON_ID_GENERATOR", "OTEL_TRACES_SAMPLER", "OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT")
    for name in (*names, "OTEL_PYTHON_TRACER_PROVIDER", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"):
        done = forks.run(f"TRACING = {{'EXPORTER': 'none'}}\n{APP}{USE}", {name: "x" * 50_000})
        assert done.code == 0, done.err
        assert name in done.err or name == "OTEL_PYTHON_ID_GENERATOR"
        assert all(len(line) < 1000 for line in done.err.splitlines()), name


def test_a_list_of_thousands_of_names_delays_no_start(forks: Forks) -> None:
    value = ",".join(f"name{number}" for number in range(10_000))
    for name in ("OTEL_PROPAGATORS", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "OTEL_TRACES_EXPORTER"):
        # A fork ends after a minute.
        done = forks.run(f"TRACING = {{'EXPORTER': 'none'}}\n{APP}{USE}", {name: value})
        assert done.code == 0, done.err
        assert len(done.err) < 3000, done.err


IDS = """
from opentelemetry.sdk.trace.id_generator import IdGenerator
class Planted(IdGenerator):
    def generate_trace_id(self):
        {result}
    generate_span_id = is_trace_id_random = generate_trace_id
"""


@pytest.mark.parametrize(
    "result",
    ["raise RuntimeError", "import sys; sys.exit(3)", "return None", "return 'x'", "return -1", "return 2**200"],
)
def test_an_id_generator_that_makes_no_ids_is_replaced(result: str, forks: Forks, tmp_path: Path) -> None:
    plant_package(tmp_path, IDS.format(result=result), opentelemetry_id_generator="planted = planted:Planted")
    code = f"TRACING = {{'EXPORTER': 'none'}}\n{APP}{USE}{OWN_TRACER}{OUTGOING}"
    done = forks.run(code, {"OTEL_PYTHON_ID_GENERATOR": "planted"}, (tmp_path,))
    assert done.code == 0, done.err
    assert "OWN True" in done.out
    assert "traceparent" in done.out
    assert done.err.count("The generator of OTEL_PYTHON_ID_GENERATOR failed. Ids are random instead.") == 1


PROCESSOR = """
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry import trace
class Broken(SpanProcessor):
    def on_start(self, span, parent_context=None):
        {error}
    def _on_ending(self, span):
        {error}
    def on_end(self, span):
        {error}
trace.get_tracer_provider().add_span_processor(Broken())
"""


@pytest.mark.parametrize("error", ["SystemExit", "RuntimeError", "GeneratorExit"])
def test_a_span_processor_that_raises_costs_no_request(error: str, forks: Forks) -> None:
    code = f"TRACING = {{'EXPORTER': 'none'}}\n{APP}{PROCESSOR.format(error=ERRORS[error])}{USE}"
    done = forks.run(code)
    assert done.code == 0, done.err
