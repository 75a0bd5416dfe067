"""Test that the spans of this app behave like the SDK's spans."""

from __future__ import annotations

import gc
import io
import json
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_upstream
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    ReadableSpan,
    Span,
    SpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from django_tracing.export.wire import EncodedBatch, encode_span, encode_spans
from django_tracing.recording import undecided
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import RecordingSpan, UnsampledSpan
from django_tracing.sampling.sampler import RuleSampler
from tests.export.test_otlp import ATTRIBUTES, CONTEXTS, TEXT, VALUES

#: TraceFlags.RANDOM_TRACE_ID, which old SDKs don't have.
RANDOM_TRACE_ID = 2
KNOWS_RANDOM = hasattr(TraceFlags, "RANDOM_TRACE_ID")


class Kept(SpanProcessor):
    """A user's processor that records its calls."""

    def __init__(self) -> None:
        self.started: list[tuple[Span, Context | None]] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started.append((span, parent_context))

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


class Source:
    """A provider, and this app's spans made with it; ``sdk`` makes the SDK's spans with the same tracer."""

    def __init__(self, *, rate: float | None = 1.0, sampler: Sampler | None = None, **options: Any) -> None:
        ours = RuleSampler(rate if rate is not None else 1.0)
        self.provider = TracerProvider(
            sampler=sampler or ours,
            resource=Resource({"service.name": "shop"}),
            shutdown_on_exit=False,
            **options,
        )
        self.kept = Kept()
        self.provider.add_span_processor(self.kept)
        self.sdk = self.provider.get_tracer("tests", "1.0")
        factory = SpanFactory.of(self.sdk, None if sampler is not None else ours.keep)
        assert factory is not None
        self.factory = factory

    def start(
        self,
        name: str = "span",
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        parts: tuple[SharedAttributes, ...] = (),
        own: dict[str, Any] | None = None,
    ) -> Any:
        return self.factory.start(name, Context() if context is None else context, kind, parts, own)


# ----- Comparison with the SDK's spans

VALUE = VALUES | st.sampled_from([object(), ["a", 1], [b"x"], ("a", None), 2**80, "\ud800", b"\xff"])
KEYS = st.sampled_from(["a", "b", "db.rows", "", "é"]) | TEXT


def calls(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Generate calls of a span's methods as names and arguments."""
    return st.lists(
        st.one_of(
            st.tuples(st.just("set_attribute"), KEYS, values),
            st.tuples(st.just("set_attributes"), st.dictionaries(KEYS, values, max_size=4)),
            st.tuples(st.just("add_event"), TEXT, ATTRIBUTES, st.integers(0, 2**60)),
            st.tuples(st.just("add_link"), CONTEXTS, ATTRIBUTES),
            st.tuples(
                st.just("set_status"), st.sampled_from([Status(StatusCode.OK), Status(StatusCode.ERROR, "no")])
            ),
            st.tuples(st.just("set_status"), st.sampled_from(StatusCode), st.sampled_from([None, "why"])),
            st.tuples(st.just("update_name"), TEXT),
            st.tuples(st.just("record_exception"), st.sampled_from([ValueError("x"), KeyError("k")])),
            st.tuples(st.just("end"), st.integers(2**40, 2**41)),
        ),
        max_size=8,
    )


def seen(span: ReadableSpan) -> dict[str, Any]:
    """Return everything readable of a span except its ids and its start."""
    attributes = dict(span.attributes or {})
    return {
        "name": span.name,
        "kind": span.kind,
        "attributes": repr(sorted(attributes.items(), key=lambda item: item[0])),
        "events": [
            # The caller's lines in an exception's stack trace differ.
            (
                event.name,
                repr({k: v for k, v in (event.attributes or {}).items() if not k.endswith("stacktrace")}),
                event.name == "exception" or event.timestamp,
            )
            for event in span.events
        ],
        "links": [(link.context, repr(dict(link.attributes or {}))) for link in span.links],
        "status": (span.status.status_code, span.status.description),
        "ended": span.end_time is not None,
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "parent": span.parent,
        "resource": span.resource,
        "scope": span.instrumentation_scope,
        "remote": span.context is not None and span.context.is_remote,
        "trace_state": span.context and span.context.trace_state,
        "recording": span.is_recording() if isinstance(span, Span) else None,
    }


@settings(max_examples=100)
@given(calls(VALUE), ATTRIBUTES, st.none() | CONTEXTS, st.sampled_from(SpanKind))
def test_every_call_has_the_same_effect_as_on_the_sdks_span(made, attributes, parent, kind) -> None:
    logging.disable(logging.CRITICAL)
    try:
        source = Source()
        context = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
        theirs = source.sdk.start_span("span", context, kind, {**attributes, "shared": "x"})
        # BoundedAttributes validates attributes at the start; this app sets only attributes of plain types.
        plain = dict(theirs.attributes)
        plain.pop("shared")
        ours = source.start("span", context, kind, (SharedAttributes({"shared": "x"}),), plain or None)
        for name, *arguments in made:
            for span in (ours, theirs):
                with suppress(AttributeError, TypeError):
                    getattr(span, name)(*arguments)
        assert seen(ours) == seen(theirs)
        assert isinstance(ours, Span)
        assert isinstance(ours, ReadableSpan)
        for span in (ours, theirs):
            if span.end_time is None:
                span.end()
        copy = ours._readable_span()
        assert {**seen(copy), "recording": None} == {**seen(ours), "recording": None}
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("error", [None, ValueError("broken")])
def test_as_a_context_manager(error: Exception | None) -> None:
    source = Source()
    spans = [source.start(), source.sdk.start_span("span", Context())]
    for span in spans:
        with suppress(ValueError), span:
            if error is not None:
                raise error
    assert seen(spans[0]) == seen(spans[1])
    assert spans[0].end_time is not None


def test_calls_after_the_end_are_ignored_and_each_kind_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_tracing.faults._faults.by_key", {})
    span = Source().start(own={"a": 1})
    span.end(5)
    for _ in range(3):
        span.end(6)
        span.set_attribute("a", 2)
        span.update_name("other")
        span.add_event("late")
    assert (span.end_time, dict(span.attributes), span.name, span.events) == (5, {"a": 1}, "span", ())
    assert len(caplog.records) == 4


def test_json_is_the_same_as_the_sdks() -> None:
    source = Source()
    ours, theirs = source.start(own={"a": 1}), source.sdk.start_span("span", Context(), attributes={"a": 1})
    documents = []
    for span in (ours, theirs):
        span.add_event("e", {"b": 2}, 7)
        span.end()
        document = json.loads(span.to_json())
        for key in ("context", "start_time", "end_time"):
            assert document.pop(key)
        documents.append(document)
    assert documents[0] == documents[1]


def test_a_later_value_replaces_an_earlier_one() -> None:
    shared = SharedAttributes({"user.id": "1", "operation.type": "http"})
    source = Source()
    one = source.start(parts=(shared,))
    one.set_attribute("user.id", "2")
    one.set_attribute("mine", True)
    one.set_shared((SharedAttributes({"mine": False, "http.route": "/"}),))
    other = source.start(parts=(shared,))
    assert dict(one.attributes) == {"user.id": "2", "operation.type": "http", "mine": False, "http.route": "/"}
    assert dict(other.attributes) == dict(shared.attributes) == {"user.id": "1", "operation.type": "http"}


def test_the_limit_of_attributes_applies_and_dropped_ones_are_counted() -> None:
    source = Source()
    span = source.start(parts=(SharedAttributes({"shared": 1}),))
    span.set_attributes({f"a{number}": number for number in range(500)})
    span.end()
    assert len(span.attributes) <= 128
    assert len(span.attributes) + span.dropped_attributes == 501
    (decoded,) = decode(encode_spans([span]))
    assert decoded.dropped_attributes_count == span.dropped_attributes


def test_another_kind_of_tracer_is_used_unchanged() -> None:
    assert SpanFactory.of(trace.NoOpTracer()) is None


# ----- Encoding


def decode(message: bytes) -> list[Any]:
    decoded = ExportTraceServiceRequest.FromString(message)
    return [
        span
        for of_resource in decoded.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(TEXT, st.sampled_from(SpanKind), ATTRIBUTES, ATTRIBUTES, st.none() | CONTEXTS),
        min_size=1,
        max_size=5,
    ),
    calls(VALUES),
)
@pytest.mark.skipif(not KNOWS_RANDOM, reason="the encoder of old SDKs doesn't support null")
def test_is_encoded_like_the_sdks_encoder_and_not_longer(described, made) -> None:
    logging.disable(logging.CRITICAL)
    try:
        source = Source()
        spans = []
        for number, (name, kind, shared, own, parent) in enumerate(described):
            context = Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
            own = {key: value for key, value in own.items() if key not in shared}
            span = source.start(name, context, kind, (SharedAttributes(shared),), own)
            if not isinstance(span, RecordingSpan):
                continue
            for call, *arguments in made if number == 0 else ():
                with suppress(AttributeError, TypeError):
                    getattr(span, call)(*arguments)
            if span.end_time is None:
                span.end(span.start_time + number)
            spans.append(span)
        with suppress(UnicodeEncodeError):  # the SDK's encoder raises for a lone surrogate; this app's replaces it
            theirs = encode_upstream(spans)
            for _ in range(2):  # the second time, shared attributes are already encoded
                ours = encode_spans(spans)
                decoded = ExportTraceServiceRequest.FromString(ours)
                assert decoded.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)
                assert len(ours) <= theirs.ByteSize()
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("length", [0, 1, 90, 110, *range(118, 130), 250, 16_200, *range(16_250, 16_390, 7), 70_000])
def test_every_length_is_encoded_correctly(length: int) -> None:
    source = Source()
    span = source.start(
        "n" * min(length, 300),
        parts=(SharedAttributes({"shared": "é" + "s" * length}),),
        own={"o" * max(length // 2, 1): "o" * length, "i" * max(length, 1): 7, "b" * max(length, 1): True},
    )
    span.end()
    theirs = encode_upstream([span])
    assert ExportTraceServiceRequest.FromString(encode_spans([span])) == theirs


def test_a_batch_is_encoded_like_single_spans() -> None:
    source = Source()
    shared = SharedAttributes({"correlation.id": "c"})
    spans = []
    for number in range(100):
        span = source.start(f"span {number % 3}", parts=(shared,), own={"number": number})
        if number % 10 == 0:
            span.add_event("e")
            span.set_status(StatusCode.ERROR, "no")
        span.end()
        spans.append(span)
    batch = EncodedBatch()
    packed = batch.pack_all(spans)
    assert packed is not None
    batch.add_all(spans, *packed)
    message = b"".join(batch.message())
    assert message == encode_spans(spans)
    assert ExportTraceServiceRequest.FromString(message) == encode_upstream(spans)
    assert batch.count == 100
    assert batch.size == sum(len(encode_span(span)) for span in spans)


def test_spans_of_this_app_and_of_others_in_one_batch() -> None:
    source, other = Source(), Source()
    spans: list[Any] = []
    for number in range(4):
        spans += [source.start(f"ours {number}"), source.sdk.start_span("manual"), other.start("elsewhere")]
    for span in spans:
        span.end()
    assert EncodedBatch.pack_all(spans) is None
    assert EncodedBatch.pack_all([spans[0], spans[2]]) is None
    assert sorted(span.name for span in decode(encode_spans(spans))) == sorted(span.name for span in spans)
    spans = [span for span in spans if span.name != "elsewhere"]
    assert ExportTraceServiceRequest.FromString(encode_spans(spans)) == encode_upstream(spans)


# ----- The user's processors and exporters


def test_a_processor_can_change_a_span_at_its_start_and_reads_it_at_its_end() -> None:
    source = Source()

    class Tenant(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            assert span.attributes is not None
            span.set_attribute("tenant", f"{span.name}:{span.attributes['a']}")

        def _on_ending(self, span: Span) -> None:
            span.set_attribute("ending", span.end_time is not None)

    source.provider.add_span_processor(Tenant())
    span = source.start("one", own={"a": 1})
    span.end()
    (ended,) = source.kept.ended
    assert isinstance(ended, ReadableSpan)
    assert ended.attributes is not None
    assert ended.attributes["tenant"] == "one:1"
    assert source.kept.started[0][0] is span
    assert source.kept.started[0][1] == Context()


def test_a_processor_added_later_receives_later_spans() -> None:
    source = Source()
    source.start("before").end()
    exporter = InMemorySpanExporter()
    source.provider.add_span_processor(SimpleSpanProcessor(exporter))
    source.start("after").end()
    assert [span.name for span in exporter.get_finished_spans()] == ["after"]


def test_the_sdks_exporters_accept_them() -> None:
    source, out = Source(), io.StringIO()
    source.provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=out)))
    with source.start("shown", own={"a": [1, 2]}) as span:
        span.add_event("e")
    source.provider.force_flush()
    source.provider.shutdown()
    document = json.loads(out.getvalue())
    assert document["name"] == "shown"
    assert document["attributes"] == {"a": [1, 2]}


def test_concurrent_processors() -> None:
    processors = ConcurrentMultiSpanProcessor(2)
    source = Source(active_span_processor=processors)
    exporter = InMemorySpanExporter()
    source.provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = source.start("parent")
    source.start("child", trace.set_span_in_context(parent, Context())).end()
    parent.end()
    assert [span.name for span in exporter.get_finished_spans()] == ["child", "parent"]
    processors.shutdown()


# ----- The user's samplers and ids


class RecordingSampler(Sampler):
    """A sampler that returns given results and records its calls."""

    def __init__(self, answer: Callable[[str], SamplingResult]) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):  # type: ignore[no-untyped-def]
        self.calls.append((parent_context, name, kind, dict(attributes or {}), tuple(links or ())))
        return self.answer(name)

    def get_description(self) -> str:
        return "recording"


def test_a_custom_sampler_is_called_for_every_span() -> None:
    def answer(name: str) -> SamplingResult:
        if name == "dropped":
            return SamplingResult(Decision.DROP)
        state = TraceState([("v", name)])
        decision = Decision.RECORD_ONLY if name == "recorded" else Decision.RECORD_AND_SAMPLE
        return SamplingResult(decision, {"sampling.rule": "mine"}, state)

    sampler = RecordingSampler(answer)
    source = Source(sampler=sampler)
    root = source.start("root", kind=SpanKind.SERVER, parts=(SharedAttributes({"a": 1}),), own={"b": 2})
    below = trace.set_span_in_context(root, Context())
    recorded, dropped = source.start("recorded", below), source.start("dropped", below)
    assert sampler.calls == [
        (Context(), "root", SpanKind.SERVER, {"a": 1, "b": 2}, ()),
        (below, "recorded", SpanKind.INTERNAL, {}, ()),
        (below, "dropped", SpanKind.INTERNAL, {}, ()),
    ]
    assert dict(root.attributes) == {"a": 1, "b": 2, "sampling.rule": "mine"}
    assert root.context.trace_state == TraceState([("v", "root")])
    assert (recorded.is_recording(), recorded.context.trace_flags.sampled) == (True, False)
    assert not dropped.is_recording()
    assert recorded.parent == dropped.get_span_context().__class__(
        root.context.trace_id, root.context.span_id, False, root.context.trace_flags, root.context.trace_state
    )


def test_a_custom_id_generator() -> None:
    class Counting(IdGenerator):
        def __init__(self) -> None:
            self.last = 0

        def generate_span_id(self) -> int:
            self.last += 1
            return self.last

        def generate_trace_id(self) -> int:
            self.last += 1
            return self.last

    source = Source(id_generator=Counting())
    span = source.start()
    child = source.start("child", trace.set_span_in_context(span, Context()))
    assert (span.context.trace_id, span.context.span_id) == (1, 2)
    assert (child.context.trace_id, child.context.span_id) == (1, 3)
    assert not int(span.context.trace_flags) & RANDOM_TRACE_ID


@pytest.mark.parametrize("sampled", [True, False])
def test_a_remote_parent_is_followed(sampled: bool) -> None:
    flags = TraceFlags(int(sampled) | (RANDOM_TRACE_ID if KNOWS_RANDOM else 0))
    parent = SpanContext(2**100 + 5, 77, True, flags, TraceState([("vendor", "x")]))
    source = Source(rate=1.0)
    context = trace.set_span_in_context(NonRecordingSpan(parent), Context())
    ours, theirs = source.start(context=context), source.sdk.start_span("span", context)
    for attribute in ("trace_id", "is_remote", "trace_flags", "trace_state"):
        assert getattr(ours.get_span_context(), attribute) == getattr(theirs.get_span_context(), attribute)
    assert ours.is_recording() is theirs.is_recording() is sampled
    assert ours.get_span_context().span_id != parent.span_id


def test_children_of_other_tracers_and_the_reverse() -> None:
    source = Source()
    ours = source.start("ours")
    manual = source.sdk.start_span("manual", trace.set_span_in_context(ours, Context()))
    inner = source.start("inner", trace.set_span_in_context(manual, Context()))
    assert manual.parent == ours.get_span_context()
    assert inner.parent == manual.get_span_context()
    assert len({span.get_span_context().trace_id for span in (ours, manual, inner)}) == 1
    assert trace.get_current_span(trace.set_span_in_context(inner, Context())) is inner


def test_unsampled_spans_have_ids() -> None:
    span = Source(rate=0.0).start()
    assert isinstance(span, UnsampledSpan)
    found: list[SpanContext] = []
    barrier = threading.Barrier(8)

    def sample() -> None:
        barrier.wait()
        found.append(span.get_span_context())

    threads = [threading.Thread(target=sample) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({context.span_id for context in found}) == len(found) - 7 == 1
    assert found[0].is_valid
    assert not found[0].trace_flags.sampled
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span, Context()))
    assert f"{found[0].trace_id:032x}-{found[0].span_id:016x}" in carrier["traceparent"]


# ----- Memory and threads


@pytest.fixture
def no_garbage() -> Iterator[None]:
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_spans_are_freed_without_the_garbage_collector(no_garbage: None) -> None:
    source = Source()
    source.kept.on_start = lambda *args, **kwargs: None  # type: ignore[method-assign]
    source.kept.on_end = lambda *args: None  # type: ignore[method-assign]
    for _ in range(100):
        span = source.start(parts=(SharedAttributes({"a": 1}),))
        source.start("child", trace.set_span_in_context(span, Context())).end()
        span.set_attribute("b", 2)
        span.end()
    del span
    gc.collect()
    assert not [found for found in gc.garbage if isinstance(found, (RecordingSpan, SharedAttributes))]


def test_an_ended_span_does_not_hold_its_request() -> None:
    class Request:
        pass

    source = Source()
    request = Request()
    alive = weakref.ref(request)

    def handle(request: Request) -> Any:
        span = source.start()
        span.end()
        return span

    span = handle(request)
    del request
    assert alive() is None
    assert span.end_time is not None


def test_threads_can_set_attributes_while_a_span_ends(caplog: pytest.LogCaptureFixture) -> None:
    source = Source()
    faults: list[BaseException] = []
    for _ in range(30):
        span = source.start(parts=(SharedAttributes({"shared": 0}),))
        barrier = threading.Barrier(5)

        def work(number: int, span: Any = span, barrier: threading.Barrier = barrier) -> None:
            try:
                barrier.wait()
                for index in range(50):
                    span.set_attribute(f"{number}.{index}", index)
                    span.set_attribute("shared", index)
                    span.attributes  # noqa: B018
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        barrier.wait()
        span.end()
        assert decode(encode_spans([span]))
        for thread in threads:
            thread.join()
    assert not faults


def test_waiting_spans_are_counted_correctly_with_several_threads() -> None:
    """A wrong count would add up until no span could wait any more."""

    class Interrupted(list[Any]):
        def __len__(self) -> int:
            other.ended.append(object())  # type: ignore[arg-type]
            undecided._waiting.spans += 1
            return super().__len__()

    before = undecided._waiting.spans
    one, other = undecided.UndecidedTrace(1, None), undecided.UndecidedTrace(2, None)
    one.ended = Interrupted([object(), object()])
    undecided._waiting.spans += 2
    one._release()
    assert len(other.ended) == undecided._waiting.spans - before == 1
    other._discard()
    assert undecided._waiting.spans == before
