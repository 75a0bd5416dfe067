"""Which tracers this app makes spans for."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.trace import TracerProvider

from django_tracing.recording.factory import SpanFactory
from tests.recording.test_span import Source, seen

disabled = getattr(sdk_trace, "_disable_tracer_configurator", None)


@pytest.mark.skipif(disabled is None, reason="this SDK can't disable a tracer")
def test_a_tracer_that_the_sdk_has_disabled_makes_no_spans() -> None:
    """Also one that is disabled later. What is below its caller stays in the caller's trace."""
    source = Source()
    assert source.start().is_recording()
    provider: Any = source.provider
    provider._set_tracer_configurator(tracer_configurator=disabled)
    assert not source.start().is_recording()
    caller = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))
    below = trace.set_span_in_context(trace.NonRecordingSpan(caller), Context())
    span = source.start(context=below)
    assert not span.is_recording()
    assert span.get_span_context() == caller
    assert [started.name for started, _ in source.kept.started] == ["span"]


def test_a_tracer_of_another_sdk_is_not_used_and_the_reason_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    tracer: Any = TracerProvider(shutdown_on_exit=False).get_tracer("shop")
    del tracer._span_limits
    with caplog.at_level(logging.DEBUG, "django_tracing"):
        assert SpanFactory.of(tracer) is None
    assert "The SDK's tracer is another one: its own spans are used." in caplog.text


def test_code_that_reads_the_attributes_of_the_sdks_span_finds_them() -> None:
    """Instrumentations, exporters and samplers of others do so."""
    source = Source()
    parent = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))
    below = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())
    ours = source.start("span", below, trace.SpanKind.SERVER, own={"a": 1})
    theirs = source.sdk.start_span("span", below, trace.SpanKind.SERVER, {"a": 1})
    for span in (ours, theirs):
        span.add_event("event", {"b": 2}, 3)
        span.add_link(parent, {"c": 4})
        span.set_status(trace.StatusCode.ERROR, "no")
        span.end(2**60)
    names = ("_name", "_kind", "_parent", "_resource", "_end_time", "_sampler", "_span_processor", "_limits")
    for name in (*names, "_instrumentation_scope", "_instrumentation_info"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert dict(ours._attributes) == dict(theirs._attributes)
    assert ours._context == ours.get_span_context()
    assert ours._start_time == ours.start_time
    assert ours._status.description == "no"
    # A copy that the SDK makes.
    assert seen(ours._readable_span()) == seen(theirs._readable_span())
