"""Parse and format durations."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["duration_text", "milliseconds", "parse_duration", "period_text"]

_DURATION: Final = re.compile(r"\s*([0-9]+(?:[.,][0-9]+)?|[.,][0-9]+)\s*(us|µs|ms|s|m|min|h|d)\s*", re.IGNORECASE)
#: In seconds: times are nanoseconds of 64 bits.
_LONGEST: Final = 9.2e9
_UNITS: Final = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Parse ``250ms``, ``1.5s``, ``15m``, ``2d`` as seconds. Raises ValueError for anything else."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration with a unit")
    # A longer one is longer than all that can be stored, too.
    return min(float(found[1].replace(",", ".")) * _UNITS[found[2].lower()], _LONGEST)


def milliseconds(nanoseconds: int) -> str:
    """Return ``12.3 ms``: always milliseconds, with three significant digits and all digits before the point."""
    value = nanoseconds / 1e6
    if abs(value) >= 99.95 or value == 0:
        return f"{value:.0f} ms"
    decimals = 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.9995 else 3 if abs(value) >= 0.09995 else 4
    return f"{value:.{decimals}f} ms"


def duration_text(nanoseconds: int) -> str:
    """Return ``58.3 µs``, ``12.3 ms``, ``1.57 s``: three significant digits in the unit that fits."""
    size = abs(nanoseconds)
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if size >= 0.9995 * scale:
            value = nanoseconds / scale
            decimals = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
            return f"{value:.{decimals}f} {unit}"
    return f"{nanoseconds} ns" if nanoseconds else "0 ms"


def period_text(seconds: float) -> str:
    """Return ``24 hours``, ``90 minutes``, ``10 seconds``: a period in the largest unit that is a whole number."""
    for unit, length in (("hour", 3600), ("minute", 60)):
        count, rest = divmod(seconds, length)
        if count and not rest:
            return f"{count:.0f} {unit}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"
