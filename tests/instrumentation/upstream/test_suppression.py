"""Test that an operation is one span where OpenTelemetry's instrumentation of it does not look up that it is suppressed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind

from django_tracing.context.current import with_suppressed_span
from django_tracing.instrumentation.upstream.processor import RedactedProcessor, UpstreamProcessor
from django_tracing.recording.sdk import ON_ENDING
from django_tracing.recording.undecided import SamplingDecision, UndecidedTrace, late, undecided_traces

in_place = pytest.mark.skipif(not hasattr(SpanProcessor, ON_ENDING), reason="old SDKs do not change spans in place")


class Site:
    """Instrumentations that another tool has switched on, as old ones are: with a plain tracer."""

    def __init__(self, *, redaction_in_place: bool) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        upstream = UpstreamProcessor(in_place=redaction_in_place)
        exporting = SimpleSpanProcessor(self.exporter)
        self.provider.add_span_processor(upstream)
        self.provider.add_span_processor(
            exporting if redaction_in_place else RedactedProcessor([exporting], upstream, lambda: None)
        )
        self.shop = self.provider.get_tracer("shop")
        self.redis = self.provider.get_tracer("opentelemetry.instrumentation.redis")

    def use_the_cache(self) -> None:
        cache = self.shop.start_span("cache.get")
        token = context_api.attach(with_suppressed_span(cache))
        with self.redis.start_as_current_span("GET", kind=SpanKind.CLIENT), self.redis.start_as_current_span("AUTH"):
            pass
        self.shop.start_span("of the user").end()
        context_api.detach(token)
        cache.end()

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]


@pytest.fixture(params=[pytest.param(True, marks=in_place), False], ids=["in place", "in copies"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(redaction_in_place=request.param)
    yield site
    site.provider.shutdown()


def test_what_an_old_instrumentation_starts_below_our_span_is_left_out(site: Site) -> None:
    with site.shop.start_as_current_span("request"):
        site.use_the_cache()
        site.redis.start_span("SET", kind=SpanKind.CLIENT).end()
    assert site.names == ["of the user", "cache.get", "SET", "request"]


def test_it_is_left_out_of_an_undecided_trace(site: Site) -> None:
    kept: list[ReadableSpan] = []
    late.append(kept.append)
    undecided = UndecidedTrace(7, lambda last: SamplingDecision(True))
    undecided_traces[7] = undecided
    parent = trace.NonRecordingSpan(SpanContext(7, 8, is_remote=False, trace_flags=trace.TraceFlags(1)))
    token = context_api.attach(trace.set_span_in_context(parent, Context()))
    try:
        site.use_the_cache()
        undecided.reconsider()
        assert kept == []
        assert site.names == ["of the user", "cache.get"]
    finally:
        context_api.detach(token)
        late.remove(kept.append)
        del undecided_traces[7]
