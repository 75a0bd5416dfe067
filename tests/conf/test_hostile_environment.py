"""Test that no value of an OpenTelemetry variable keeps a project from starting or makes a command fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_tracing.conf.variables import BY_A_PACKAGE, HONORED, NOT_HONORED
from tests.conf.forks import Forks
from tests.e2e.processes import ROOT, environment

NAMES = sorted(HONORED | BY_A_PACKAGE | NOT_HONORED.keys())

#: Set up, check, migrate, answer a request and trace a block: each may fail in its own way.
CODE = """
import django, sys
from django.conf import settings
settings.configure(
    SECRET_KEY="tests-only",
    INSTALLED_APPS=["django.contrib.contenttypes", "django_tracing"],
    ROOT_URLCONF="tests.urls",
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    # Where a request is sent to is not of interest, nor is what a folder is called.
    TRACING={"LOCAL_STORE": "/dev/null/traces", "SHUTDOWN_TIMEOUT": 0, "QUERY_URL": "http://localhost:16686"},
    USE_TZ=True,
)
django.setup()
from django.core.management import call_command
call_command("check")
call_command("migrate", verbosity=0)
from django.test import Client
from django_tracing import create_span
with create_span("work"):
    print(Client().get("/empty/").status_code)
"""

WORDS = st.sampled_from(
    [
        *("", " ", "0", "-1", "1e309", "nan", "9" * 400, "true", "none", "*", ",", ",,=,", "=", "a=b", "%", "%zz"),
        *("otlp", "otlp,console,otlp", "console", "grpc", "xray", "planted", "b3", "jaeger_remote", "always_on"),
        *("http://", "http://[", "http://[::1", "http://a:b@c:99999/", "udp://x", "file:///etc/passwd", "c:4317"),
        *("endpoint=http://[,pollingIntervalMs=x", "(a+)+$", "(" * 500, "\x1b[31m\n\r", "ä\N{SNOWMAN}\ud800"),
        *("/dev/zero", "/nowhere/ca.pem", "a" * 100_000),
    ]
)
VALUES = WORDS | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


@pytest.mark.parametrize("disabled", ["", "true"])
def test_all_of_them_wrong_at_once(forks: Forks, disabled: str) -> None:
    for value in ("wrong value;%,b3x", "-1", "\N{SNOWMAN}", "*", "http://["):
        done = forks.run(CODE, {**dict.fromkeys(NAMES, value), "OTEL_SDK_DISABLED": disabled})
        assert (done.code, done.out) == (0, "200\n"), done
        assert "Traceback" not in done.err


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(variables=st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=6))
@example(variables={"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider", "OTEL_ATTRIBUTE_COUNT_LIMIT": "x"})
@example(variables={"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/dev/zero"})
@example(variables={"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere"})
def test_any_of_them_with_any_value(forks: Forks, variables: dict[str, str]) -> None:
    # As from the operating system: invalid UTF-8 bytes are surrogates.
    known = {name: value.encode("utf-8", "replace").decode() for name, value in variables.items()}
    done = forks.run(CODE, known)
    assert done.code == 0, done
    assert done.out.splitlines()[-1:] == ["200"] or '"name"' in done.out, done
    assert "Traceback" not in done.err
    # One or two lines for each, and one for each check.
    assert len(done.err.splitlines()) < 20 + 12 * len(known)
    assert len(done.err) < 40_000


@pytest.mark.parametrize("arguments", [["check"], ["migrate"], ["check", "--deploy"]], ids=" ".join)
def test_commands_succeed(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "manage.py").write_text(
        "import sys\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(sys.argv)\n"
    )
    (tmp_path / "site_settings.py").write_text(
        "SECRET_KEY = 'tests-only'\n"
        "INSTALLED_APPS = ['django.contrib.contenttypes', 'django_tracing']\n"
        f"DATABASES = {{'default': {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': {str(tmp_path / 'db')!r}}}}}\n"
        "USE_TZ = True\n"
    )
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env={
            **environment(DJANGO_SETTINGS_MODULE="site_settings"),
            **dict.fromkeys(NAMES, "wrong value;%,b3x"),
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "OTEL_TRACES_SAMPLER" in done.stderr
