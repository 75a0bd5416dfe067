"""Convert times between nanoseconds, seconds, datetimes and ISO 8601."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

__all__ = ["FARTHEST", "iso_time", "to_datetime", "to_nanoseconds"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: The largest distance from the epoch, in nanoseconds.
FARTHEST: Final = 9.2e18


def to_nanoseconds(seconds: float) -> int:
    """Return seconds as nanoseconds, limited to 64 bits: the years 1678 to 2261."""
    return round(min(max(seconds * 1e9, -FARTHEST), FARTHEST))


def iso_time(nanoseconds: int) -> str:
    """ISO 8601 in UTC with microseconds."""
    return to_datetime(nanoseconds).isoformat(timespec="microseconds").replace("+00:00", "Z")


def to_datetime(nanoseconds: int) -> datetime:
    """Return an aware datetime in UTC. The epoch for times that a datetime can't represent."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return _EPOCH
