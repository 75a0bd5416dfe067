"""Write the log lines about exporting: one when its state changes, and one an hour while it lasts."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Final

from django_tracing.exceptions import ExportError
from django_tracing.export.counters import Counters
from django_tracing.faults import Lasting
from django_tracing.redaction.printable import printable

__all__ = ["Announcements", "SharedTimes", "warn"]

_logger = logging.getLogger("django_tracing.export")

#: A backend that refuses some batches and accepts others refuses until none was refused for so many seconds.
_OVER: Final = 60.0
_HELP: Final = "Requests are not affected; run `python manage.py check_tracing` for details."


class SharedTimes:
    """When a line of each kind was logged, by the system's clock, for a process and those forked from it.

    For workers that fork a process for each job: each would log the same line.
    """

    _KINDS: Final = ("unavailable", "refused", "rejected", "full", "spool")

    def __init__(self) -> None:
        # Imported here: few processes need it.
        from mmap import mmap

        self._seconds = memoryview(mmap(-1, 8 * len(self._KINDS))).cast("d")

    def get(self, kind: str, default: float, /) -> float:
        return self._seconds[self._KINDS.index(kind)] or default

    def __setitem__(self, kind: str, seconds: float, /) -> None:
        self._seconds[self._KINDS.index(kind)] = seconds


class _State:
    """A state of exporting in which spans may be dropped."""

    def __init__(self, counters: Counters, times: SharedTimes | None, kind: str) -> None:
        self._counters = counters
        self._lasting = Lasting(times, kind)
        #: How many were dropped before it began; None while it does not last.
        self._before: int | None = None
        self._last = 0.0

    @property
    def lasts(self) -> bool:
        return self._before is not None

    def happens(self, before: int | None = None) -> bool:
        """Note that it lasts. Return whether to log a line. ``before`` is how many were dropped until now."""
        if self._before is None:
            self._before = self._counters.dropped_total() if before is None else before
        self._last = time.monotonic()
        return self._lasting.happens()

    @property
    def is_new(self) -> bool:
        """Whether its last line is the first one."""
        return self._lasting.is_first

    def dropped(self) -> int:
        """Return how many were dropped since it began."""
        return self._counters.dropped_total() - (self._before or 0)

    def is_over(self) -> bool:
        """Return whether it has not happened for a minute."""
        return self.lasts and time.monotonic() - self._last >= _OVER

    def ends(self) -> int | None:
        """Return how many were dropped meanwhile; None if its beginning was not logged."""
        dropped = self.dropped()
        self._before = None
        return dropped if self._lasting.ends() else None


class Announcements:
    """Decide what is logged about a queue's exports. Each method returns a line, or None.

    Lines have numbers of all spans that the queue dropped, for whatever reason.
    """

    def __init__(self, counters: Counters, logged: SharedTimes | None = None) -> None:
        """``logged`` is when each kind of line was last logged, where other processes share it."""
        self._counters = counters
        self._full_before = 0
        self.share(logged)

    def share(self, logged: SharedTimes | None) -> None:
        """Keep the times of lines in ``logged`` from now on."""
        self._down = _State(self._counters, logged, "unavailable")
        self._refusing = _State(self._counters, logged, "refused")
        self._rejecting = _State(self._counters, logged, "rejected")
        self._full = _State(self._counters, logged, "full")
        self._unspooled = Lasting(logged, "spool")

    def unavailable(self, failure: ExportError, queued: int, room: str) -> str | None:
        """The backend accepts nothing. ``room`` is how much may wait."""
        down = self._down
        if not down.happens():
            return None
        if down.is_new:
            return f"Spans can't be sent: {failure} {queued} wait for it to come back, at most {room}. {_HELP}"
        dropped = down.dropped()
        return f"Spans still can't be sent: {failure} {queued} wait, and {dropped} were dropped meanwhile. {_HELP}"

    def available(self) -> str | None:
        """The backend accepted a batch."""
        lines = []
        if self._down.lasts:
            # The line has the number of all that had no place meanwhile.
            self._full_before = self._counters.dropped_because_full()
            dropped = self._down.ends()
            if dropped is not None:
                lines.append(f"Spans are sent again; {dropped} were dropped meanwhile.")
        for state in (self._refusing, self._rejecting):
            if state.is_over():
                dropped = state.ends()
                if dropped is not None:
                    lines.append(f"No spans have been refused for a minute; {dropped} were dropped meanwhile.")
        return " ".join(lines) or None

    def refused(self, failure: ExportError, count: int, *, stored: bool = False) -> str | None:
        """``count`` spans, of a batch or a part of it, are dropped because of ``failure``, or ``stored`` on disk."""
        state = self._refusing if failure.rejected is None else self._rejecting
        if not state.happens():
            return None
        text = str(failure) if failure.rejected is not None else f"Spans can't be sent: {failure}"
        if state.is_new:
            fate = "wait on disk, in SPOOL" if stored else "are dropped"
            return f"{text} They {fate}. While this lasts, it is logged once an hour. {_HELP}"
        dropped = state.dropped() + (0 if stored else count)
        return f"{text} Since this began, {dropped} spans were dropped. {_HELP}"

    def overflow(self, room: str) -> str | None:
        """An attempt has ended: look whether the queue was full meanwhile. ``room`` is how much may wait."""
        full = self._counters.dropped_because_full()
        before, self._full_before = self._full_before, full
        state = self._full
        if full > before:
            # While nothing can be sent, the line about that has the number.
            if self._down.lasts or not state.happens(self._counters.dropped_total() - (full - before)):
                return None
            if state.is_new:
                return (
                    f"Spans are dropped, {full - before} so far, because the queue is full ({room}): they are made "
                    f"faster than they are accepted. While this lasts, it is logged once an hour. {_HELP}"
                )
            return (
                f"The queue is still full ({room}). Since this began, {state.dropped()} spans were dropped. {_HELP}"
            )
        if state.is_over():
            lost = state.ends()
            if lost is not None:
                return f"The queue has not been full for a minute; {lost} spans were dropped meanwhile."
        return None

    def spool_failed(self, problem: str) -> str | None:
        """Batches can't be stored."""
        return f"{problem} What can't be sent waits in memory. {_HELP}" if self._unspooled.happens() else None


def warn(line: str | None) -> None:
    """Log ``line``, if there is one. Never raises."""
    if line:
        # Of the user's log, only the handlers catch their errors; filters may raise.
        with suppress(Exception):
            _logger.warning("%s", printable(line))
