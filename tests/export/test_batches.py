"""Test batches of spans, and the estimated size of spans."""

from __future__ import annotations

from typing import Any

import pytest

from django_tracing.export.batches import SpanBatch, estimate_size
from tests.export.builders import ANY_VALUES, Recorder, make_spans


@pytest.mark.parametrize(
    "attributes",
    [{"a": "x" * 10_000}, {"a": b"x" * 10_000}, {"a": ["x" * 5000] * 2}]
    + ([{"a": {"b": {"c": "x" * 10_000}}}] if ANY_VALUES else []),
)
def test_sizes_have_the_right_magnitude(attributes: dict[str, Any]) -> None:
    (span,) = make_spans(1, **attributes)
    assert 10_000 < estimate_size(span) < 13_000


def test_sizes_count_events_and_links() -> None:
    (bare,) = make_spans()
    recorder = Recorder()
    span = recorder.tracer.start_span("x")
    span.add_event("e", {"stack": "x" * 5000})
    span.end()
    assert estimate_size(recorder.spans[0]) - estimate_size(bare) > 5000


@pytest.mark.parametrize("count", [2, 3, 512])
def test_halves_have_all_spans_and_bytes(count: int) -> None:
    batch = SpanBatch()
    for number, span in enumerate(make_spans(count)):
        batch.add(span, span, 1000 + number)
    halves = batch.split()
    assert [span for half in halves for span in half.spans] == batch.spans
    assert [half.count for half in halves] == [len(half.spans) for half in halves] == [count // 2, (count + 1) // 2]
    # The queue subtracts the sizes one by one from what it has added: none may be left.
    assert sum(half.size for half in halves) == batch.size
    assert all(half.size == pytest.approx(1000 * half.count, rel=0.4) for half in halves)
