"""Which tracers this app makes spans for."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider

from django_tracing import faults
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import context_of
from django_tracing.recording.undecided import SamplingDecision
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


def test_processors_of_any_type() -> None:
    """Users' processors may lack methods, and raise."""
    calls: list[str] = []

    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            calls.append("broken on_start")
            raise SystemExit(3)

        def on_end(self, span: Any) -> None:
            calls.append("broken on_end")
            raise ValueError("broken")

    class Partial:
        on_end = None

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            calls.append("partial on_start")

    class Hiding:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("nothing here")

    source = Source()
    for processor in (Broken(), Partial(), Hiding()):
        source.provider.add_span_processor(processor)  # type: ignore[arg-type]
    source.start().end()
    assert calls == ["broken on_start", "partial on_start", "broken on_end"]
    # The first one is not kept from its work.
    assert [span.name for span in source.kept.ended] == ["span"]


def test_a_processor_that_raises_is_named_in_the_log_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: Any) -> None:
            raise ValueError("secret")

    monkeypatch.setattr(faults, "_faults", faults._Faults())
    source = Source()
    source.provider.add_span_processor(Broken())
    for _ in range(3):
        source.start().end()
    (record,) = caplog.records
    name = Broken.__qualname__
    assert record.getMessage() == f"The span processor {name} raised ValueError; it is passed over."


def test_processors_that_spans_of_this_app_are_not_passed_to() -> None:
    class Upstream(SpanProcessor):
        def on_end(self, span: Any) -> None:
            raise AssertionError("a span of this app")

    source = Source()
    source.provider.add_span_processor(Upstream())
    factory = SpanFactory.of(source.sdk, lambda parent, trace_id: True, (Upstream,))
    assert factory is not None
    factory.start("span", Context(), trace.SpanKind.INTERNAL, (), None).end()
    assert [span.name for span in source.kept.ended] == ["span"]


REMOTE = trace.SpanContext(1 << 100, 7, True, trace.TraceFlags(0), trace.TraceState([("vendor", "x")]))


def failed_of(source: Source, parent: trace.SpanContext | None) -> trace.Span:
    context = Context()
    if parent is not None:
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
    return source.factory.start_failed("GET /", context, (SharedAttributes({"a": 1}),), 5, None)


def test_a_failed_request_whose_caller_did_not_keep_the_trace() -> None:
    source = Source()
    parts = SharedAttributes({"b": 2})
    source.factory.decide_failed = lambda state, name, parent: SamplingDecision(True, None, parts)
    span: Any = failed_of(source, REMOTE)
    assert (span.name, span.kind, span.start_time) == ("GET /", trace.SpanKind.SERVER, 5)
    assert span.parent == REMOTE and span.parent.is_remote
    assert (span.context.trace_id, span.context.trace_state) == (REMOTE.trace_id, REMOTE.trace_state)
    assert int(span.context.trace_flags) == 1
    assert dict(span.attributes) == {"a": 1, "b": 2}
    source.factory.decide_failed = lambda state, name, parent: SamplingDecision(True)
    plain: Any = failed_of(source, REMOTE)
    assert dict(plain.attributes) == {"a": 1}


@pytest.mark.parametrize(
    "parent",
    [
        None,
        trace.INVALID_SPAN_CONTEXT,
        trace.SpanContext(1, 2, False, trace.TraceFlags(0)),
        trace.SpanContext(1, 2, True, trace.TraceFlags(1)),
    ],
)
def test_a_failed_request_that_was_decided_here_gets_no_second_span(parent: trace.SpanContext | None) -> None:
    source = Source()
    source.factory.decide_failed = lambda state, name, parent: SamplingDecision(True)
    assert failed_of(source, parent) is trace.INVALID_SPAN


def test_a_failed_request_that_this_site_would_not_keep_gets_no_span() -> None:
    source = Source()
    source.factory.decide_failed = lambda state, name, parent: SamplingDecision(False)
    assert failed_of(source, REMOTE) is trace.INVALID_SPAN
    source.factory.decide_failed = None
    assert failed_of(source, REMOTE) is trace.INVALID_SPAN


@pytest.mark.parametrize("current", [None, object(), "x", trace.INVALID_SPAN, NotImplemented])
def test_anything_may_be_the_current_span(current: Any) -> None:
    context = Context({**trace.set_span_in_context(trace.INVALID_SPAN, Context())})
    key = next(iter(context))
    span = Source().start(context=Context({} if current is None else {key: current}))
    assert span.is_recording()
    assert span.parent is None and not span.remote


def test_a_span_of_another_library_that_raises_is_no_parent() -> None:
    class Raising(trace.NonRecordingSpan):
        def get_span_context(self) -> Any:
            raise RuntimeError("no context")

    class Strange(trace.NonRecordingSpan):
        def get_span_context(self) -> Any:
            return "strange"

    for span in (Raising(trace.INVALID_SPAN_CONTEXT), Strange(trace.INVALID_SPAN_CONTEXT)):
        assert context_of(span) is trace.INVALID_SPAN_CONTEXT
    assert context_of(trace.NonRecordingSpan(REMOTE)) is REMOTE


def test_a_limit_of_none_is_no_limit() -> None:
    source = Source(span_limits=SpanLimits(max_span_attributes=SpanLimits.UNSET))
    span = source.start()
    span.set_attributes({f"a{number}": number for number in range(2000)})
    span.end()
    assert len(span.attributes) == 2000
    assert span.dropped_attributes == 0
