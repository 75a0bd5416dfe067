"""The functions that use private names of the SDK, one by one."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, SpanProcessor, SynchronousMultiSpanProcessor
from opentelemetry.trace import NoOpTracer, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from django_tracing.recording import sdk
from tests.export.builders import Recorder
from tests.recording.test_span import Source

LINKED = SpanContext(1, 2, is_remote=True)


@pytest.mark.parametrize("value", [None, "true", "false"])
def test_a_provider_traces_whatever_the_environment_says(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    if value is not None:
        monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    provider = sdk.make_provider(shutdown_on_exit=False)
    assert provider.get_tracer("shop").start_span("span").is_recording()
    # Other providers of the process are as the environment says.
    assert os.environ.get("OTEL_SDK_DISABLED") == value


def test_a_resource_is_merged_into_that_of_the_provider_and_its_tracers() -> None:
    recorder = Recorder()
    sdk.set_resource(recorder.provider, recorder.tracer, Resource({"more": 1}))
    recorder.tracer.start_span("span").end()
    (span,) = recorder.spans
    assert (span.resource.attributes["more"], span.resource.attributes["service.name"]) == (1, "shop")
    # An old SDK, or another provider.
    sdk.set_resource(object(), recorder.tracer, Resource({"most": 2}))
    assert recorder.tracer.resource.attributes["most"] == 2
    assert recorder.tracer.resource.attributes["service.name"] == "shop"
    sdk.set_resource(object(), NoOpTracer(), Resource({"most": 2}))


def test_which_processors_a_provider_calls_itself() -> None:
    held, other = SpanProcessor(), SpanProcessor()
    for multi in (SynchronousMultiSpanProcessor(), ConcurrentMultiSpanProcessor(2)):
        multi.add_span_processor(held)
        assert sdk.holds(multi, held)
        assert not sdk.holds(multi, other)

    class Filtering(SynchronousMultiSpanProcessor):
        pass

    filtering = Filtering()
    filtering.add_span_processor(held)
    assert not sdk.holds(filtering, held)
    assert not sdk.holds(held, held)


def test_the_processors_of_a_provider_can_be_replaced() -> None:
    recorder = Recorder()
    (known,) = sdk.processors_of(recorder.provider)
    new = SpanProcessor()
    sdk.set_processors(recorder.provider, (new, known))
    assert sdk.processors_of(recorder.provider) == (new, known)
    with pytest.raises(AttributeError):
        sdk.processors_of(object())


def test_the_tracers_of_a_provider() -> None:
    recorder, other = Recorder(), Recorder()
    more = recorder.provider.get_tracer("more")
    assert {id(tracer) for tracer in sdk.tracers_of(recorder.provider)} == {id(recorder.tracer), id(more)}
    # An old SDK does not keep them.
    old: Any = SimpleNamespace(_active_span_processor=recorder.tracer.span_processor)
    assert {id(tracer) for tracer in sdk.tracers_of(old)} == {id(recorder.tracer), id(more)}
    assert [id(tracer) for tracer in sdk.tracers_of(other.provider)] == [id(other.tracer)]


def test_the_propagators_of_a_composite_one() -> None:
    one = TraceContextTextMapPropagator()
    assert list(sdk.propagators_of(CompositePropagator([one]))) == [one]
    assert list(sdk.propagators_of(one)) == []


def test_an_old_instrumentor_is_asked_for_its_dependencies() -> None:
    missing = SimpleNamespace(instrumentation_dependencies=lambda: ["no-such-package >= 1"])
    assert "no-such-package" in str(sdk.dependency_conflict(missing))
    fitting = SimpleNamespace(instrumentation_dependencies=lambda: ["opentelemetry-api >= 1"])
    assert sdk.dependency_conflict(fitting) is None
    new = SimpleNamespace(_check_dependency_conflicts=lambda: "it")
    assert sdk.dependency_conflict(new) == "it"


def test_attributes_are_read_from_any_holder() -> None:
    assert sdk.plain_attributes(SimpleNamespace()) == {}
    assert sdk.plain_attributes(SimpleNamespace(attributes=None)) == {}
    assert sdk.plain_attributes(SimpleNamespace(attributes={"a": 1})) == {"a": 1}
    assert sdk.plain_attributes(Resource({"a": 1})) == {"a": 1}
    # A link or an event may have been made with a plain dict.
    assert sdk.plain_attributes(SimpleNamespace(_attributes={"a": 1}, attributes={"a": 1})) == {"a": 1}


def test_an_ended_span_of_another_tracer_is_changed() -> None:
    recorder = Recorder()
    span = recorder.tracer.start_span("span", attributes={"kept": 1, "dropped": 2, "changed": 3})
    span.add_event("event", {"dropped": 2})
    span.end()
    (ended,) = recorder.spans
    sdk.change_attributes(ended, {"changed": 4, "new": 5}, ["dropped"])
    assert dict(ended.attributes) == {"kept": 1, "changed": 4, "new": 5}
    sdk.change_attributes(ended.events[0], {}, ["dropped"])
    assert dict(ended.events[0].attributes) == {}
    sdk.set_name(ended, "other")
    sdk.set_status(ended, Status(StatusCode.ERROR))
    sdk.set_context(ended, LINKED)
    sdk.set_kind(ended, SpanKind.SERVER)
    assert (ended.name, ended.status.status_code, ended.context) == ("other", StatusCode.ERROR, LINKED)
    assert ended.kind is SpanKind.SERVER
    # It is closed again.
    with pytest.raises(TypeError):
        ended._attributes["more"] = 1


def test_attributes_are_closed_again_if_a_change_fails() -> None:
    holder = SimpleNamespace(_attributes=BoundedAttributes(None, {"a": 1}, True))
    with pytest.raises(KeyError):
        sdk.change_attributes(holder, {"a": 2}, ["nowhere"])
    with pytest.raises(TypeError):
        holder._attributes["a"] = 3
    opened = SimpleNamespace(_attributes=BoundedAttributes(None, {"a": 1}, False))
    sdk.change_attributes(opened, {}, [])
    opened._attributes["a"] = 3


@pytest.mark.parametrize("status", [None, Status(StatusCode.ERROR, "secret"), Status(StatusCode.OK)])
def test_of_a_span_that_is_cleared_its_status_is_left(status: Status | None) -> None:
    recorder = Recorder()
    span = recorder.tracer.start_span("secret", attributes={"a": "secret"}, links=None)
    span.add_event("secret")
    span.add_link(LINKED, {"a": "secret"})
    span.end()
    (ended,) = recorder.spans
    ended._status = status
    sdk.clear(ended, "cleared")
    assert (ended.name, dict(ended.attributes), list(ended.events), list(ended.links)) == ("cleared", {}, [], [])
    assert ended.status.status_code is (StatusCode.UNSET if status is None else status.status_code)
    assert ended.status.description is None


def test_the_kind_of_a_span_of_this_app_can_be_set() -> None:
    span = Source().start()
    sdk.set_kind(span, SpanKind.SERVER)
    assert span.kind is SpanKind.SERVER


def test_a_draft_has_the_content_of_a_span() -> None:
    recorder = Recorder()
    span = recorder.tracer.start_span("span", kind=SpanKind.CLIENT, attributes={"a": 1})
    span.add_event("event", {"b": 2})
    span.add_link(LINKED, {"c": 3})
    span.set_status(StatusCode.ERROR, "no")
    span.end()
    (ended,) = recorder.spans
    draft = sdk.SpanDraft(ended)
    assert (draft.name, draft.attributes, draft.kind) == ("span", {"a": 1}, SpanKind.CLIENT)
    assert draft.status == ended.status and draft.instrumentation_scope == ended.instrumentation_scope
    (event,), (link,) = sdk.events_of(draft), sdk.links_of(draft)
    assert (event.name, event.attributes, link.attributes) == ("event", {"b": 2}, {"c": 3})
    sdk.set_name(draft, "other")
    draft.attributes["a"] = event.attributes["b"] = 4
    assert (draft.name, dict(ended.attributes), dict(ended.events[0].attributes)) == ("other", {"a": 1}, {"b": 2})
    bare: Any = SimpleNamespace(name="bare", status=None, attributes=None, events=(), links=())
    assert sdk.SpanDraft(bare).attributes == {}


def test_whether_the_sdk_counts_spans() -> None:
    assert not sdk.records_metrics(Recorder().tracer)
    counting: Any = SimpleNamespace(_tracer_metrics=object())
    assert sdk.records_metrics(counting)
    old: Any = SimpleNamespace()
    assert not sdk.records_metrics(old)
    assert sdk.is_enabled(old)
