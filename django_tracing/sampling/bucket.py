"""Limit how many traces a second are kept. Knows neither Django nor the SDK."""

from __future__ import annotations

import time
from threading import RLock

__all__ = ["TokenBucket"]


class TokenBucket:
    """Allow at most ``rate`` a second, and as many at once as a second allows. Uses the monotonic clock."""

    __slots__ = ("_last", "_lock", "_tokens", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._tokens = max(rate, 1.0)
        self._last = time.monotonic()
        # Reentrant: a finalizer may start a trace while a decision on another one is made.
        self._lock = RLock()

    def reset_lock(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._lock = RLock()

    def take(self) -> bool:
        """Take one token; return False if there is none."""
        if not self.rate:
            return False
        with self._lock:
            now = time.monotonic()
            # A rate below one a second saves up to one token.
            self._tokens = min(max(self.rate, 1.0), self._tokens + (now - self._last) * self.rate)
            self._last = now
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True
