"""Test that environment variables that are set for all pods never keep a project from starting."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ROOT, environment

#: A project that is checked, migrated and sends a response, as in a deployment.
PROJECT = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="tests-only",
    INSTALLED_APPS=[
        *("django.contrib." + name for name in ("admin", "auth", "contenttypes", "sessions", "messages")),
        "django_tracing",
    ],
    ROOT_URLCONF="tests.urls",
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {
        "context_processors": ["django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth", "django.contrib.messages.context_processors.messages"]}}],
    TRACING=TRACING,
    USE_TZ=True,
)
from django_tracing import trace

@trace("beside")
def beside():
    return 7

django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("createsuperuser", "--noinput", username="ada", email="ada@example.com", verbosity=0)
from django.contrib.auth.models import User
from django.test import Client
assert Client().get("/empty/").status_code == 200
assert beside() == 7
from django_tracing.spans import runtime
print("traced" if runtime.current.queue is not None else runtime.current.trouble)
"""

#: The variables of the OpenTelemetry specification, and of its SDK for Python.
#: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
VARIABLES = """
OTEL_RESOURCE_ATTRIBUTES OTEL_SERVICE_NAME OTEL_LOG_LEVEL OTEL_PROPAGATORS OTEL_TRACES_SAMPLER
OTEL_TRACES_SAMPLER_ARG OTEL_CONFIG_FILE OTEL_EXPERIMENTAL_CONFIG_FILE OTEL_ENTITIES
OTEL_BSP_SCHEDULE_DELAY OTEL_BSP_EXPORT_TIMEOUT OTEL_BSP_MAX_QUEUE_SIZE OTEL_BSP_MAX_EXPORT_BATCH_SIZE
OTEL_BLRP_SCHEDULE_DELAY OTEL_BLRP_EXPORT_TIMEOUT OTEL_BLRP_MAX_QUEUE_SIZE OTEL_BLRP_MAX_EXPORT_BATCH_SIZE
OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT OTEL_ATTRIBUTE_COUNT_LIMIT OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT
OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT OTEL_SPAN_EVENT_COUNT_LIMIT OTEL_SPAN_LINK_COUNT_LIMIT
OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT OTEL_LINK_ATTRIBUTE_COUNT_LIMIT OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT
OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT OTEL_METRICS_EXEMPLAR_FILTER OTEL_METRIC_EXPORT_INTERVAL
OTEL_METRIC_EXPORT_TIMEOUT OTEL_TRACES_EXPORTER OTEL_METRICS_EXPORTER OTEL_LOGS_EXPORTER
OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_HEADERS
OTEL_EXPORTER_OTLP_TRACES_HEADERS OTEL_EXPORTER_OTLP_TIMEOUT OTEL_EXPORTER_OTLP_TRACES_TIMEOUT
OTEL_EXPORTER_OTLP_PROTOCOL OTEL_EXPORTER_OTLP_TRACES_PROTOCOL OTEL_EXPORTER_OTLP_COMPRESSION
OTEL_EXPORTER_OTLP_TRACES_COMPRESSION OTEL_EXPORTER_OTLP_CERTIFICATE OTEL_EXPORTER_OTLP_CLIENT_KEY
OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE OTEL_EXPORTER_OTLP_INSECURE OTEL_EXPORTER_ZIPKIN_ENDPOINT
OTEL_EXPORTER_ZIPKIN_TIMEOUT OTEL_EXPORTER_PROMETHEUS_HOST OTEL_EXPORTER_PROMETHEUS_PORT
OTEL_EXPORTER_JAEGER_ENDPOINT OTEL_EXPORTER_JAEGER_AGENT_HOST OTEL_EXPORTER_JAEGER_AGENT_PORT
OTEL_EXPERIMENTAL_RESOURCE_DETECTORS OTEL_SEMCONV_STABILITY_OPT_IN OTEL_PYTHON_CONTEXT
OTEL_PYTHON_TRACER_PROVIDER OTEL_PYTHON_METER_PROVIDER OTEL_PYTHON_LOGGER_PROVIDER OTEL_PYTHON_ID_GENERATOR
OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED OTEL_PYTHON_DISABLED_INSTRUMENTATIONS OTEL_PYTHON_EXCLUDED_URLS
OTEL_PYTHON_DJANGO_EXCLUDED_URLS OTEL_PYTHON_DJANGO_INSTRUMENT OTEL_PYTHON_LOG_CORRELATION
""".split()  # noqa: SIM905 - a list literal would be much longer
#: Those for which OpenTelemetry raises an exception or logs a stack trace if this app doesn't handle them.
READ_BY_OPENTELEMETRY = [
    *(name for name in VARIABLES if name.endswith("_LIMIT") and "LOGRECORD" not in name),
    "OTEL_PROPAGATORS",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
    "OTEL_PYTHON_CONTEXT",
    "OTEL_PYTHON_TRACER_PROVIDER",
    "OTEL_PYTHON_METER_PROVIDER",
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED",
]
WRONG = "wrong value;%,b3x"


def start(variables: dict[str, str], tracing: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in environment().items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", PROJECT.replace("TRACING=TRACING", f"TRACING={tracing}")],
        env={**known, "DJANGO_SETTINGS_MODULE": "", "DJANGO_SUPERUSER_PASSWORD": "x", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("variable", READ_BY_OPENTELEMETRY)
def test_a_variable_that_opentelemetry_cannot_read_counts_as_unset(variable: str, tmp_path: Path) -> None:
    done = start({variable: WRONG}, repr({"EXPORTER": "local", "LOCAL_STORE": str(tmp_path / "traces.sqlite3")}))
    assert done.stdout == "traced\n"
    # A warning in the log and one of the check that migrate runs; each names the variable.
    lines = [line for line in done.stderr.splitlines() if variable in line and "django_tracing.W" not in line]
    assert 1 <= len(lines) <= 2


@pytest.mark.parametrize("disabled", ["false", "true"])
@pytest.mark.parametrize("value", [WRONG, "-1", "", "\N{SNOWMAN}"], ids=["wrong", "negative", "empty", "snowman"])
def test_all_variables_of_the_specification_wrong_at_once(value: str, disabled: str, tmp_path: Path) -> None:
    # The test doesn't check which files are created in the working directory.
    variables = {**dict.fromkeys(VARIABLES, value), "OTEL_SDK_DISABLED": disabled}
    start(variables, repr({"LOCAL_STORE": str(tmp_path / "traces.sqlite3")}))


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "JAEGER_ENDPOINT"])
def test_a_wrong_setting_in_the_environment_stops_no_command(variable: str) -> None:
    done = start({variable: "jaeger:4318" if "JAEGER" in variable else "http://wrong value"}, "{}")
    assert done.stdout.startswith(f"Tracing is off: environment variable {variable}")
    recorded = [line for line in done.stderr.splitlines() if line.startswith("Tracing is off")]
    assert len(recorded) == 1
    if "JAEGER" in variable:
        assert "http://jaeger:4318" in recorded[0]


def test_a_missing_extra_stops_no_command() -> None:
    hide = "__import__('sys').modules.update(grpc=None) or {}"
    done = start({"JAEGER_ENDPOINT": "http://127.0.0.1:4317"}, hide)
    assert 'pip install "django-tracing-otel[otlp-grpc]"' in done.stdout
    assert done.stdout.startswith("Spans are not exported (environment variable JAEGER_ENDPOINT)")


def test_if_the_app_cannot_start_the_project_starts() -> None:
    broken = "__import__('sys').modules.update({'django_tracing.provider': None}) or {}"
    known = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    code = PROJECT.replace("TRACING=TRACING", f"TRACING={broken}").partition("from django_tracing import trace")[0]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\ndjango.setup()\nprint('up')"],
        env={**known, "DJANGO_SETTINGS_MODULE": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "up\n"
    assert "Tracing is off: it could not be started (ModuleNotFoundError" in done.stderr


EXCLUDED = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="tests-only", ROOT_URLCONF="tests.urls", ALLOWED_HOSTS=["testserver"],
    INSTALLED_APPS=["django_tracing"], TRACING={"EXPORTER": "none"},
)
django.setup()
from django.test import Client
from django_tracing.testing import capture_spans
with capture_spans() as spans:
    for path in ("/empty/", "/empty/?a=plain", "/async/", "/plain/empty/x"):
        Client().get(path)
print([span.attributes["http.url"].partition("testserver")[2] for span in spans.find_all(operation__type="http")])
"""


@pytest.mark.parametrize(
    ("variables", "traced"),
    [
        ({"OTEL_PYTHON_DJANGO_EXCLUDED_URLS": "empty,nothing"}, ["/async/"]),
        ({"OTEL_PYTHON_DJANGO_EXCLUDED_URLS": r"/empty/\?$, ^http://elsewhere/"}, ["/async/", "/plain/empty/x"]),
        ({"OTEL_PYTHON_EXCLUDED_URLS": "^http://testserver/async"}, ["/empty/", "/empty/?a=plain", "/plain/empty/x"]),
        # The variable for Django replaces the general one.
        ({"OTEL_PYTHON_DJANGO_EXCLUDED_URLS": "async", "OTEL_PYTHON_EXCLUDED_URLS": "empty"}, 3),
        ({"OTEL_PYTHON_DJANGO_EXCLUDED_URLS": "", "OTEL_PYTHON_EXCLUDED_URLS": "empty"}, 4),
        # An expression that is invalid or could take forever excludes nothing.
        ({"OTEL_PYTHON_DJANGO_EXCLUDED_URLS": "empty(,async"}, 3),
        ({"OTEL_PYTHON_DJANGO_EXCLUDED_URLS": "(e+m*)+p,async"}, 3),
    ],
)
def test_paths_excluded_by_opentelemetrys_variable(variables: dict[str, str], traced: Any) -> None:
    known = {name: value for name, value in environment().items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", EXCLUDED],
        env={**known, "DJANGO_SETTINGS_MODULE": "", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout)
    assert found == traced if isinstance(traced, list) else len(found) == traced
    wrong = [name for name, value in variables.items() if "(" in value]
    logged = [line for line in done.stderr.splitlines() if line.startswith("The environment")]
    assert [line.split()[3] for line in logged] == wrong
    # The part that can be used stays in use.
    assert all(" The others are used. " in line for line in logged)


def test_the_log_line_of_a_wrong_variable_has_its_effect_and_the_fix(tmp_path: Path) -> None:
    tracing = {"EXPORTER": "local", "LOCAL_STORE": str(tmp_path / "traces.sqlite3")}
    done = start({"OTEL_TRACES_SAMPLER_ARG": "2"}, repr(tracing))
    assert [line for line in done.stderr.splitlines() if line.startswith("The environment variable")] == [
        "The environment variable OTEL_TRACES_SAMPLER_ARG is '2', which is out of range. It counts as unset. "
        "Set it to a number from 0 to 1 (a share)."
    ]
