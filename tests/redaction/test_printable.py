"""Test that text from outside is shown on one line in logs, terminals and messages."""

from __future__ import annotations

import sys
import time
import unicodedata
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SpanExporter

from django_tracing.diagnosis.steps import Diagnosis, Step
from django_tracing.exceptions import ExportError, ReadError
from django_tracing.export.errors import from_network_error, from_status
from django_tracing.export.grpc import _failure
from django_tracing.export.queue import QueueProcessor
from django_tracing.redaction.printable import printable
from django_tracing.sampling.remote import JaegerRemoteSampler, parse_strategy
from tests.export.builders import make_spans

#: Characters that end a line, move the cursor, color the terminal or change the direction of text.
EVIL = "ok\r\nERROR forged\x1b[2J\x1b]0;title\x07 \x85\u2028\u2029\u202e\u2066\u200b\x00\ud800"

#: Half of these characters affect a terminal or a log.
texts = st.text(st.one_of(st.characters(), st.sampled_from(EVIL)), max_size=400)


def is_harmless(text: str) -> bool:
    return not any(unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for each in text)


@given(texts, st.integers(1, 50))
def test_control_characters_are_removed_and_other_text_is_kept(text: str, length: int) -> None:
    shown = printable(text)
    assert is_harmless(shown)
    assert (shown == text) is text.isprintable()
    assert shown.splitlines() in ([], [shown])
    short = printable(text, length)
    assert is_harmless(short)
    assert len(short) <= length
    assert short == shown or (short[-1] == "…" and shown.startswith(short[:-1]))


def test_long_text_is_cut_before_it_is_read() -> None:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        printable("\x1b" * 1_000_000, 100)
    finally:
        sys.setprofile(None)
    assert calls < 2000


@given(texts, st.sampled_from(["UNAVAILABLE", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNKNOWN", "UNIMPLEMENTED"]))
def test_text_of_a_receiver_is_harmless_in_an_error(text: str, code: str) -> None:
    for error in (
        _failure(code, text, "jaeger:4317", compressed=False),
        from_network_error(OSError(text), "jaeger:4318"),
        from_status(503, "http://jaeger:4318/v1/traces", retry_after=text),
        ExportError(text, reason="failed", retryable=False),
        ReadError(text, "failed"),
    ):
        assert is_harmless(str(error))
        assert len(str(error)) <= 1000


def test_a_receiver_that_repeats_the_metadata_of_the_request() -> None:
    details = "no such tenant; you sent authorization: Bearer abcdef0123456789abcdef0123456789"
    assert "abcdef0123456789" not in str(_failure("INTERNAL", details, "jaeger:4317", compressed=False))


class _Failing(SpanExporter):
    """An exporter that fails with the given error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def export(self, spans: Any) -> Any:
        raise self._error


@pytest.mark.parametrize("error", [ExportError(EVIL, reason="rejected", retryable=False), RuntimeError(EVIL)])
def test_errors_cannot_forge_log_lines_of_the_queue(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    processor = QueueProcessor(_Failing(error), export_interval=0.01)
    for span in make_spans():
        processor.on_end(span)
    processor.force_flush(5000)
    processor.shutdown()
    lines = [record.getMessage() for record in caplog.records]
    assert any("forged" in line for line in lines)
    assert all(is_harmless(line) for line in lines)


def test_errors_cannot_forge_log_lines_of_the_remote_sampler(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = JaegerRemoteSampler("shop", "http://127.0.0.1:9/sampling")
    operations = [{"operation": EVIL * 50, "probabilisticSampling": {"samplingRate": 0.5}}] * 3
    strategy = parse_strategy({"probabilisticSampling": {"samplingRate": 1}})._replace(
        operations={str(number) + one["operation"]: 0.5 for number, one in enumerate(operations)}
    )
    monkeypatch.setattr(sampler._decider, "strategy", strategy)

    def get() -> bytes:
        raise OSError(EVIL)

    monkeypatch.setattr(sampler, "_get", get)
    assert sampler.ask() is False
    [line] = [record.getMessage() for record in caplog.records]
    assert "forged" in line
    assert is_harmless(line)
    assert len(line) < 1000


def test_check_tracing_prints_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(self: Diagnosis) -> Any:
        yield self._complete(Step("protocol", "failed", EVIL, EVIL, EVIL * 1000), time.monotonic())

    monkeypatch.setattr(Diagnosis, "steps", steps)
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("check_tracing", stdout=out, no_color=True)
    assert "forged" in out.getvalue()
    assert all(is_harmless(line) for line in out.getvalue().split("\n"))
    assert len(out.getvalue()) < 8000
