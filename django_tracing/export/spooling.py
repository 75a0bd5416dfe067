"""Move batches of a queue into the spool, and choose which of the spool are sent.

Never raises: a disk that is full or gone costs spans, which are counted, and nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from django_tracing.export.announcements import Announcements, warn
from django_tracing.export.counters import Counters
from django_tracing.export.spool import Spool, StoredBatch

__all__ = ["Spooling"]

#: Seconds until an empty spool is looked at again: another process may have stored something.
_LOOK_AGAIN: Final = 1.0
#: Seconds until a batch that was refused is tried again, so that it is not all that is sent.
_REFUSED_PAUSE: Final = 5.0
_MOST_REFUSED: Final = 1000
#: Seconds until a folder that can't be used is tried again.
_BROKEN_PAUSE: Final = 10.0


class Spooling:
    """A queue's side of a spool. Used by one thread at a time."""

    def __init__(self, spool: Spool, counters: Counters, announce: Announcements, retry_for: float) -> None:
        self.spool = spool
        self._counters = counters
        self._announce = announce
        self._retry_for = retry_for
        #: Whether there were batches when it was last looked at, and when to look again if not.
        self.has_more = True
        self._look_at = 0.0
        self._broken_until = 0.0
        #: The batch that is being sent.
        self._claimed: StoredBatch | None = None
        #: Batches that the receiver refused: since when, until when they wait, and how many others it had accepted.
        self._refused: dict[str, tuple[float, float, int]] = {}

    def is_usable(self, now: float) -> bool:
        """Return whether batches can be stored. For a while after a failure, they stay in memory instead."""
        return now >= self._broken_until

    def store(self, batches: Sequence[Any], *, sync: bool = True) -> int:
        """Store ``batches`` in their order. Return how many were stored: after a failure, no other is tried."""
        for number, batch in enumerate(batches):
            try:
                dropped = self.spool.store(batch, sync=sync)
            except Exception as error:
                self._fail(error)
                return number
            self.has_more = True
            self._counters.spool(batch.count)
            if dropped:
                self._counters.drop("spool_full", dropped)
        return len(batches)

    def is_due(self, now: float) -> bool:
        """Return whether there may be a batch to send."""
        return (self.has_more or now >= self._look_at) and now >= self._broken_until

    def next(self, now: float) -> StoredBatch | None:
        """Claim the oldest batch that may be sent, or return None."""
        waiting = {name for name, (_, until, _) in self._refused.items() if until > now}
        try:
            self._claimed = self.spool.claim(waiting)
            damaged = self.spool.take_damaged()
            if damaged:
                self._counters.drop("spool_damaged", damaged)
        except Exception as error:
            self._fail(error)
            self._claimed = None
        self.has_more = self._claimed is not None
        self._look_at = now + _LOOK_AGAIN
        return self._claimed

    def done(self) -> None:
        """Remove the claimed batch: it was sent, or is dropped."""
        batch, self._claimed = self._claimed, None
        if batch is not None:
            self._refused.pop(batch.name, None)
            with suppress(OSError):
                self.spool.remove(batch)

    def keep(self, now: float, accepted: int) -> bool:
        """Leave the claimed batch for later. Return False if it is to be dropped: the receiver accepts all others.

        ``accepted`` is how many batches the receiver has accepted.
        """
        batch = self._claimed
        if batch is None:
            return True
        since, _, before = self._refused.get(batch.name, (now, now, accepted))
        if now - since >= self._retry_for and accepted > before:
            return False
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.clear()
        self._refused[batch.name] = since, now + _REFUSED_PAUSE, before
        self.release()
        return True

    def release(self) -> None:
        """Give up the claimed batch. In a forked child, its lock stays the parent's."""
        batch, self._claimed = self._claimed, None
        if batch is not None:
            with suppress(OSError):
                os.close(batch.descriptor)

    def _fail(self, error: Exception) -> None:
        # Not its text, which has the whole path.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problem = f"The spool can't be used: {reason} ({type(error).__name__})."
        self._counters.failed(problem)
        warn(self._announce.spool_failed(problem))
        self._broken_until = time.monotonic() + _BROKEN_PAUSE
