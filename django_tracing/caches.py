"""Bound caches of what repeats from request to request."""

from __future__ import annotations

from itertools import islice
from typing import Any

__all__ = ["make_room"]

#: Of a full cache, the oldest entries are removed: one in so many.
_SHARE = 8


def make_room(cache: dict[Any, Any], most: int) -> None:
    """Remove the oldest entries of ``cache`` if it has ``most`` of them.

    Not all at once: a cache that is emptied whenever it is full grows for hours after that, which looks like a leak,
    and what many requests need is missing for a moment. What is in use soon returns, so no uses have to be counted.
    """
    if len(cache) >= most:
        # Other threads may be doing the same. The list is made without a pause for them.
        for key in list(islice(cache, max(most // _SHARE, 1))):
            cache.pop(key, None)
