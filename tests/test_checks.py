"""Test the system checks, as `manage.py check` prints them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core import checks as django_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from django_tracing import checks, sqlite_file


def run(tracing: Any, *, deploy: bool = False) -> list[django_checks.CheckMessage]:
    with override_settings(TRACING=tracing):
        found = django_checks.run_checks(include_deployment_checks=deploy)
    return [message for message in found if str(message.id).startswith("django_tracing.")]


def the_one(tracing: Any, id: str, *, deploy: bool = False) -> django_checks.CheckMessage:
    (message,) = run(tracing, deploy=deploy)
    assert message.id == id
    return message


def test_valid_settings_have_no_messages() -> None:
    tracing = {"SERVICE_NAME": "shop", "EXPORTER": "none", "TRUST_PARENT": ["10.0.0.0/8"]}
    assert run(tracing, deploy=True) == []


def test_a_wrong_setting_fails_the_command_and_names_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    with override_settings(TRACING={"SAMPLING_RATE": 1}), pytest.raises(SystemCheckError) as failed:
        call_command("check")
    assert 'TRACING["SAMPLING_RATE"]' in str(failed.value)
    assert 'Did you mean "SAMPLE_RATE"?' in str(failed.value)


def test_every_problem_is_a_message() -> None:
    messages = run({"SAMPLE_RATE": 2, "LAYERS": "x"})
    assert [message.id for message in messages] == [checks.WRONG_SETTING] * 2


def test_an_exporter_that_cannot_be_made() -> None:
    message = the_one({"EXPORTER": "no.such.Exporter"}, checks.NO_EXPORTER)
    assert 'TRACING["EXPORTER"]' in message.msg
    message = the_one({"EXPORTER": "collections.OrderedDict"}, checks.NO_EXPORTER)
    assert "it is not a SpanExporter" in str(message.hint)


def test_a_missing_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "grpc", None)
    message = the_one({"ENDPOINT": "http://h:4317"}, checks.EXPORTER_NOT_INSTALLED)
    assert message.level < django_checks.ERROR
    assert 'pip install "django-tracing-otel[otlp-grpc]"' in str(message.hint)
    assert "port 4318" in str(message.hint)


def test_an_unknown_instrumentation() -> None:
    message = the_one(
        {"EXPORTER": "none", "INSTRUMENTATIONS": ["request", "databse"]}, checks.UNKNOWN_INSTRUMENTATION
    )
    assert "'databse'" in message.msg
    assert "database" in str(message.hint)


def test_an_instrumentation_that_is_not_installed_is_a_warning() -> None:
    message = the_one(
        {"EXPORTER": "none", "INSTRUMENTATIONS": ["request", "pymongo"]}, checks.INSTRUMENTATION_NOT_INSTALLED
    )
    assert message.level < django_checks.ERROR


def test_an_error_in_the_environment_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAEGER_ENDPOINT", "jaeger:4318")
    message = the_one({}, checks.WRONG_ENVIRONMENT)
    assert message.level < django_checks.ERROR
    assert "environment variable JAEGER_ENDPOINT" in message.msg
    assert "http://jaeger:4318" in str(message.hint)
    # The same in TRACING is the developer's own.
    assert the_one({"ENDPOINT": "jaeger:4318"}, checks.WRONG_SETTING).level == django_checks.ERROR


def test_a_propagator_that_is_not_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", "tracecontext,baggage,xray-of-nobody")
    assert "xray-of-nobody" in str(the_one({"EXPORTER": "none"}, checks.NO_PROPAGATOR).hint)


def test_two_instrumentations_for_the_same() -> None:
    the_one({"EXPORTER": "none", "INSTRUMENTATIONS": ["request", "django"]}, checks.TRACED_TWICE)


def test_unencrypted_credentials_on_deploy() -> None:
    tracing = {"ENDPOINT": "http://collector:4318", "HEADERS": {"authorization": "x"}, "TRUST_PARENT": "never"}
    the_one(tracing, checks.CREDENTIALS_IN_THE_CLEAR, deploy=True)
    assert run(tracing) == []
    assert run({**tracing, "ENDPOINT": "https://collector:4318"}, deploy=True) == []
    assert run({**tracing, "ENDPOINT": "http://localhost:4318"}, deploy=True) == []


def test_a_local_store_on_deploy(tmp_path: Path) -> None:
    path = str(tmp_path / "traces.sqlite3")
    tracing = {"LOCAL_STORE": path, "TRUST_PARENT": "never"}
    message = the_one(tracing, checks.LOCAL_STORE_DEPLOYED, deploy=True)
    assert path in message.msg
    assert "no ENDPOINT is set" in message.msg
    assert "ENDPOINT" in str(message.hint)
    chosen = the_one({**tracing, "EXPORTER": "local"}, checks.LOCAL_STORE_DEPLOYED, deploy=True)
    assert 'chosen by TRACING["EXPORTER"]' in chosen.msg
    assert run(tracing) == [], "only with --deploy"
    assert run({**tracing, "ENDPOINT": "http://jaeger:4318"}, deploy=True) == []


@override_settings(TRACING={"TRUST_PARENT": "never"}, SILENCED_SYSTEM_CHECKS=["django_tracing.W010"])
def test_the_check_of_the_local_store_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("check", deploy=True)
    assert "django_tracing.W010" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_local_store_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    share = tmp_path / "the share"
    share.mkdir()
    mounts = tmp_path / "mountinfo"
    point = str(share).replace(" ", "\\040")
    mounts.write_text(
        "not a mount\n"
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"40 22 0:44 / {point} rw,relatime shared:2 master:1 - {kind} server:/export rw,vers=4.2\n"
        f"41 40 0:45 / {point}/disk rw - xfs /dev/sdb1 rw\n"
    )
    monkeypatch.setattr(sqlite_file, "_MOUNTS", str(mounts))
    tracing = {"EXPORTER": "local", "LOCAL_STORE": str(share / ".tracing" / "traces.sqlite3")}
    message = the_one(tracing, checks.LOCAL_STORE_REMOTE)
    assert f"({kind})" in message.msg
    assert run({**tracing, "ENDPOINT": "http://jaeger:4318", "EXPORTER": "otlp"}) == []
    for other in (share / "disk" / "traces.sqlite3", tmp_path / "the share of others" / "traces.sqlite3"):
        assert run({"EXPORTER": "local", "LOCAL_STORE": str(other)}) == []
    mounts.unlink()
    assert run(tracing) == []


class Awaited:
    async def __call__(self, user: Any) -> str:
        return "gold"


async def awaited(user: Any) -> str:
    return "gold"


def test_a_subscription_that_is_a_coroutine_function() -> None:
    for subscription in (awaited, Awaited()):
        message = the_one({"EXPORTER": "none", "SUBSCRIPTION": subscription}, checks.SUBSCRIPTION_AWAITED)
        assert isinstance(message, django_checks.Error)
    assert run({"EXPORTER": "none", "SUBSCRIPTION": str}) == []


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (awaited, "is a coroutine function"),
        (Awaited(), "is a coroutine function"),
        (f"{__name__}.awaited", "is a coroutine function"),
        ("no.such.function", "can't be imported: No module named 'no'"),
    ],
)
def test_a_route_name_that_cannot_be_used(function: Any, problem: str) -> None:
    message = the_one({"EXPORTER": "none", "ROUTE_NAME": function}, checks.ROUTE_NAME_UNUSABLE)
    assert isinstance(message, django_checks.Error)
    assert problem in message.msg
    assert run({"EXPORTER": "none", "ROUTE_NAME": str}) == []
    assert run({"EXPORTER": "none", "ROUTE_NAME": f"{__name__}.run"}) == []


def test_a_route_name_that_is_no_path() -> None:
    message = the_one({"EXPORTER": "none", "ROUTE_NAME": "no path"}, checks.WRONG_SETTING)
    assert "shop.tracing.route_name" in str(message.hint)


@pytest.mark.parametrize(
    ("tracing", "most"),
    [
        ({"TRUST_PARENT": "always"}, "up to 100 traces"),
        ({"TRUST_PARENT": ["10.0.0.0/8", "0.0.0.0/0"]}, "up to 100 traces"),
        ({"TRUST_PARENT": "always", "FORCED_PER_SECOND": 5}, "up to 5 traces"),
        ({"TRUST_PARENT": "always", "FORCED_PER_SECOND": None}, "any number"),
    ],
)
def test_every_caller_decides_on_deploy(tracing: dict[str, Any], most: str) -> None:
    message = the_one({"EXPORTER": "none", **tracing}, checks.EVERY_CALLER_DECIDES, deploy=True)
    assert most in message.msg
    assert "TRUSTED_PROXIES" in str(message.hint)
    assert run({"EXPORTER": "none", **tracing}) == []
    assert run({"EXPORTER": "none", "ENABLED": False, **tracing}, deploy=True) == []
    for trusted in ("private", "never", ["203.0.113.0/24"]):
        assert run({"EXPORTER": "none", "TRUST_PARENT": trusted}, deploy=True) == []


def test_the_documentation_has_exactly_the_checks() -> None:
    page = (Path(__file__).parent.parent / "docs" / "checks.md").read_text()
    documented = set(re.findall(r"^## (\S+)$", page, re.MULTILINE))
    ids = {
        value
        for value in vars(checks).values()
        if isinstance(value, str) and re.fullmatch(r"django_tracing\.[EW]\d+", value)
    }
    assert documented == ids
