"""What the probe says of an SDK that does something else than today's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, SynchronousMultiSpanProcessor
from opentelemetry.trace import Status, StatusCode

from django_tracing.recording import probe as module
from django_tracing.recording.probe import Abilities
from django_tracing.recording.sdk import ON_ENDING

Changed = tuple[type, str, Any]
#: Old SDKs don't call processors before a span ends: redaction in place is not possible with them.
IN_PLACE = hasattr(SpanProcessor, ON_ENDING)


def nothing(*args: Any, **kwargs: Any) -> None:
    pass


def returning(value: Any) -> Any:
    return property(lambda self: value)


def twice(method: Callable[..., Any]) -> Callable[..., None]:
    def call(*args: Any, **kwargs: Any) -> None:
        method(*args, **kwargs)
        method(*args, **kwargs)

    return call


def probed(monkeypatch: pytest.MonkeyPatch, *changes: Changed) -> Abilities:
    for owner, name, value in changes:
        monkeypatch.setattr(owner, name, value)
    # Without the cache: the result is not that of this process.
    return module.probe.__wrapped__()


def test_all_works_with_this_sdk(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert probed(monkeypatch) == Abilities(True, IN_PLACE, True)
    assert caplog.records == []


@pytest.mark.parametrize("method", ["add_event", "add_link", "set_status"])
def test_methods_that_store_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This app's spans use the SDK's methods for what is rare. The status that redaction sets is another one."""
    works = method == "set_status"
    assert probed(monkeypatch, (Span, method, nothing)) == Abilities(False, works and IN_PLACE, works)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "another"),
        ("attributes", {}),
        ("attributes", {"changed": "kept", "more": "of it"}),
        ("events", ()),
        ("links", ()),
        ("status", Status(StatusCode.OK)),
        ("status", Status(StatusCode.ERROR, module._SECRET)),
        ("start_time", None),
        ("end_time", None),
        ("resource", Resource({})),
        ("instrumentation_scope", None),
    ],
)
def test_spans_that_are_read_otherwise(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    abilities = probed(monkeypatch, (ReadableSpan, name, returning(value)))
    assert not abilities.redaction_in_place


def test_an_exporter_that_would_read_what_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of them read the public attributes."""

    def to_json(self: Any, indent: int | None = 4) -> str:
        return module._SECRET

    assert not probed(monkeypatch, (ReadableSpan, "to_json", to_json)).own_spans


def test_attributes_that_cannot_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    abilities = probed(monkeypatch, (BoundedAttributes, "__delitem__", nothing))
    # Copies have other attributes, which can.
    assert abilities == Abilities(True, False, True)


def test_processors_that_are_given_each_span_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = twice(SynchronousMultiSpanProcessor.on_end)
    abilities = probed(monkeypatch, (SynchronousMultiSpanProcessor, "on_end", changed))
    assert not abilities.redaction_in_place


def test_what_does_not_work_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "django_tracing")
    assert probed(monkeypatch, (Span, "add_event", None)) == Abilities(False, False, False)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2
    assert "requests are traced with the SDK's own spans, which cost more, and SAMPLE_RATE alone" in lines[0]
    assert 'They are dropped, and counted as "unredacted".' in lines[1]
    # The cause is for whoever looks for it.
    causes = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert causes and all(record.exc_info and "is not as expected" in record.getMessage() for record in causes)
