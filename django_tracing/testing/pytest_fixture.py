"""The pytest fixture ``spans``. Reached by way of ``django_tracing.testing``, which needs no pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from django_tracing.testing.captured import CapturedSpans

__all__ = ["spans"]


@pytest.fixture
def spans(request: pytest.FixtureRequest) -> Iterator[CapturedSpans]:
    """The spans of the test, as ``capture_spans()`` gives them; their tree is shown when the test fails."""
    from django_tracing.testing.capture import capture_spans

    with capture_spans() as captured:
        yield captured
    request.node.add_report_section("teardown", "spans", captured.tree())
