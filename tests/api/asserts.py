"""Read ended spans in tests."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {key: value for key, value in (span.attributes or {}).items() if key != "correlation.id"}


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.get_span_context().span_id
