"""Draw durations over time as a scatter plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from django_tracing.pages.links import trace_address
from django_tracing.pages.rows import svg_number
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import TraceSummary
from django_tracing.traces.times import to_datetime

__all__ = ["plot"]

#: The size of the drawing and of its margins, in units of its view box.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 1000, 180, 60, 22


def plot(summaries: Sequence[TraceSummary]) -> dict[str, Any] | None:
    """Return the dots and grid lines. The scale is logarithmic: durations differ by orders of magnitude."""
    if len(summaries) < 2:
        return None
    starts = [summary.start for summary in summaries]
    logs = [math.log10(max(summary.duration, 1000)) for summary in summaries]
    first, last = min(starts), max(starts)
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    high = max(high, low + 1)
    width, height = _WIDTH - _LEFT - 10, _HEIGHT - _BOTTOM - 10

    def x(start: int) -> float:
        return _LEFT + (width * (start - first) / (last - first) if last > first else width / 2)

    def y(log: float) -> float:
        return 10 + height * (high - log) / (high - low)

    return {
        "width": str(_WIDTH),
        "height": str(_HEIGHT),
        "left": str(_LEFT),
        "right": str(_WIDTH - 10),
        "bottom": str(_HEIGHT - 4),
        "lines": [
            {"y": svg_number(y(power)), "text_y": svg_number(y(power) + 4), "label": _round_duration(power)}
            for power in range(low, high + 1)
        ],
        "first": to_datetime(first),
        "last": to_datetime(last),
        # For the script that turns a part of the drawing into a span of time, in milliseconds.
        "first_ms": f"{first / 1e6:.3f}",
        "last_ms": f"{last / 1e6:.3f}",
        "dots": [
            {
                "x": svg_number(x(summary.start)),
                "y": svg_number(y(log)),
                "failed": bool(summary.error_count),
                "url": trace_address(summary.trace_id),
                "label": f"{summary.service} {summary.name}, {duration_text(summary.duration)}",
            }
            for summary, log in zip(summaries, logs, strict=True)
        ],
    }


def _round_duration(power: int) -> str:
    """Return ten to the ``power`` nanoseconds as text."""
    for unit, exponent in (("s", 9), ("ms", 6), ("µs", 3)):
        if power >= exponent:
            return f"{10 ** (power - exponent)} {unit}"
    return f"{10**power} ns"
