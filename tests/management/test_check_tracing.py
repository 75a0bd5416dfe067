"""Test ``manage.py check_tracing``, for people and for scripts."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from django_tracing.conf.table import SPECS
from django_tracing.management.commands import check_tracing
from example_project.servers import free_port
from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver

ROOT = Path(__file__).parents[2]


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("OTEL_", "JAEGER_", "SERVICE_")) or name == "ENVIRONMENT":
            monkeypatch.delenv(name)


def run(*arguments: Any) -> tuple[int, str]:
    """Run the command in this process; return its exit code and output."""
    out = io.StringIO()
    code = 0
    try:
        call_command("check_tracing", *arguments, stdout=out, no_color=True)
    except SystemExit as exit:
        code = int(exit.code or 0)
    return code, out.getvalue()


def manage(
    folder: Path, tracing: str, *arguments: str, before: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a new project with these settings; the code ``before`` runs before Django starts."""
    (folder / "shop_settings.py").write_text(
        textwrap.dedent(
            f"""
            SECRET_KEY = "tests-only"
            INSTALLED_APPS = ["django_tracing"]
            # Nothing listens there: the command must work without a database.
            DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "HOST": "127.0.0.1", "PORT": 1}}}}
            {tracing}
            """
        )
    )
    code = (
        f"{before}\nfrom django.core.management import execute_from_command_line as main; import sys; main(sys.argv)"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "check_tracing", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "DJANGO_SETTINGS_MODULE": "shop_settings",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


# ----- Exit codes, as a script sees them


def test_the_trace_arrived_in_the_local_store(tmp_path: Path) -> None:
    ended = manage(tmp_path, "TRACING = {'LOCAL_STORE': 'traces.sqlite3'}")
    assert (ended.returncode, ended.stderr) == (0, ""), ended
    lines = ended.stdout.splitlines()
    assert lines[0].startswith('ok   settings  service "shop_settings", exporter local in traces.sqlite3')
    assert all(re.search(r"\((\d+ ms|\d+\.\d s)\)$", line) for line in lines[:-2])
    assert lines[-2] == "The trace arrived."
    assert re.fullmatch(r"See it: python manage.py traces [0-9a-f]{32}", lines[-1])
    assert (tmp_path / "traces.sqlite3").exists()


def test_the_trace_did_not_arrive(tmp_path: Path) -> None:
    port = free_port()
    ended = manage(tmp_path, "", JAEGER_ENDPOINT=f"http://127.0.0.1:{port}")
    assert (ended.returncode, ended.stderr) == (1, ""), ended
    assert f"FAIL port      Nothing listens on 127.0.0.1:{port}." in ended.stdout
    assert "environment variable JAEGER_ENDPOINT" in ended.stdout
    assert ended.stdout.endswith("The trace did not arrive.\n")


def test_wrong_settings(tmp_path: Path) -> None:
    ended = manage(tmp_path, "TRACING = {'SAMPLING_RATE': 2}", JAEGER_ENDPOINT="jaeger:4318")
    assert ended.returncode == 2, ended
    assert 'TRACING["SAMPLING_RATE"] is not a setting of django_tracing.' in ended.stdout
    assert 'Did you mean "SAMPLE_RATE"?' in ended.stdout
    assert "environment variable JAEGER_ENDPOINT" in ended.stdout
    assert ended.stdout.endswith("Nothing was sent: the settings are wrong.\n")
    assert "Traceback" not in ended.stdout + ended.stderr


def test_json_with_wrong_settings(tmp_path: Path) -> None:
    ended = manage(tmp_path, "TRACING = ['no dict']", "--json")
    answer = json.loads(ended.stdout)
    assert (ended.returncode, answer["exit_code"], answer["ok"]) == (2, 2, False)
    assert (answer["trace_id"], answer["link"]) == (None, None)
    assert answer["steps"][0]["outcome"] == "failed"


def test_json_of_a_console_is_nothing_but_json(tmp_path: Path) -> None:
    ended = manage(tmp_path, "TRACING = {'EXPORTER': 'console'}", "--json")
    assert (ended.returncode, json.loads(ended.stdout)["ok"]) == (0, True)
    assert "check_tracing.child" in ended.stderr


def test_characters_that_a_terminal_cannot_show(tmp_path: Path) -> None:
    ended = manage(tmp_path, "TRACING = {'SERVICE_NAME': 'Müller…'}", PYTHONIOENCODING="ascii:strict")
    assert ended.returncode == 0, ended
    assert 'service "M?ller?"' in ended.stdout


def test_a_provider_set_before_django_started(tmp_path: Path, receiver: OTLPReceiver) -> None:
    before = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""
    ended = manage(tmp_path, "", "--no-query", before=before, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert ended.returncode == 0, ended
    assert "WARN exporter  This process had a TracerProvider before Django started" in ended.stdout
    # This app's own endpoint is used in addition.
    ended = manage(tmp_path, f"TRACING = {{'ENDPOINT': '{receiver.endpoint}'}}", "--no-query", before=before)
    assert "WARN" not in ended.stdout


# ----- Options


def test_json(receiver: OTLPReceiver) -> None:
    code, out = run("--endpoint", receiver.endpoint, "--no-query", "--json")
    answer = json.loads(out)
    assert out.isascii()
    assert (code, answer["ok"], answer["exit_code"]) == (0, True, 0)
    assert answer["trace_id"] == receiver.spans[0].trace_id
    assert [step["name"] for step in answer["steps"]] == [
        "settings",
        "traced",
        "name",
        "port",
        "protocol",
        "send",
        "read",
    ]
    assert set(answer["steps"][0]) == {"name", "outcome", "detail", "meaning", "remedy", "seconds"}


@pytest.mark.parametrize(
    ("endpoint", "exporter"),
    [
        ("http://127.0.0.1:{port}", "otlp"),
        ("http://127.0.0.1:{port}/api/traces", "jaeger"),
        ("udp://127.0.0.1:{port}", "jaeger"),
    ],
)
def test_another_endpoint_decides_the_protocol(settings: Any, endpoint: str, exporter: str) -> None:
    settings.TRACING = {"EXPORTER": "local", "SERVICE_NAME": "shop"}
    url = endpoint.format(port=free_port())
    code, out = run("--endpoint", url, "--no-query")
    assert code == 1
    assert f"exporter {exporter} to {url}" in out
    assert "(--endpoint)" in out
    assert ("It is unknown whether the trace arrived." in out) is url.startswith("udp")


@pytest.mark.parametrize("option", ["--endpoint", "--query-url"])
def test_wrong_addresses_name_their_option(option: str) -> None:
    code, out = run(option, "ftp://user:hunter22@jaeger")
    assert code == 2
    assert f"FAIL settings  {option} is 'ftp://jaeger'" in out
    assert "hunter22" not in out


def test_options_do_not_hide_that_tracing_is_not_a_dict(settings: Any, receiver: OTLPReceiver) -> None:
    settings.TRACING = "http://jaeger:4318"
    code, out = run("--endpoint", receiver.endpoint)
    assert code == 2
    assert "settings.TRACING" in out


@pytest.mark.parametrize("version", ["jaeger", "jaeger_151"])
def test_another_query_url(
    settings: Any, request: pytest.FixtureRequest, receiver: OTLPReceiver, version: str
) -> None:
    jaeger: Jaeger = request.getfixturevalue(version)
    settings.TRACING = {"ENDPOINT": receiver.endpoint, "QUERY_URL": f"http://127.0.0.1:{free_port()}"}
    code, out = run("--endpoint", jaeger.otlp_http, "--query-url", jaeger.query)
    assert code == 0, out
    assert re.search(rf"^See it: {jaeger.query}/trace/[0-9a-f]{{32}}$", out, re.M)
    assert not receiver.spans


def test_the_time_is_bounded_by_the_option(receiver: OTLPReceiver) -> None:
    receiver.mode = "hang"
    code, out = run("--endpoint", receiver.endpoint, "--timeout", "0.4")
    assert code == 1
    assert "FAIL protocol" in out


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "soon"])
def test_an_invalid_timeout(timeout: str) -> None:
    with pytest.raises(CommandError, match="--timeout: must be a number of seconds"):
        call_command("check_tracing", "--timeout", timeout)


def test_color_is_for_terminals(settings: Any, tmp_path: Path) -> None:
    settings.TRACING = {"LOCAL_STORE": tmp_path / "traces.sqlite3"}
    out = io.StringIO()
    call_command("check_tracing", stdout=out, force_color=True)
    assert "\033[" in out.getvalue()
    assert "\033[" not in run()[1]


def test_each_line_is_printed_when_its_step_ends(settings: Any, receiver: OTLPReceiver) -> None:
    receiver.mode = "hang"
    settings.TRACING = {"ENDPOINT": receiver.endpoint}
    seen: list[str] = []

    class Out(io.StringIO):
        def flush(self) -> None:
            seen.append(self.getvalue())
            if "port" in self.getvalue():
                # The receiver answers only now: the lines before were printed without waiting for it.
                receiver.mode = "ok"

    command = check_tracing.Command(stdout=Out(), no_color=True)
    call_command(command, "--no-query")
    assert "settings" in seen[0]
    assert "send" not in seen[0]
    assert "send" in seen[-1]


# ----- Documentation


def test_each_step_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "check_tracing.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "django_tracing" / "diagnosis").glob("*.py"))
    names = set(re.findall(r'(?:Step|failure)\(\s*"(\w+)",', source))
    assert {
        "settings",
        "sampling",
        "traced",
        "exporter",
        "endpoint",
        "spool",
        "name",
        "port",
        "tls",
        "protocol",
        "send",
        "read",
    } == names
    for name in names:
        assert f"\n## {name}\n" in page
    parser = check_tracing.Command().create_parser("manage.py", "check_tracing")
    ours = {"--json", "--timeout", "--endpoint", "--query-url", "--no-query"}
    assert ours <= set(parser._option_string_actions)
    for option in ours:
        assert f"| `{option}" in page


@pytest.mark.parametrize("name", ["troubleshooting.md", "check_tracing.md"])
def test_advice_names_only_existing_settings(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    known = {spec.name for spec in SPECS} | {variable for spec in SPECS for variable in spec.env}
    known |= {"OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_PROTOCOL", "TRACING", "MIDDLEWARE", "MEDIA_URL", "STATIC_URL"}
    known |= {"TRACE_ID", "NAME", "URL", "SECONDS", "WARNING", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "SSL_CERT_FILE"}
    found = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", page)) | set(re.findall(r"`([A-Z_]{3,})`", page))
    assert found - known - {"SAMPLING_RATE"} == set()
