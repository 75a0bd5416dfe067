"""Decide which batch is sent next, and when: new batches, and those that are tried again.

Nothing here waits, locks or reads a clock: the queue calls it with its lock, and with the time.

One batch that the receiver refuses must not stop the others, so it is put aside with growing pauses while others are
sent. When the receiver refuses two batches in succession, or can't be reached at all, everything pauses: then there
is one small probe a second, and one batch after each of the growing pauses.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from django_tracing.exceptions import ExportError
from django_tracing.export.counters import DropReason

__all__ = ["PROBE", "Outbox", "Waiting", "drop_reason"]

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: The longest pause between two batches to a receiver that refuses all of them, if a probe doesn't help.
_LONGEST_UNPROBED: Final = 5.0
#: The same if the receiver can't be reached: that is found out at little cost.
_LONGEST_UNREACHABLE: Final = 0.9
#: A receiver that is back is noticed within a second.
_PROBE_PAUSE: Final = 0.8
#: A longer Retry-After is not followed: the receiver may be any program.
_LONGEST_RETRY_AFTER: Final = 30.0
#: How often a batch is tried if its exporter only reports that it failed: it may have retried by itself.
_ATTEMPTS: Final = 3
#: How many single spans of a batch may be too large before others are dropped by their size.
_MOST_TOO_LARGE: Final = 8
#: How many refused batches may wait: choosing one of them takes time for each.
_MOST_REFUSED: Final = 100
#: The reasons of failures to connect, which don't depend on the batch.
_UNREACHABLE: Final = frozenset(("refused", "dns", "tls", "unreachable"))
#: Why batches are dropped at once, by the reason of the ExportError. All others are "rejected".
_DROP_REASONS: Final[dict[str, DropReason]] = {
    "unauthorized": "unauthorized",
    "not_found": "not_found",
    "wrong_protocol": "wrong_protocol",
    "compression": "compression",
    "too_large": "too_large",
    "tls": "tls",
}

#: What :meth:`Outbox.next` returns when the exporter should probe the receiver.
PROBE: Final = object()


class Waiting:
    """A batch that waits to be sent."""

    __slots__ = ("attempt", "attempts", "batch", "due", "number", "passed", "since")

    def __init__(self, batch: Any, number: int) -> None:
        self.batch = batch
        #: Batches are numbered in their order. The parts of a batch that was too large share its number.
        self.number = number
        #: The number of failed attempts, and the queue's number of the last attempt.
        self.attempts = 0
        self.attempt = 0
        #: When it may be tried again.
        self.due = 0.0
        #: When a receiver that could be reached first refused it, and how many batches it had accepted by then.
        self.since: float | None = None
        self.passed = 0


class _Tiny(NamedTuple):
    """How many single spans of a batch were too large in a row, and the size of the smallest one."""

    number: int = 0
    refused: int = 0
    size: float = float("inf")


class Outbox:
    """The batches that wait, in three places: new ones, parts of batches that were too large, and refused ones.

    A batch that was refused is tried for at most ``retry_for`` seconds from its first refusal. A receiver that can't
    be reached refuses nothing: then the batch is not the reason. There are at most 100 refused batches of
    ``room_bytes``; beyond it, the oldest one is dropped. ``can_probe`` is whether the exporter has a probe.
    """

    def __init__(self, *, retry_for: float, room_bytes: int, can_probe: bool) -> None:
        self._retry_for = retry_for
        self._room_bytes = room_bytes
        self._can_probe = can_probe
        self._fresh: deque[Waiting] = deque()
        self._parts: deque[Waiting] = deque()
        #: The single spans that were too large.
        self._tiny = _Tiny()
        #: Refused batches, the oldest first.
        self._room: list[Waiting] = []
        #: Whether batches wait elsewhere, too: in the spool.
        self.more = False
        #: The batch that is being sent.
        self.current: Waiting | None = None
        self._number = 0
        self._accepted = 0
        self._failures = 0
        self._last_failed = 0
        self._old_is_next = True
        #: Whether nothing but probes is sent, because the receiver accepts nothing.
        self.paused = False
        #: Whether it pauses because of a single batch: there was no other one.
        self._is_alone = False
        self._unreachable = False
        self._pauses = 0
        self._resume_at = 0.0
        self._quiet_until = 0.0
        self._probe_at = 0.0
        #: Whether a receiver that accepts a probe is expected to accept a batch.
        self._probe_is_trusted = True
        self._resumed_by_probe = False
        #: The attempt that found the receiver unavailable.
        self._gave_up = 0
        #: A flush: each batch up to this number is tried at once, unless it was since this attempt.
        self._urgent: tuple[float, int] | None = None

    @property
    def waits(self) -> bool:
        """Whether anything waits, beside the batch that is being sent."""
        return bool(self._fresh or self._parts or self._room)

    def __bool__(self) -> bool:
        return self.current is not None or self.waits

    @property
    def is_down(self) -> bool:
        """Whether the receiver seems to accept nothing. One refused batch shows it only if it is the first."""
        return self.paused and not (self._is_alone and self._accepted)

    @property
    def accepted(self) -> int:
        """How many batches the receiver has accepted."""
        return self._accepted

    @property
    def last_number(self) -> int:
        return self._number

    def put(self, batch: Any) -> None:
        """Add a new batch."""
        self._number += 1
        self._fresh.append(Waiting(batch, self._number))

    def take_all(self) -> list[Waiting]:
        """Remove and return what waits, the oldest first. The batch that is being sent stays."""
        left = sorted((*self._room, *self._parts, *self._fresh), key=lambda waiting: waiting.number)
        self._room.clear()
        self._parts.clear()
        self._fresh.clear()
        return left

    def put_back(self, waiting: list[Waiting]) -> None:
        """Add what :meth:`take_all` returned, before all that was added since."""
        self._fresh.extendleft(reversed(waiting))

    # ----- flushes

    def hurry(self, number: float, attempt: int) -> None:
        """Try each batch up to ``number`` now, whatever pauses there are, unless it was tried since ``attempt``."""
        if self._urgent is not None:
            number = max(number, self._urgent[0])
        self._urgent = number, attempt
        self._failures = 0

    @property
    def hurries(self) -> bool:
        return self._urgent is not None

    def tried(self, number: float, attempt: int) -> bool:
        """Return whether all batches up to ``number`` are done with, or failed since ``attempt``."""
        if self.current is not None and self.current.number <= number:
            return False
        return self._gave_up >= attempt or all(waiting.attempt >= attempt for waiting in self._up_to(number))

    def is_done(self, number: float) -> bool:
        """Return whether no batch up to ``number`` waits or is being sent."""
        if self.current is not None and self.current.number <= number:
            return False
        return next(self._up_to(number), None) is None

    def _up_to(self, number: float) -> Iterator[Waiting]:
        for place in (self._room, self._parts):
            for waiting in place:
                if waiting.number <= number:
                    yield waiting
        for waiting in self._fresh:
            if waiting.number > number:
                return
            yield waiting

    # ----- what is next

    def next(self, now: float) -> Any:
        """Return what to send now: a :class:`Waiting` or :data:`PROBE`. If nothing, return the seconds to wait."""
        urgent = self._next_urgent()
        if urgent is not None:
            return urgent
        if not self and not (self.paused and self.more):
            return float("inf")
        if not self.paused:
            return self._candidate(now) or min(waiting.due for waiting in self._room) - now
        if self._is_alone and (self._fresh or self._parts):
            # Only one batch was refused. Another one shows whether the receiver is the reason.
            return self._candidate(now)
        if now < self._quiet_until:
            return self._quiet_until - now
        if now >= self._resume_at:
            # One: if it fails too, everything pauses again.
            self._failures = 1
            self._is_alone = False
            chosen = self._candidate(float("inf"))
            if chosen is None:
                # It is the spool's turn.
                self._resume(now)
            return chosen or float("inf")
        if not self._can_probe or not self._probe_is_trusted:
            return self._resume_at - now
        return PROBE if now >= self._probe_at else min(self._probe_at, self._resume_at) - now

    def _next_urgent(self) -> Waiting | None:
        if self._urgent is None:
            return None
        number, attempt = self._urgent
        if self._gave_up < attempt:
            for waiting in self._up_to(number):
                if waiting.attempt < attempt:
                    return waiting
        self._urgent = None
        return None

    def _candidate(self, now: float) -> Waiting | None:
        """Return the batch whose turn it is. The receiver is asked for another one than it just refused."""
        due = [waiting for waiting in self._room if waiting.due <= now]
        due.sort(key=lambda waiting: waiting.number == self._last_failed)
        old = self._parts[0] if self._parts else due[0] if due else None
        fresh = self._fresh[0] if self._fresh else None
        if old is None or fresh is None:
            return old or fresh
        if old.number == self._last_failed and old.attempts:
            return fresh
        return old if self._old_is_next or self._unreachable else fresh

    def start(self, waiting: Waiting, attempt: int) -> None:
        """Note that ``waiting`` is being sent, in the attempt of that number."""
        if self._fresh and self._fresh[0] is waiting:
            self._fresh.popleft()
            self._old_is_next = True
        else:
            self._old_is_next = False
            if self._parts and self._parts[0] is waiting:
                self._parts.popleft()
            else:
                self._room.remove(waiting)
        waiting.attempt = attempt
        self.current = waiting

    # ----- results

    def accept(self, now: float) -> None:
        """Note that the receiver accepted the current batch."""
        if self.current is not None and self.current.number == self._tiny.number:
            self._tiny = _Tiny()
        self.current = None
        self._accepted += 1
        self._pauses = 0
        self._probe_is_trusted = True
        self.answered(now)

    def give_up(self, attempt: int) -> Any:
        """End all flushes up to ``attempt``. Return the batch that was being sent, which is lost, or None."""
        self._gave_up = attempt
        waiting, self.current = self.current, None
        return None if waiting is None else waiting.batch

    def answered(self, now: float) -> None:
        """Note that the receiver does its work, also if it refused a batch for ever."""
        self._failures = self._last_failed = 0
        self._unreachable = False
        self._resumed_by_probe = False
        if self.paused:
            self._resume(now)

    def _resume(self, now: float) -> None:
        self.paused = False
        if not self._is_alone:
            # Not their own fault: they need not wait longer.
            for waiting in self._room:
                waiting.due = min(waiting.due, now)
        self._is_alone = False

    def fail(self, failure: ExportError, now: float) -> list[tuple[DropReason, Any]]:
        """Note that the current batch failed. Return the batches that are dropped now, and why."""
        waiting = self.current
        assert waiting is not None
        self.current = None
        if failure.retryable:
            return self._refused(waiting, failure, now)
        self.answered(now)
        split = getattr(waiting.batch, "split", None)
        if failure.reason == "too_large" and split is not None and waiting.batch.count > 1:
            for part in reversed(split()):
                half = Waiting(part, waiting.number)
                half.since, half.passed = waiting.since, waiting.passed
                self._parts.appendleft(half)
            return []
        dropped = [waiting.batch]
        if failure.reason == "too_large":
            dropped += self._drop_as_large(waiting)
        return [(drop_reason(failure), batch) for batch in dropped]

    def _drop_as_large(self, waiting: Waiting) -> list[Any]:
        """Drop the parts of a batch that are too large as well, if single spans of it were, several times in a row.

        Otherwise a receiver that refuses all sizes would get a request for each span. A span that is smaller than all
        that were refused is still sent.
        """
        tiny = self._tiny
        if tiny.number != waiting.number:
            tiny = _Tiny(waiting.number)
        self._tiny = tiny = _Tiny(waiting.number, tiny.refused + 1, min(tiny.size, waiting.batch.size))
        if tiny.refused < _MOST_TOO_LARGE:
            return []
        kept: deque[Waiting] = deque()
        dropped: list[Any] = []
        for part in self._parts:
            if part.number != waiting.number:
                kept.append(part)
                continue
            batches = [part.batch]
            while batches:
                batch = batches.pop()
                if batch.count > 1:
                    batches.extend(reversed(batch.split()))
                elif batch.size >= tiny.size:
                    dropped.append(batch)
                else:
                    kept.append(Waiting(batch, part.number))
        self._parts = kept
        return dropped

    def _refused(self, waiting: Waiting, failure: ExportError, now: float) -> list[tuple[DropReason, Any]]:
        waiting.attempts += 1
        reachable = failure.reason not in _UNREACHABLE
        dropped: list[tuple[DropReason, Any]] = []
        if reachable and waiting.since is None:
            waiting.since, waiting.passed = now, self._accepted
        if reachable and failure.reason == "failed" and waiting.attempts >= _ATTEMPTS:
            dropped.append(("export_error", waiting.batch))
        elif reachable and waiting.since is not None and now - waiting.since >= self._retry_for:
            dropped.append(("expired", waiting.batch))
        else:
            asked = min(failure.retry_after or 0.0, _LONGEST_RETRY_AFTER)
            waiting.due = now + max(_pause(waiting.attempts, _LONGEST_PAUSE), asked)
            self._room.append(waiting)
            self._room.sort(key=lambda each: each.number)
            while len(self._room) > _MOST_REFUSED or (
                len(self._room) > 1 and sum(each.batch.size for each in self._room) > self._room_bytes
            ):
                dropped.append(("retry_full", self._room.pop(0).batch))
        # It is the batch's own fault if others were accepted since it was first refused.
        if self.paused or not reachable or self._accepted == waiting.passed:
            self._last_failed = waiting.number if reachable else 0
            self._failures += 1
            others = self._fresh or self._parts or any(each.due <= now for each in self._room)
            if not reachable or self._failures > 1 or not others:
                self._pause(waiting.attempt, failure, now)
        return dropped

    def refuse_spooled(self, failure: ExportError, now: float, attempt: int) -> None:
        """Note that the receiver refused a batch of the spool."""
        self._failures += 1
        if self.paused or failure.reason in _UNREACHABLE or self._failures > 1:
            self._pause(attempt, failure, now)

    def _pause(self, attempt: int, failure: ExportError, now: float) -> None:
        self.paused = True
        self._gave_up = attempt
        self._pauses += 1
        self._unreachable = failure.reason in _UNREACHABLE
        # Next, a batch that was never refused: it shows whether the receiver is the reason.
        self._old_is_next = False
        self._is_alone = self._failures == 1 and not self._unreachable
        self._probe_is_trusted = self._probe_is_trusted and not self._resumed_by_probe
        self._resumed_by_probe = False
        if self._can_probe and self._probe_is_trusted:
            longest = _LONGEST_PAUSE
        else:
            longest = _LONGEST_UNREACHABLE if self._unreachable else _LONGEST_UNPROBED
        self._resume_at = now + _pause(self._pauses, longest)
        self._quiet_until = now + min(failure.retry_after or 0.0, _LONGEST_RETRY_AFTER)
        self._probe_at = now + _PROBE_PAUSE * _jitter()

    def probed(self, failure: ExportError | None, now: float) -> None:
        """Note the result of a probe. A receiver that answers anything final is tried with batches."""
        if failure is not None and failure.retryable:
            self._probe_at = now + _PROBE_PAUSE * _jitter()
            self._quiet_until = max(self._quiet_until, now + min(failure.retry_after or 0.0, _LONGEST_RETRY_AFTER))
            return
        self._failures = 0
        self._resumed_by_probe = True
        self._resume(now)


def drop_reason(failure: ExportError) -> DropReason:
    """Return what the spans of a batch are counted as that was refused for ever."""
    return _DROP_REASONS.get(failure.reason, "rejected")


def _pause(attempts: int, longest: float) -> float:
    return min(_FIRST_PAUSE * (1 << min(attempts - 1, 10)), longest) * _jitter()


def _jitter() -> float:
    # Many processes lose their receiver at the same time. They must not all come back at the same time.
    return random.uniform(0.8, 1.0)  # noqa: S311 - not for security
