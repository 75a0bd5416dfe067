"""Parse, limit and clean the attribute values of stored spans."""

from __future__ import annotations

import json
import math
from typing import Any, Final

__all__ = ["DEEPEST", "encodable", "json_safe", "parse_json", "shallow"]

#: The depth to which nested values are kept, so that no function that handles them uses up Python's stack.
DEEPEST: Final = 16


def parse_json(text: str) -> Any:
    """Return the value of a JSON text as :func:`encodable` does. Raise ValueError or RecursionError."""
    return encodable(json.loads(text), text)


def encodable(value: Any, text: str) -> Any:
    """Return ``value``, which was parsed from the JSON ``text``, with ? in place of lone surrogates.

    JSON can have them as escapes, UTF-8 can't: no page, file or terminal could show them.
    """
    if "\\ud" not in text and "\\uD" not in text:
        return value
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def shallow(value: Any, depth: int = DEEPEST) -> Any:
    """Return ``value`` with … in place of what is nested deeper than ``depth`` lists and objects."""
    if not isinstance(value, (dict, list)):
        return value
    if not depth:
        return "…"
    if isinstance(value, dict):
        return {key: shallow(item, depth - 1) for key, item in value.items()}
    return [shallow(item, depth - 1) for item in value]


def json_safe(value: Any, depth: int = DEEPEST) -> Any:
    """Return ``value`` with text in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (dict, list)) and not depth:
        return "…"
    if isinstance(value, dict):
        return {key: json_safe(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [json_safe(item, depth - 1) for item in value]
    return value
