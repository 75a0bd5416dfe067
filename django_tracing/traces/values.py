"""Limit and clean the attribute values of stored spans."""

from __future__ import annotations

import math
from typing import Any, Final

__all__ = ["DEEPEST", "json_safe", "shallow"]

#: The depth to which nested values are kept, so that no function that handles them uses up Python's stack.
DEEPEST: Final = 16


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
