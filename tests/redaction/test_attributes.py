"""Test the redaction of attributes set by users and libraries, and the user's REDACT."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from enum import Enum
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from django.test import Client, override_settings
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, StatusCode

from django_tracing import create_span, faults, set_span_attributes, spans
from django_tracing.conf.loading import get_settings, load
from django_tracing.export.wire import encode_spans
from django_tracing.instrumentation.upstream.processor import RedactedProcessor, UpstreamProcessor
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.sdk import ON_ENDING
from django_tracing.redaction import attributes as guidelines
from django_tracing.redaction.attributes import AttributeSanitizer, attribute_name
from django_tracing.semconv.names import Convention
from django_tracing.spans import runtime
from tests.redaction.test_text import CARD, JWT

RULES = AttributeSanitizer()


class Unknown:
    """An object whose text is a secret, or a query."""

    def __str__(self) -> str:
        raise AssertionError("its text was read")

    __repr__ = __str__


class Tier(Enum):
    PRO = "pro"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("order.id", "order.id"),
        ("orderId", "order_id"),
        ("Order ID", "order_id"),
        ("HTTPStatus", "http_status"),
        ("cart-items.count", "cart_items.count"),
        ("..a..b..", "a.b"),
        ("Größe", "gr_e"),
        ("token=hunter2zq", "token_redacted"),
        ("!!", "attribute"),
        ("a" * 300, "a" * 100),
    ],
)
def test_names_are_dotted_snake_case(name: str, expected: str) -> None:
    assert attribute_name(name) == expected


@given(st.text(max_size=200))
def test_every_name_becomes_valid(name: str) -> None:
    made = attribute_name(name)
    assert guidelines._NAME.fullmatch(made) or made[0].isdigit()
    assert attribute_name(made) == made


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("note", "x" * 200, "x" * 99 + "…"),
        ("note", "mail ada@example.com", "mail a***@example.com"),
        ("note", f"card {CARD}", "card [redacted]"),
        ("note", JWT, "[redacted]"),
        ("paid", int(CARD), "[redacted]"),
        ("count", 10**15, 10**15),
        ("share", 0.5, 0.5),
        ("ok", True, True),
        ("user_password", 7, "[redacted]"),
        ("session", ["a", "b"], "[redacted]"),
        ("notes", ["a", "token=b", 3], ["a", "token=[redacted]", 3]),
        ("raw", b"password=hunter2", "password=[redacted]"),
        ("id", UUID(int=1), str(UUID(int=1))),
        ("price", Decimal("1.50"), "1.50"),
        ("day", date(2026, 11, 23), "2026-11-23"),
        ("file", PurePosixPath("/tmp/x"), "/tmp/x"),  # noqa: S108
        ("tier", Tier.PRO, "pro"),
        ("client", ip_address("::1"), "::1"),
        # The SDK would send the values of a map, and the text of any object, as they are.
        ("form", {"password": "hunter2", "page": 2, "": 7}, {"password": "[redacted]", "page": 2}),
        ("form", {"note": "token=b", "a": {"password": "x"}}, {"note": "token=[redacted]", "a": "[redacted]"}),
        ("form", {"ada@example.com": 1}, {"a***@example.com": 1}),
        ("forms", [{"password": "hunter2"}, "token=b"], ["[redacted]", "token=[redacted]"]),
        ("flags", {"token=b"}, ["token=[redacted]"]),
        ("label", gettext_lazy("token=b"), "token=[redacted]"),
        ("user", Unknown(), "[redacted]"),
        ("users", [Unknown(), 1], ["[redacted]", 1]),
        ("size", 1 + 0j, "[redacted]"),
        ("url.full", "https://u:p@x.example/?token=a", "https://x.example/?token=[redacted]"),
        ("db.query.text", "SELECT 'Ada'", "SELECT ?"),
        ("exception.message", "got 'hunter2'", "got '?'"),
    ],
)
def test_values(key: str, value: Any, expected: Any) -> None:
    assert RULES.attributes({key: value}) == {key: expected}


def test_an_empty_name_is_left_out() -> None:
    """The SDK logs a line for each, and a client's JSON may have one."""
    assert RULES.attributes({"": 7, "a": 1}) == {"a": 1}


def test_no_secret_of_a_map_is_sent(spans: Any) -> None:
    secret = {"form": {"password": "hunter2"}, "forms": [{"password": "hunter2"}], "options": {"--password=hunter2"}}
    with create_span("signup", secret) as span:
        set_span_attributes(secret)
        span.set_attributes({"more": secret})
        trace_api.get_current_span().set_attribute("again", secret)
        trace_api.get_current_span().add_event("sent", secret)
    assert b"password" in encode_spans(list(spans))
    assert b"hunter2" not in encode_spans(list(spans))


def test_a_large_map_is_bounded() -> None:
    [value] = RULES.attributes({"form": {f"name{number}" * 100: "x" * 500 for number in range(5000)}}).values()
    assert len(value) <= 100
    assert all(len(name) <= 100 and len(text) <= 100 for name, text in value.items())


def test_a_name_is_no_longer_than_100_characters() -> None:
    assert len(attribute_name("aB" * 50)) <= 100


def test_none_is_left_out_and_unreadable_values_are_redacted() -> None:
    class Odd(str):
        def __str__(self) -> str:
            raise RuntimeError

    assert RULES.attributes({"a": None, "b": Odd("hunter2")}) == {"b": "[redacted]"}


def test_settings_add_names_and_length() -> None:
    rules = AttributeSanitizer(("iban",), 16)
    assert rules.attributes({"customerIban": "DE1", "note": "x" * 20}) == {
        "customer_iban": "[redacted]",
        "note": "x" * 15 + "…",
    }


# ----- REDACT


def redact(key: str, value: Any) -> Any:
    if key == "secret.plan":
        return None
    if key == "broken":
        raise RuntimeError(f"no idea what to do with {value}")
    return value.replace("Ada", "A.") if isinstance(value, str) else value


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    """Yield the spans of a separate provider with ``TRACING["REDACT"]``, which the helpers use in the test."""
    exporter = InMemorySpanExporter()
    own = TracerProvider()
    upstream = UpstreamProcessor()
    own.add_span_processor(upstream)
    if hasattr(SpanProcessor, ON_ENDING):
        own.add_span_processor(SimpleSpanProcessor(exporter))
    else:  # Old SDKs do not let spans be changed in place: exporters are given redacted copies.
        own.add_span_processor(RedactedProcessor([SimpleSpanProcessor(exporter)], upstream, lambda: None))
    rules = AttributeSanitizer(redact=redact)
    before = runtime.current
    tracer = own.get_tracer(spans.SCOPE_NAME)
    factory = SpanFactory.of(tracer, None, (UpstreamProcessor,), rules)
    assert factory is not None
    runtime.use(before.replace(tracer=tracer, convention=Convention(), factory=factory, sanitizer=rules))
    exporter.tracer = own.get_tracer("shop")  # type: ignore[attr-defined]
    yield exporter
    runtime.use(before)
    own.shutdown()


GIVEN = {"note": "by Ada", "secret.plan": "x", "broken": "hunter2", "count": 3}


def test_redact_is_applied_last(exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture) -> None:
    faults._faults.by_key.clear()
    with create_span("ours") as ours:
        set_span_attributes(GIVEN)
        ours.add_event("event", GIVEN)
        ours.span.add_link(trace_api.SpanContext(1, 2, is_remote=False), GIVEN)
        ours.span.set_status(StatusCode.ERROR, "Ada failed")
    link = Link(trace_api.SpanContext(1, 2, is_remote=False), GIVEN)
    theirs = exporter.tracer.start_span("theirs", attributes=GIVEN, links=[link])  # type: ignore[attr-defined]
    theirs.add_event("event", GIVEN)
    theirs.set_status(StatusCode.ERROR, "Ada failed")
    theirs.end()
    assert len(exporter.get_finished_spans()) == 2
    for span in exporter.get_finished_spans():
        attributes = dict(span.attributes or {})
        attributes.pop("correlation.id", None)
        assert attributes == {"note": "by A.", "count": 3}
        assert [dict(event.attributes or {}) for event in span.events] == [{"note": "by A.", "count": 3}]
        assert [dict(one.attributes or {}) for one in span.links] == [{"note": "by A.", "count": 3}]
        assert span.status.description == "A. failed"
    warnings = [record for record in caplog.records if record.name == "django_tracing"]
    assert [record.levelno for record in warnings] == [logging.WARNING], "once, not for every span"
    assert "hunter2" not in caplog.text


@pytest.mark.usefixtures("db")
def test_it_also_receives_attributes_of_this_app(exporter: InMemorySpanExporter) -> None:
    Client().get("/empty/", headers={"user-agent": "Ada's browser"})
    [span] = exporter.get_finished_spans()
    assert (span.attributes or {})["http.user_agent"] == "A.'s browser"


def test_the_setting_takes_a_function_or_its_path() -> None:
    assert load({"REDACT": redact}, {}).redact is redact
    assert load({"REDACT": f"{__name__}.redact"}, {}).redact is redact
    for wrong, hint in (
        ("nowhere.redact", "can't be imported"),
        ("redact", "not a dotted path"),
        (7, "must be callable"),
    ):
        [problem] = load({"REDACT": wrong}, {}).problems
        assert (problem.source, problem.setting) == ('TRACING["REDACT"]', "REDACT")
        assert hint in problem.message


def test_commands_are_a_list_or_true() -> None:
    assert load({"COMMANDS": True}, {}).commands is True
    assert load({"COMMANDS": ["a"]}, {}).commands == ("a",)
    assert load({"COMMANDS": False}, {}).commands == ()
    assert load({"COMMANDS": "a"}, {}).problems
    with override_settings(TRACING={"SENSITIVE_KEYS": ["iban"]}):
        assert get_settings().sensitive_keys == ("iban",)


@pytest.mark.parametrize("name", ["db.system", "db.system.name"])
@pytest.mark.parametrize("statement", ["db.statement", "db.query.text"])
def test_a_statement_is_parsed_for_its_system(name: str, statement: str) -> None:
    text = "SELECT \"a\" FROM \"t\" WHERE b = 'C:\\' AND c = 'zqsecret'"
    read = {
        system: AttributeSanitizer().attributes({statement: text, name: system})[statement]
        for system in ("postgresql", "cockroachdb", "mariadb", "spanner", "")
    }
    assert read == {
        "postgresql": 'SELECT "a" FROM "t" WHERE b = ? AND c = ?',
        "cockroachdb": 'SELECT "a" FROM "t" WHERE b = ?',
        "mariadb": "SELECT ? FROM ? WHERE b = ?",
        "spanner": "SELECT ? FROM ? WHERE b = ?",
        "": "SELECT ? FROM ? WHERE b = ?",
    }
    assert AttributeSanitizer().attributes({statement: text})[statement] == read[""]
