"""Define the pytest fixture ``spans``. Import it from ``django_tracing.testing``, which does not need pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from django_tracing.testing.captured import CapturedSpans

__all__ = ["spans"]


@pytest.fixture
def spans(request: pytest.FixtureRequest) -> Iterator[CapturedSpans]:
    """Capture the spans of the test with ``capture_spans()``. The report of a failed test shows their tree."""
    from django_tracing.testing.capture import capture_spans

    with capture_spans() as captured:
        yield captured
    request.node.add_report_section("teardown", "spans", captured.tree())
