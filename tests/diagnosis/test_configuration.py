"""Test the checks of settings, sampling, instrumentations and the exporter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from django_tracing.models import SamplingRule
from example_project.servers import free_port
from tests.diagnosis.helpers import Result, failed
from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver


def test_all_wrong_settings_are_reported_and_nothing_is_sent() -> None:
    result = Result({"SAMPLING_RATE": 1, "BATCH_SIZE": 0}, {"JAEGER_ENDPOINT": "jaeger:4318"})
    assert result.exit_code == 2
    assert result.names == ["settings"] * 3
    assert {step.outcome for step in result.steps} == {"failed"}
    assert 'TRACING["SAMPLING_RATE"]' in result.text
    assert 'Did you mean "SAMPLE_RATE"?' in result.text
    assert "environment variable JAEGER_ENDPOINT" in result.text
    assert "http://jaeger:4318" in result.text
    assert result.diagnosis.trace_id is None


@pytest.mark.parametrize(
    ("tracing", "environ", "source"),
    [
        ({"ENABLED": False}, {}, 'TRACING["ENABLED"]'),
        ({}, {"OTEL_SDK_DISABLED": "true"}, "environment variable OTEL_SDK_DISABLED"),
    ],
)
def test_disabled(tracing: dict[str, Any], environ: dict[str, str], source: str) -> None:
    assert source in failed(Result(tracing, environ), "settings").detail


def test_tracing_takes_precedence_over_a_disabled_sdk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    result = Result({"ENABLED": True, "LOCAL_STORE": tmp_path / "t.sqlite3"}, dict(os.environ))
    assert result.exit_code == 0


def test_no_exporter() -> None:
    step = failed(Result({"EXPORTER": "none"}), "exporter")
    assert 'TRACING["EXPORTER"]' in step.detail
    assert "local" in step.remedy


@pytest.mark.parametrize(
    "path", ["nowhere.Exporter", "tests.diagnosis.helpers.Result", "tests.diagnosis.test_arrival.NoExporter"]
)
def test_a_dotted_path_that_is_not_an_exporter(path: str) -> None:
    step = failed(Result({"EXPORTER": path}), "exporter", code=2)
    assert path in step.detail


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    step = failed(Result({"ENDPOINT": "http://localhost:4317"}), "exporter", code=2)
    assert "django-tracing-otel[otlp-grpc]" in step.meaning + step.remedy


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_sampling_rate_is_explained(receiver: OTLPReceiver, rate: float) -> None:
    result = Result({"ENDPOINT": receiver.endpoint, "SAMPLE_RATE": rate}, query=False)
    step = result.step("sampling")
    assert step.outcome == "warning"
    assert step.detail.startswith(f"{rate * 100:g} % of the traces are recorded (")
    assert step.meaning.endswith("only if its caller's trace is recorded.")
    assert 'TRACING["SAMPLE_RATE"]' in step.detail
    assert result.exit_code == 0
    assert len(receiver.spans) == 2


def test_missing_instrumentations(receiver: OTLPReceiver) -> None:
    result = Result({"ENDPOINT": receiver.endpoint, "INSTRUMENTATIONS": ["request", "pika"]}, query=False)
    on, missing = (step for step in result.steps if step.name == "traced")
    assert (on.outcome, on.detail) == ("ok", "request")
    assert missing.outcome == "warning"
    assert "pip install opentelemetry-instrumentation-pika" in missing.remedy
    assert result.exit_code == 0


def test_a_misspelt_instrumentation_names_no_package(receiver: OTLPReceiver) -> None:
    result = Result({"ENDPOINT": receiver.endpoint, "INSTRUMENTATIONS": ["request", "databse", "xyzzy"]}, query=False)
    _, misspelt, unknown = (step for step in result.steps if step.name == "traced")
    assert misspelt.detail == 'databse is not traced: it is not an instrumentation (did you mean "database"?).'
    assert unknown.detail == "xyzzy is not traced: it is not an instrumentation."
    # Anybody may have uploaded a package of that name.
    assert "pip" not in result.text
    assert 'TRACING["INSTRUMENTATIONS"]' in unknown.remedy
    assert result.exit_code == 0


def test_a_tls_file_that_cannot_be_used_names_its_setting() -> None:
    step = failed(Result({"ENDPOINT": "https://h:4318", "TLS_CA_FILE": "/nowhere/ca.pem"}), "exporter", code=2)
    assert "/nowhere/ca.pem" in step.detail
    assert step.remedy == 'Correct TRACING["TLS_CA_FILE"].'


@pytest.mark.django_db(transaction=True)
def test_a_rate_applies_only_to_traces_without_a_rule(receiver: OTLPReceiver) -> None:
    SamplingRule.objects.create(name="Orders", rate=50)
    kept = {"KEEP_ERRORS": True, "KEEP_SLOWER_THAN": 1.5}
    result = Result({"ENDPOINT": receiver.endpoint, "SAMPLE_RATE": 0.0, **kept}, query=False)
    rules, rate = (step for step in result.steps if step.name == "sampling")
    assert rules.detail == "by the rules in the admin: Orders 50 %; otherwise 0 %"
    assert rate.detail == '0 % of the traces that match no rule are recorded (TRACING["SAMPLE_RATE"]).'
    assert "it fails (KEEP_ERRORS) or it takes longer than 1.5 s (KEEP_SLOWER_THAN)" in rate.meaning


@pytest.mark.django_db(transaction=True)
def test_the_sampling_in_force(receiver: OTLPReceiver) -> None:
    for order, name in enumerate("abcdefg"):
        SamplingRule.objects.create(name=name, order=order, rate=order)
    result = Result({"ENDPOINT": receiver.endpoint, "SAMPLE_RATE": 1.0}, query=False)
    detail = result.step("sampling").detail
    assert detail == "by the rules in the admin: a 0 %, b 1 %, c 2 %, d 3 %, e 4 % and 2 more; otherwise 100 %"
    assert result.exit_code == 0


def test_a_jaeger_s_strategy() -> None:
    with Jaeger("jaeger", {"default_strategy": {"type": "probabilistic", "param": 0.25}}) as jaeger:
        tracing = {"ENDPOINT": jaeger.otlp_http, "REMOTE_SAMPLING_URL": jaeger.sampling, "SAMPLE_RATE": 0.1}
        result = Result(tracing, query=False)
    # The server decides, so SAMPLE_RATE is not used.
    assert result.step("sampling").detail == f"by {jaeger.sampling}: 25 %"


def test_a_jaeger_without_a_strategy(receiver: OTLPReceiver) -> None:
    url = f"http://127.0.0.1:{free_port()}/sampling"
    result = Result({"ENDPOINT": receiver.endpoint, "REMOTE_SAMPLING_URL": url}, query=False)
    step = result.step("sampling")
    assert step.outcome == "warning"
    assert 'TRACING["REMOTE_SAMPLING_URL"]' in step.remedy
    assert result.exit_code == 0


def test_a_compression_that_the_exporter_does_not_support(tmp_path: Path) -> None:
    result = Result({"LOCAL_STORE": tmp_path / "traces.sqlite3", "COMPRESSION": "gzip"})
    step = result.step("exporter")
    assert step.outcome == "warning"
    assert step.detail == 'The exporter local does not support compression (TRACING["COMPRESSION"]).'
    assert "otlp" in step.remedy
    assert result.exit_code == 0
