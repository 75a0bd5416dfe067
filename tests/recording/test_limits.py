"""The limits of spans: kept as by the SDK's own spans, and dropped counts arrive at the backend."""

from __future__ import annotations

import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import SpanContext, SpanKind

from django_tracing.export.counters import Counters
from django_tracing.export.local import LocalExporter, span_row
from django_tracing.export.wire import encode_spans
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction.attributes import AttributeSanitizer
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.recording.test_span import Source, calls, seen

#: Few names, so that values replace others, and values of all lengths.
NAMES = st.sampled_from([*"abcdefghij", "", "é"])
VALUES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.booleans() | st.integers() | st.floats() | st.none() | st.binary(max_size=6),
    st.lists(st.text(max_size=8), max_size=3),
    st.sampled_from([object(), ["a", 1], ("a", None), 2**80]),
)
ATTRIBUTES = st.dictionaries(NAMES, VALUES, max_size=8)
COUNTS = st.sampled_from([0, 1, 2, 3, 5, 100])
LIMITS = st.builds(
    SpanLimits,
    max_span_attributes=st.sampled_from([0, 1, 2, 3, 5, 8, 100, 128, SpanLimits.UNSET]),
    max_events=COUNTS,
    max_links=COUNTS,
    max_event_attributes=COUNTS,
    max_link_attributes=COUNTS,
    max_attribute_length=st.sampled_from([0, 1, 5, SpanLimits.UNSET]),
    max_span_attribute_length=st.sampled_from([0, 1, 5, SpanLimits.UNSET, SpanLimits.UNSET]),
)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("set_attribute"), NAMES, VALUES),
        st.tuples(st.just("set_attributes"), ATTRIBUTES),
        st.tuples(st.just("set_shared"), st.dictionaries(NAMES.filter(bool), st.text(max_size=8), max_size=4)),
        st.tuples(st.just("look"), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=int(os.environ.get("LIMIT_EXAMPLES", "300")), suppress_health_check=list(HealthCheck))
@given(LIMITS, st.dictionaries(NAMES.filter(bool), st.text(max_size=8), max_size=4), ATTRIBUTES, CALLS, calls(VALUES))
def test_the_same_is_kept_and_dropped_as_by_the_sdk(limits, shared, own, made, others) -> None:
    logging.disable(logging.CRITICAL)
    try:
        source = Source(span_limits=limits)
        # This app starts its spans with attributes of plain types.
        own = {key: value for key, value in BoundedAttributes(None, own).items() if key not in shared}
        theirs = source.sdk.start_span("span", Context(), SpanKind.INTERNAL, {**shared, **own})
        ours = source.start("span", Context(), SpanKind.INTERNAL, (SharedAttributes(shared),), dict(own) or None)
        for name, *arguments in (*made, *others):
            if name == "look":
                assert seen(ours) == seen(theirs)
            elif name == "set_shared":
                # What this app shares has names of its own.
                part = {key: value for key, value in arguments[0].items() if key not in ours.attributes}
                ours.set_shared((SharedAttributes(part),))
                theirs.set_attributes(part)
            else:
                for span in (ours, theirs):
                    with suppress(AttributeError, TypeError):
                        getattr(span, name)(*arguments)
        for span in (ours, theirs):
            if span.end_time is None:
                span.end(2**41)
        assert seen(ours) == seen(theirs)
        (decoded,), (expected,) = (spans_of(encode_spans([span])) for span in (ours, theirs))
        for one in (decoded, expected):
            # The stacks of exceptions have other lines of the caller's.
            for event in one.events:
                for attribute in event.attributes:
                    if attribute.key == "exception.stacktrace":
                        attribute.value.string_value = attribute.value.string_value[:0]
            one.ClearField("start_time_unix_nano")
            one.ClearField("span_id")
            one.ClearField("trace_id")
            for event in one.events:
                if event.name == "exception":
                    event.ClearField("time_unix_nano")
        assert sorted(map(repr, decoded.attributes)) == sorted(map(repr, expected.attributes))
        for one in (decoded, expected):
            one.ClearField("attributes")
        assert decoded == expected
    finally:
        logging.disable(logging.NOTSET)


def spans_of(message: bytes) -> list[Any]:
    request = ExportTraceServiceRequest.FromString(message)
    return [span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans]


@pytest.mark.parametrize("most", [0, 1, 5, 80, 81, 100, 128, 1000])
def test_the_newest_attributes_are_kept(most: int) -> None:
    """Of all that a request's span is given: at its start, by the middleware, by the view."""
    source = Source(span_limits=SpanLimits(max_span_attributes=most))
    query = SharedAttributes({f"http.query.{number}": "x" for number in range(50)})
    ours = source.start(parts=(SharedAttributes({"http.method": "GET"}),))
    theirs = source.sdk.start_span("span", Context(), attributes={"http.method": "GET"})
    for span in (ours, theirs):
        for number in range(60):
            span.set_attribute(f"own.{number}", number)
        span.set_attribute("own.3", "again")
        if span is ours:
            span.set_shared((query,))
        else:
            span.set_attributes(query.attributes)
        span.end()
    assert list((ours.attributes or {}).items()) == list((theirs.attributes or {}).items())
    # One that was dropped and set again is dropped twice.
    assert ours.dropped_attributes == theirs.dropped_attributes >= 111 - len(ours.attributes)
    assert spans_of(encode_spans([ours]))[0].dropped_attributes_count == ours.dropped_attributes


@pytest.mark.parametrize("most", [0, 1, 80])
def test_the_limit_applies_to_what_a_span_is_started_with(most: int) -> None:
    source = Source(span_limits=SpanLimits(max_span_attributes=most))
    parts = tuple(
        SharedAttributes({f"{part}.{number}": number for number in range(50)}) for part in ("request", "user")
    )
    ours = source.start(parts=parts)
    theirs = source.sdk.start_span("span", Context(), attributes={**parts[0].attributes, **parts[1].attributes})
    for span in (ours, theirs):
        span.end()
    assert list((ours.attributes or {}).items()) == list((theirs.attributes or {}).items())
    assert ours.dropped_attributes == theirs.dropped_attributes == 100 - most
    assert len(spans_of(encode_spans([ours]))[0].attributes) == most


@pytest.mark.parametrize("again", ["a", "b", "c", "d"])
def test_an_attribute_that_had_no_place_at_the_start_and_is_set_again(again: str) -> None:
    source = Source(span_limits=SpanLimits(max_span_attributes=2))
    first = {"a": 1, "b": 2, "c": 3}
    ours, theirs = source.start(own=dict(first)), source.sdk.start_span("span", Context(), attributes=first)
    for span in (ours, theirs):
        span.set_attribute(again, 4)
        span.end()
    assert list((ours.attributes or {}).items()) == list((theirs.attributes or {}).items())
    assert ours.dropped_attributes == theirs.dropped_attributes


def test_with_the_default_limits_spans_share_attributes_until_they_are_sent() -> None:
    """A span that waits takes little memory: it has no copy of what its request's spans have in common."""
    source = Source()
    part = SharedAttributes({f"request.{number}": number for number in range(50)})
    for own in (None, {"own": 1}):
        span = source.start(parts=(part,), own=own)
        span.set_attribute("more", 2)
        span.end()
        assert span.shared == (part,)
        assert dict(span.attributes) == {**part.attributes, **(own or {}), "more": 2}
        assert span.shared == (part,)


def test_a_span_of_very_many_attributes_is_made_in_linear_time() -> None:
    """Each new one makes room once; the others are not counted again."""
    source = Source(span_limits=SpanLimits(max_span_attributes=20_000))
    span = source.start(parts=(SharedAttributes({"shared": 1}),))
    applied = 0
    original = type(span)._apply_limits

    def counted(self: Any) -> dict[str, Any]:
        nonlocal applied
        applied += 1
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(span), "_apply_limits", counted)
        for number in range(30_000):
            span.set_attribute(f"a{number}", number)
    span.end()
    assert applied <= 1
    assert (len(span.attributes), span.dropped_attributes) == (20_000, 10_001)


# ----- read-only


@pytest.mark.parametrize("options", [{}, {"span_limits": SpanLimits(max_span_attributes=2)}], ids=["usual", "few"])
def test_attributes_are_a_view_that_cannot_be_written(options: dict[str, Any]) -> None:
    source = Source(**options)
    span = source.start(parts=(SharedAttributes({"shared": 1}),), own={"a": 1})
    span.add_event("e", {"b": 1})
    for view in (span.attributes, span.events[0].attributes):
        with pytest.raises(TypeError):
            view["a"] = 2
        with pytest.raises(TypeError):
            del view["a"]
    span.end()
    (ended,) = source.kept.ended
    with pytest.raises(TypeError):
        ended.attributes["a"] = 2  # type: ignore[index]
    assert dict(ended.attributes or {}) == {"shared": 1, "a": 1}


def test_a_row_of_the_local_store_has_what_is_left() -> None:
    source = Source(span_limits=SpanLimits(max_span_attributes=2, max_span_attribute_length=3))
    span = source.start(own={"a": "abcdef", "b": "x", "c": ["abcdef"]})
    span.end()
    assert span_row(span)["attributes"] == {"b": "x", "c": ["abc"]}


def test_users_attributes_are_sanitized_before_they_are_cut() -> None:
    source = Source(span_limits=SpanLimits(max_span_attribute_length=8))
    source.factory.sanitizer = AttributeSanitizer()
    span = source.start()
    span.set_attribute("note", "password=hunter2")
    span.end()
    assert (span.attributes or {})["note"] == "password"


# ----- what cannot be encoded


def test_what_cannot_be_encoded_costs_itself_and_is_counted() -> None:
    """An integer of 81 bits and a lone surrogate, on a span, an event and a link, among many spans."""
    source = Source()
    bad = {"huge": 2**80, "list": [1, -(2**70)], "surrogate": "caf\udce9", "nan": float("nan"), "good": "yes"}
    spans = []
    for number in range(20):
        span = source.start(f"span {number}", own=dict(bad) if number == 7 else {"good": "yes"})
        if number == 7:
            span.add_event("e", bad)
            span.add_link(SpanContext(1, 2, is_remote=True), bad)
        span.end()
        spans.append(span)
    before = Counters().snapshot()["dropped_attributes"].get("unencodable", 0)
    decoded = spans_of(encode_spans(spans))
    assert [span.name for span in decoded] == [span.name for span in spans]
    assert [span.dropped_attributes_count for span in decoded] == [2 * (number == 7) for number in range(20)]
    seventh = decoded[7]
    for holder in (seventh, seventh.events[0], seventh.links[0]):
        found = {attribute.key: attribute.value for attribute in holder.attributes}
        assert found.keys() == {"surrogate", "nan", "good"}
        assert found["surrogate"].string_value == "caf?"
        assert math.isnan(found["nan"].double_value)
        assert holder.dropped_attributes_count == 2
    assert Counters().snapshot()["dropped_attributes"]["unencodable"] == before + 6


def test_the_local_store_takes_what_a_receiver_does(tmp_path: Path) -> None:
    """And counts what it can't: an integer of 128 bits."""
    source = Source()
    span = source.start(
        "caf\udce9", own={"huge": 2**80, "surrogate": "caf\udce9", "nan": float("nan"), "good": "yes"}
    )
    span.end()
    other = source.start("other")
    other.end()
    store = LocalStore(tmp_path / "traces.sqlite3")
    before = Counters().snapshot()["dropped_attributes"].get("unencodable", 0)
    LocalExporter(store.store).export([span, other])
    assert Counters().snapshot()["dropped_attributes"]["unencodable"] == before + 1
    assert len(store.search()) == 2
    trace = store.trace(f"{span.context.trace_id:032x}")
    assert trace is not None
    (found,) = trace.spans
    assert found.attributes["good"] == "yes"
    assert "huge" not in found.attributes
    assert found.attributes["nan"] == "nan"
