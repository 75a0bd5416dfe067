"""What people write when they look for traces: durations with units, attributes as ``key=value``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Final

__all__ = ["attribute", "attributes", "seconds"]

_DURATION: Final = re.compile(r"\s*([0-9]+(?:[.,][0-9]+)?|[.,][0-9]+)\s*(us|µs|ms|s|m|min|h|d)\s*", re.IGNORECASE)
_UNITS: Final = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """``250ms``, ``1.5s``, ``15m``, ``2d`` as seconds. Raises ValueError for anything else."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration with a unit")
    return float(found[1].replace(",", ".")) * _UNITS[found[2].lower()]


def attribute(word: str) -> tuple[str, str]:
    """The two sides of ``key=value``. Raises ValueError where there are none."""
    key, equals, value = word.partition("=")
    if not equals or not key.strip():
        raise ValueError(word)
    return key.strip(), value


def attributes(text: str) -> dict[str, str]:
    """``key=value other="two words"``: quotation marks as in a shell.

    Raises ValueError: with the word that is no attribute, or with ``""`` where a quotation mark is missing.
    """
    try:
        words: Iterable[str] = shlex.split(text)
    except ValueError:
        raise ValueError("") from None
    return dict(map(attribute, words))
