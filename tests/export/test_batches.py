"""Test the estimated size of spans."""

from __future__ import annotations

from typing import Any

import pytest

from django_tracing.export.batches import estimate_size
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
