"""Test redacted copies of other tracers' spans, for SDKs that don't allow changing spans in place."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy as copied
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    ReadableSpan,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from django_tracing import provider as provider_module
from django_tracing.context.request import RequestState, with_request_state
from django_tracing.export.queue import QueueProcessor
from django_tracing.instrumentation.upstream import processor as processor_module
from django_tracing.instrumentation.upstream.processor import UpstreamProcessor
from django_tracing.recording import copies, sdk
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.probe import Abilities
from django_tracing.recording.sdk import ON_ENDING
from django_tracing.recording.undecided import SamplingDecision, UndecidedTrace, late, undecided_traces
from django_tracing.redaction.attributes import AttributeSanitizer
from django_tracing.spans import collector, runtime

LINKED = SpanContext(1, 2, is_remote=True)
IN_COPIES = Abilities(own_spans=True, redaction_in_place=False, redaction_of_copies=True)


class Site:
    """A provider with an exporter before and one after this app's processors, whose spans are redacted in copies."""

    def __init__(self, **options: Any) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.before, self.behind, self.queued = (InMemorySpanExporter() for _ in range(3))
        self.queue = QueueProcessor(self.queued, export_interval=600)
        self.provider.add_span_processor(SimpleSpanProcessor(self.before))
        provider_module._add_processors(self.provider, IN_COPIES, [self.queue])
        self.provider.add_span_processor(SimpleSpanProcessor(self.behind))

    def span(self, scope: str = "shop", context: Context | None = None, **options: Any) -> trace.Span:
        return self.provider.get_tracer(scope).start_span("span", context or Context(), **options)

    def received(self) -> list[tuple[ReadableSpan, ...]]:
        assert self.queue.force_flush(5000)
        return [exporter.get_finished_spans() for exporter in (self.before, self.behind, self.queued)]


@pytest.fixture(params=[None, ConcurrentMultiSpanProcessor])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(**({} if request.param is None else {"active_span_processor": request.param()}))
    yield site
    site.provider.shutdown()


def secretive(span: trace.Span) -> None:
    span.set_attributes({"password": "hunter2", "db.system": "postgresql", "db.statement": "SELECT 'hunter2' FROM a"})
    span.add_event("password=hunter2", {"password": "hunter2", "count": 3}, 5)
    span.add_link(LINKED, {"token": "hunter2"})
    span.set_status(StatusCode.ERROR, "password=hunter2")
    span.end()


@pytest.mark.skipif(not hasattr(SpanProcessor, ON_ENDING), reason="old SDKs do not let spans be changed in place")
def test_every_exporter_receives_the_same_as_with_redaction_in_place(site: Site) -> None:
    plain = TracerProvider(shutdown_on_exit=False)
    in_place = InMemorySpanExporter()
    plain.add_span_processor(UpstreamProcessor())
    plain.add_span_processor(SimpleSpanProcessor(in_place))
    for scope in ("shop", "opentelemetry.instrumentation.psycopg"):
        secretive(site.span(scope, kind=SpanKind.CLIENT))
        secretive(plain.get_tracer(scope).start_span("span", Context(), kind=SpanKind.CLIENT))
    for received in site.received():
        for copy, expected in zip(received, in_place.get_finished_spans(), strict=True):
            assert "hunter2" not in copy.to_json()
            assert (copy.name, copy.kind, copy.status.status_code) == (
                expected.name,
                expected.kind,
                expected.status.status_code,
            )
            assert dict(copy.attributes or {}) == dict(expected.attributes or {})
            [event], [theirs] = copy.events, expected.events
            assert (event.name, dict(event.attributes or {}), event.timestamp) == (
                theirs.name,
                dict(theirs.attributes or {}),
                5,
            )
            assert [(link.context, dict(link.attributes or {})) for link in copy.links] == [
                (LINKED, {"token": "[redacted]"})
            ]
            assert copy.status.description == expected.status.description
            assert copy.instrumentation_scope == expected.instrumentation_scope
            assert None not in (copy.start_time, copy.end_time, copy.context)


def test_the_counts_of_dropped_items_are_copied() -> None:
    site = Site()
    span = site.span()
    span.set_attributes({f"a{number}": number for number in range(200)})
    for _ in range(210):
        span.add_event("e", {f"a{number}": number for number in range(220)})
    for _ in range(230):
        span.add_link(LINKED, {f"a{number}": number for number in range(240)})
    span.end()
    [[one], *_] = site.received()
    assert (one.dropped_attributes, one.dropped_events, one.dropped_links) == (72, 82, 102)
    assert (one.events[0].dropped_attributes, one.links[0].dropped_attributes) == (92, 112)
    site.provider.shutdown()


def test_spans_of_this_app_are_passed_on_unchanged(site: Site) -> None:
    factory = SpanFactory.of(site.provider.get_tracer("ours"), passed_by=(UpstreamProcessor,))
    assert factory is not None
    span = factory.start("ours", Context(), SpanKind.SERVER, (), {"password": "set by this app"})
    span.end()
    for (received,) in site.received():
        assert received is span


def test_the_requests_attributes_and_this_apps_names_are_kept(site: Site) -> None:
    state = RequestState("c0ffeec0ffeec0ffeec0ffeec0ffee99")
    context = with_request_state(state, Context())
    site.span(context=context).end()
    for (received,) in site.received():
        assert dict(received.attributes or {}) == {"correlation.id": state.correlation_id}


def test_copies_are_collected_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "probe", lambda: IN_COPIES)
    site = Site()
    site.provider.add_span_processor(collector._Collector())
    state = RequestState("c0ffee")
    collected = collector.collect(state)
    secretive(site.span(context=with_request_state(state, Context())))
    [span] = collected
    assert "hunter2" not in span.to_json()
    site.provider.shutdown()


def test_a_span_that_cannot_be_redacted_loses_its_content(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_module, "redact_content", broken)
    secretive(site.span("opentelemetry.instrumentation.some"))
    for (received,) in site.received():
        assert (received.name, dict(received.attributes or {}), received.events) == ("some", {}, ())
        assert received.status.status_code is StatusCode.ERROR
        assert "hunter2" not in received.to_json()


def broken(*args: Any) -> Any:
    raise RuntimeError("not as expected")


@pytest.mark.parametrize(("module", "name"), [(processor_module, "copy_span"), (copies, "SpanCopy")])
def test_a_span_that_cannot_be_copied_is_dropped_and_counted(
    module: Any, name: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    secretive(site.span())
    assert site.received() == [(), (), ()]
    assert site.queue.counters.snapshot()["dropped"] == {"unredacted": 1}


class Hidden:
    """A provider of another library that wraps the SDK's provider and hides it."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def add_span_processor(self, processor: Any) -> None:
        self._provider.add_span_processor(processor)

    def get_tracer(self, *args: Any) -> object:
        return object()


def test_with_another_librarys_provider_the_queue_receives_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = TracerProvider(shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    queue = QueueProcessor(exporter, export_interval=600)
    provider_module._add_processors(Hidden(inside), IN_COPIES, [queue])
    secretive(inside.get_tracer("shop").start_span("span", Context()))
    assert inside.force_flush(5000)
    [sent] = exporter.get_finished_spans()
    assert "hunter2" not in sent.to_json()
    monkeypatch.setattr(processor_module, "copy_span", broken)
    secretive(inside.get_tracer("shop").start_span("span", Context()))
    assert inside.force_flush(5000)
    assert len(exporter.get_finished_spans()) == 1
    assert queue.counters.snapshot()["dropped"] == {"unredacted": 1}
    inside.shutdown()


class OwnMulti(SpanProcessor):
    """A user's ``active_span_processor`` that doesn't implement the experimental OnEnding."""

    def __init__(self) -> None:
        self.processors: list[SpanProcessor] = []

    def add_span_processor(self, processor: SpanProcessor) -> None:
        self.processors.append(processor)

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        for processor in self.processors:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self.processors:
            processor.on_end(span)


def test_spans_are_redacted_if_the_provider_does_not_call_on_ending() -> None:
    provider = TracerProvider(shutdown_on_exit=False, active_span_processor=OwnMulti())  # type: ignore[arg-type]
    exported = InMemorySpanExporter()
    provider_module._add_processors(provider, IN_COPIES._replace(redaction_in_place=True), [])
    provider.add_span_processor(SimpleSpanProcessor(exported))
    secretive(provider.get_tracer("shop").start_span("span", Context()))
    (span,) = exported.get_finished_spans()
    assert "hunter2" not in span.to_json()
    assert span.events[0].attributes == {"password": "[redacted]", "count": 3}


class Silent(SynchronousMultiSpanProcessor):
    """What does not announce that a span is ending: its method for it does nothing."""

    def _on_ending(self, span: Any) -> None:
        pass


class Copying(SynchronousMultiSpanProcessor):
    """What announces the end of a copy: a change in place changes nothing that processors get."""

    def _on_ending(self, span: Any) -> None:
        ending = copied(span)
        ending._attributes = BoundedAttributes(None, dict(span.attributes), immutable=False)
        super()._on_ending(ending)


class Adding(SynchronousMultiSpanProcessor):
    """What adds a secret when the span has been announced."""

    def _on_ending(self, span: Any) -> None:
        super()._on_ending(span)
        sdk.change_attributes(span, {"password": "hunter2"}, ())


class Fixed(Silent):
    """One that can't be changed."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "on_end":
            raise AttributeError(name)
        super().__setattr__(name, value)


class Wrapping(TracerProvider):
    """A provider that passes processors' public methods on."""

    def add_span_processor(self, span_processor: Any) -> None:
        super().add_span_processor(_Wrapped(span_processor))


class _Wrapped(SpanProcessor):
    def __init__(self, processor: SpanProcessor) -> None:
        self.on_start = processor.on_start  # type: ignore[method-assign]
        self.on_end = processor.on_end  # type: ignore[method-assign]
        self.force_flush = processor.force_flush  # type: ignore[method-assign]


MULTIS = [SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor, Silent, Copying, Adding, Fixed, OwnMulti]


@pytest.mark.parametrize("in_place", [True, False] if hasattr(SpanProcessor, ON_ENDING) else [False])
@pytest.mark.parametrize("kind", [TracerProvider, Wrapping])
@pytest.mark.parametrize("is_hidden", [True, False])
@pytest.mark.parametrize("multi", MULTIS)
def test_each_queue_gets_each_span_redacted_once_whatever_the_provider_does(
    multi: Any,
    is_hidden: bool,
    kind: Any,
    in_place: bool,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    def redact(key: str, value: Any) -> Any:
        return f"<{value}>"

    monkeypatch.setattr(runtime, "current", runtime.current.replace(sanitizer=AttributeSanitizer(redact=redact)))
    inside = kind(shutdown_on_exit=False, active_span_processor=multi())
    exporters = [InMemorySpanExporter() for _ in range(2)]
    queues = [QueueProcessor(exporter, export_interval=600) for exporter in exporters]
    outside: Any = Hidden(inside) if is_hidden else inside
    provider_module._add_processors(outside, IN_COPIES._replace(redaction_in_place=in_place), queues)
    request.addfinalizer(lambda: [queue.shutdown() for queue in queues])
    secretive(inside.get_tracer("shop").start_span("span", Context(), attributes={"plan": "team"}))
    for queue, exporter in zip(queues, exporters, strict=True):
        assert queue.force_flush(5000)
        [sent] = exporter.get_finished_spans()
        assert "hunter2" not in sent.to_json()
        if multi in (Copying, Adding) and in_place:
            # What they pass on is not what was redacted: all of it is redacted again.
            continue
        assert dict(sent.attributes or {})["plan"] == "<team>"
        assert sent.events[0].attributes == {"password": "<[redacted]>", "count": "<3>"}


@pytest.mark.parametrize("multi", [SynchronousMultiSpanProcessor, Silent])
def test_behind_a_provider_that_hides_the_sdk_a_late_decision_sends_each_span_once(multi: Any) -> None:
    inside = TracerProvider(shutdown_on_exit=False, active_span_processor=multi(), sampler=_Recorded())
    exporters = [InMemorySpanExporter() for _ in range(2)]
    queues = [QueueProcessor(exporter, export_interval=600) for exporter in exporters]
    provider_module._add_processors(Hidden(inside), IN_COPIES._replace(redaction_in_place=True), queues)
    late.extend(queue.on_end for queue in queues)
    undecided = UndecidedTrace(7, lambda last: SamplingDecision(True))
    undecided_traces[7] = undecided
    try:
        parent = trace.NonRecordingSpan(SpanContext(7, 8, is_remote=False))
        secretive(inside.get_tracer("shop").start_span("span", trace.set_span_in_context(parent, Context())))
        undecided.reconsider()
        for queue, exporter in zip(queues, exporters, strict=True):
            assert queue.force_flush(5000)
            [sent] = exporter.get_finished_spans()
            assert "hunter2" not in sent.to_json()
            queue.shutdown()
    finally:
        del undecided_traces[7], late[-2:]


class _Recorded(Sampler):
    """Record every span, as those of a trace that waits for its decision."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "recorded"
