"""Test the spans of management commands, called in this process and in separate ones."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.test import override_settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from django_tracing import create_span, get_correlation_id, trace_function
from django_tracing.instrumentation import commands
from tests.conftest import Spans
from tests.e2e.processes import ROOT, environment
from tests.receivers import OTLPReceiver


class SendInvoices(BaseCommand):
    __module__ = "shop.management.commands.send_invoices"

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--fail", default="")

    def handle(self, *args: Any, **options: Any) -> str | None:
        if options["fail"] == "command":
            raise CommandError("no invoices for token=hunter2", returncode=3)
        if options["fail"] == "exit":
            sys.exit(4)
        if options["fail"] == "exit well":
            sys.exit(0)
        if options["fail"]:
            raise RuntimeError("it broke")
        trace_function("step", lambda: None)
        return get_correlation_id()


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    with override_settings(TRACING={"EXPORTER": "none", "COMMANDS": ["send_invoices"]}):
        commands.install()
        yield
        commands.uninstall()


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return {
        key: value for key, value in (span.attributes or {}).items() if key.startswith(("command.", "operation."))
    }


def test_a_command_starts_a_trace(spans: Spans) -> None:
    correlation_id = call_command(SendInvoices())
    root, step = spans.one("command.send_invoices"), spans.one("step")
    assert root.parent is None
    assert step.parent is not None
    assert step.parent.span_id == root.get_span_context().span_id
    assert attributes_of(root) == {
        "operation.type": "command",
        "command.name": "send_invoices",
        "command.exit_status": 0,
    }
    assert (root.attributes or {})["correlation.id"] == (step.attributes or {})["correlation.id"] == correlation_id
    assert get_correlation_id() is None


def test_a_command_called_in_a_trace_is_a_span_of_it(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        assert call_command(SendInvoices()) == own
    parent = spans.one("command.send_invoices").parent
    assert parent is not None
    assert parent.span_id == spans.one("request").get_span_context().span_id


@pytest.mark.parametrize(
    ("fail", "error", "status"),
    [("command", CommandError, 3), ("exit", SystemExit, 4), ("bug", RuntimeError, 1)],
)
def test_a_failure_is_recorded_and_propagates(
    spans: Spans, fail: str, error: type[BaseException], status: int
) -> None:
    with pytest.raises(error):
        call_command(SendInvoices(), fail=fail)
    span = spans.one("command.send_invoices")
    assert attributes_of(span)["command.exit_status"] == status
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert "hunter2" not in span.to_json()


class Odd(BaseCommand):
    __module__ = "shop.management.commands.send_invoices"
    error: BaseException

    def handle(self, *args: Any, **options: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommandError("no code", returncode=None), 0),  # type: ignore[arg-type]
        (CommandError("words", returncode="many"), 1),  # type: ignore[arg-type]
        (SystemExit("words"), 1),
        (SystemExit(True), 1),
        (SystemExit(2**70), 1),
    ],
)
def test_any_exception_propagates(spans: Spans, error: BaseException, status: int) -> None:
    command = Odd()
    command.error = error
    with pytest.raises(type(error)) as raised:
        call_command(command)
    assert raised.value is error
    span = spans.one("command.send_invoices")
    assert repr(attributes_of(span)["command.exit_status"]) == str(status)
    assert span.status.status_code is StatusCode.ERROR


def test_exit_status_zero_is_not_an_error(spans: Spans) -> None:
    with pytest.raises(SystemExit):
        call_command(SendInvoices(), fail="exit well")
    span = spans.one("command.send_invoices")
    assert attributes_of(span)["command.exit_status"] == 0
    assert span.status.status_code is StatusCode.UNSET


def test_commands_that_are_not_listed_are_not_traced(spans: Spans) -> None:
    call_command("diffsettings", stdout=io.StringIO())
    assert spans.names == []


def test_true_means_all_commands_except_those_of_development(spans: Spans) -> None:
    with override_settings(TRACING={"EXPORTER": "none", "COMMANDS": True}):
        call_command(SendInvoices())
        call_command("check")
    assert spans.names == ["step", "command.send_invoices"]


def test_nothing_is_patched_when_disabled_or_no_command_is_listed() -> None:
    commands.uninstall()
    assert BaseCommand.execute.__module__ == "django.core.management.base"
    assert not hasattr(BaseCommand.execute, "__wrapped__")
    with override_settings(TRACING={"EXPORTER": "none"}):
        commands.install()
        assert not hasattr(BaseCommand.execute, "__wrapped__")


@pytest.mark.parametrize(
    ("arguments", "status"), [(["diffsettings"], 0), (["loaddata", "no-such-fixture-hunter2"], 1)]
)
def test_the_spans_of_a_short_command_arrive(arguments: list[str], status: int) -> None:
    with OTLPReceiver() as receiver:
        finished = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            env=environment(
                JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS=json.dumps({"COMMANDS": [arguments[0]]})
            ),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert finished.returncode == status, finished.stderr
        receiver.wait_for(lambda received: any(s.name == f"command.{arguments[0]}" for s in received))
        [span] = receiver.named(f"command.{arguments[0]}")
        assert span.attributes["command.exit_status"] == status
        assert "hunter2" not in str(span)
