"""Capture the spans of a test: ``with capture_spans() as spans``, a pytest fixture, a TestCase mixin.

See docs/testing.md.

PYTEST_DONT_REWRITE: pytest would warn if a conftest imports this before it lists it as a plugin.
"""

from __future__ import annotations

import sys

from django_tracing.testing.capture import CaptureSpansMixin, SpanCapture, capture_spans
from django_tracing.testing.captured import CapturedSpan, CapturedSpans

__all__ = ["CaptureSpansMixin", "CapturedSpan", "CapturedSpans", "SpanCapture", "capture_spans"]

if "pytest" in sys.modules:
    # For ``pytest_plugins = ["django_tracing.testing"]`` and ``from django_tracing.testing import spans``.
    from django_tracing.testing.pytest_fixture import spans as spans
