"""Limit and clean the attribute values of stored spans."""

from __future__ import annotations

import math
from typing import Any, Final

__all__ = ["DEEPEST", "json_safe", "shallow"]

#: Values within values are read as deep as this; no function that meets them may need the whole of Python's stack.
DEEPEST: Final = 16


def shallow(value: Any, depth: int = DEEPEST) -> Any:
    """``value`` with … for what lies deeper than ``depth`` lists and objects."""
    if not isinstance(value, (dict, list)):
        return value
    if not depth:
        return "…"
    if isinstance(value, dict):
        return {key: shallow(item, depth - 1) for key, item in value.items()}
    return [shallow(item, depth - 1) for item in value]


def json_safe(value: Any, depth: int = DEEPEST) -> Any:
    """``value`` without the NaN and infinities that JSON has no place for."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (dict, list)) and not depth:
        return "…"
    if isinstance(value, dict):
        return {key: json_safe(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [json_safe(item, depth - 1) for item in value]
    return value
