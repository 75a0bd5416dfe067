"""Count the exported and dropped spans of this process."""

from __future__ import annotations

import os
import time
from collections import Counter
from threading import RLock
from typing import Any, Final, Literal

__all__ = ["Counters", "DropReason", "drop_attributes"]

DropReason = Literal[
    "queue_full_spans",
    "queue_full_bytes",
    # The receiver refused them for ever.
    "rejected",
    "unauthorized",
    "not_found",
    "wrong_protocol",
    "compression",
    "too_large",
    "tls",
    # It refused them for RETRY_FOR; and more of them than may wait for another attempt.
    "expired",
    "retry_full",
    # Of batches on disk: the oldest ones of a full spool, and damaged ones.
    "spool_full",
    "spool_damaged",
    "export_error",
    "shutdown",
    # Before they came to a queue.
    "unredacted",
    # It raised an exception when it was read.
    "unencodable",
]


class _Attributes:
    """Why attributes were left out of spans that were sent, and how many.

    Of the whole process: what encodes a span does not know where it goes.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from 0. In a forked child, the parent's threads held the lock, and the counts are the parent's."""
        self.lock = RLock()
        self.dropped: Counter[str] = Counter()


_attributes: Final = _Attributes()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_attributes.reset)


def drop_attributes(reason: Literal["unencodable"], count: int) -> None:
    """Count attributes that are left out of a span."""
    with _attributes.lock:
        _attributes.dropped[reason] += count


class Counters:
    """Thread-safe counts of spans. Times are in seconds since the epoch."""

    def __init__(self) -> None:
        # Reentrant: a span that ends in a signal handler or a finalizer may interrupt the counting of another one.
        self._lock = RLock()
        self.exported = 0
        #: Spans that were stored in the spool, and those that were sent from it, by this or another process.
        self.spooled = 0
        self.unspooled = 0
        #: Attempts that failed, of batches that are tried again.
        self.retries = 0
        self.dropped: Counter[str] = Counter()
        self.last_drop_time: float | None = None
        self.last_error: str | None = None
        self.last_error_time: float | None = None
        self.last_success_time: float | None = None

    def drop(self, reason: DropReason, count: int = 1) -> None:
        with self._lock:
            self.dropped[reason] += count
            self.last_drop_time = time.time()

    def sent(self, count: int) -> None:
        with self._lock:
            self.exported += count
            self.last_success_time = time.time()

    def failed(self, message: str) -> None:
        with self._lock:
            self.last_error = message
            self.last_error_time = time.time()

    def spool(self, count: int) -> None:
        with self._lock:
            self.spooled += count

    def unspool(self, count: int) -> None:
        with self._lock:
            self.unspooled += count

    def retried(self) -> None:
        with self._lock:
            self.retries += 1

    def dropped_because_full(self) -> int:
        with self._lock:
            return self.dropped["queue_full_spans"] + self.dropped["queue_full_bytes"]

    def dropped_total(self) -> int:
        with self._lock:
            return sum(self.dropped.values())

    def snapshot(self) -> dict[str, Any]:
        """Return all counts as one consistent dict of JSON values."""
        with self._lock:
            return {
                "exported": self.exported,
                "retries": self.retries,
                "spooled": self.spooled,
                "unspooled": self.unspooled,
                "dropped": dict(self.dropped),
                "dropped_attributes": dict(_attributes.dropped),
                "last_drop_time": self.last_drop_time,
                "last_error": self.last_error,
                "last_error_time": self.last_error_time,
                "last_success_time": self.last_success_time,
            }
