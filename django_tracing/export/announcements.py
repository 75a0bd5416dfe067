"""Write the log lines about exporting: one when its state changes, and one an hour while it lasts."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Final

from django_tracing.exceptions import ExportError
from django_tracing.export.counters import Counters
from django_tracing.redaction.printable import printable

__all__ = ["Announcements", "SharedTimes", "warn"]

_logger = logging.getLogger("django_tracing.export")

#: Seconds between two lines about a state that lasts.
_AGAIN: Final = 3600.0
#: A receiver that comes and goes causes no more lines than this.
_SOON: Final = 60.0
_NEVER: Final = float("-inf")
_HELP: Final = "Requests are not affected; run `python manage.py check_tracing` for details."


class SharedTimes:
    """When a line of each kind was logged, by the system's clock, for a process and those forked from it.

    For workers that fork a process for each job: each would log the same line.
    """

    _KINDS: Final = ("unavailable", "refused", "rejected", "spool")

    def __init__(self) -> None:
        # Imported here: few processes need it.
        from mmap import mmap

        self._seconds = memoryview(mmap(-1, 8 * len(self._KINDS))).cast("d")

    def get(self, kind: str, default: float) -> float:
        return self._seconds[self._KINDS.index(kind)] or default

    def __setitem__(self, kind: str, seconds: float) -> None:
        self._seconds[self._KINDS.index(kind)] = seconds


class Announcements:
    """Decide what is logged about a queue's exports. Each method returns a line, or None."""

    def __init__(self, counters: Counters, logged: SharedTimes | None = None) -> None:
        """``logged`` is when each kind of line was last logged: in other processes too, where they share it."""
        self._counters = counters
        self._logged: dict[str, float] | SharedTimes = {} if logged is None else logged
        #: How many were dropped before the receiver became unavailable; None while it is available.
        self._dropped_before: int | None = None
        self._is_told = False

    def share(self, logged: SharedTimes) -> None:
        """Keep the times of lines in ``logged`` from now on."""
        self._logged = logged

    def unavailable(self, failure: ExportError, queued: int, room: str) -> str | None:
        """The receiver accepts nothing. ``room`` is how much may wait."""
        now = time.monotonic()
        if self._dropped_before is None:
            self._dropped_before = self._counters.dropped_total()
            self._is_told = False
        if not self._is_told:
            if now - self._logged.get("unavailable", _NEVER) < _SOON:
                return None
            self._is_told = True
            self._logged["unavailable"] = now
            return f"Spans can't be sent: {failure} {queued} wait for it to come back, at most {room}. {_HELP}"
        if not self._is_due("unavailable"):
            return None
        dropped = self._counters.dropped_total() - self._dropped_before
        return f"Spans still can't be sent: {failure} {queued} wait, and {dropped} were dropped meanwhile. {_HELP}"

    def available(self) -> str | None:
        """The receiver accepted a batch."""
        before, self._dropped_before = self._dropped_before, None
        if before is None or not self._is_told:
            return None
        return f"Spans are sent again; {self._counters.dropped_total() - before} were dropped meanwhile."

    def refused(self, failure: ExportError) -> str | None:
        """A batch, or a part of it, was dropped because of ``failure``."""
        if not self._is_due("rejected" if failure.rejected is not None else "refused"):
            return None
        if failure.rejected is not None:
            text = f"{failure} They are dropped."
        else:
            text = f"Spans can't be sent: {failure} They are dropped."
        return f"{text} While this lasts, it is logged once an hour. {_HELP}"

    def spool_failed(self, problem: str) -> str | None:
        """Batches can't be stored."""
        return f"{problem} What can't be sent waits in memory. {_HELP}" if self._is_due("spool") else None

    def _is_due(self, kind: str) -> bool:
        now = time.monotonic()
        if now - self._logged.get(kind, _NEVER) < _AGAIN:
            return False
        self._logged[kind] = now
        return True


def warn(line: str | None) -> None:
    """Log ``line``, if there is one. Never raises."""
    if line:
        # Of the user's log, only the handlers catch their errors; filters may raise.
        with suppress(Exception):
            _logger.warning("%s", printable(line))
