"""Share the fixtures of the tests of instrumentations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace

from tests.conftest import Spans


@pytest.fixture
def within(spans: Spans) -> Iterator[Spans]:
    """Start a trace. The collected spans don't contain its root, which hasn't ended."""
    with trace.get_tracer("tests").start_as_current_span("root"):
        spans.clear()
        yield spans
