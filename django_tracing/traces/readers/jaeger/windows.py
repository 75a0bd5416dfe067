"""Search windows of time, the newest first, until the newest traces are known without gaps.

Jaeger answers a search with some of the traces that match: those with the newest span (Badger, Elasticsearch,
OpenSearch), those that arrived last (memory), or those of the first rows of an index that has a row for each span
(Cassandra). None of these are the traces that started last. But all of a trace's spans start after the trace does, so
once every window of time back to a moment has been searched completely, no trace is missing that started since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from django_tracing.exceptions import JaegerError
from django_tracing.traces.model import TraceSummary

__all__ = ["LONGEST_MARGIN", "MOST_DEPTH", "MOST_REQUESTS", "MOST_SECONDS", "ROWS_PER_TRACE", "WindowSearch"]

#: Of Cassandra's indexes, Jaeger reads this many rows for each trace that is asked for.
ROWS_PER_TRACE: Final = 3
#: The largest number of traces that is asked for at once.
MOST_DEPTH: Final = 1500
#: How many requests a search sends, for each service.
MOST_REQUESTS: Final = 40
#: How long a search takes, in seconds, before it returns what it has found.
MOST_SECONDS: Final = 20.0
#: How long before its first matching span a trace may have started to be found on a later page, in seconds.
LONGEST_MARGIN: Final = 60.0
#: The shortest such margin.
_SHORTEST_MARGIN: Final = 1.0
#: How many requests find traces that started before a page, and of which a span that matches started later.
_MARGIN_REQUESTS: Final = 12
#: Each storage can search for so many traces.
_FEWEST: Final = 50
#: The next window has at least so many microseconds.
_SHORTEST_STEP: Final = 1000
#: A window of so many microseconds is not divided.
_SHORTEST: Final = 4

#: Asks for at most so many traces with a span that started within these microseconds since the epoch.
Ask = Callable[[int, int, int], list[TraceSummary]]


class WindowSearch:
    """Finds the newest ``limit`` traces for which ``matches`` is true. Times are microseconds since the epoch.

    ``joint``: of several conditions, Cassandra intersects incomplete answers.
    """

    def __init__(self, matches: Callable[[TraceSummary], bool], limit: int, *, joint: bool = False) -> None:
        self._matches = matches
        self._limit = limit
        self._joint = joint
        self._base = min(max(2 * limit, 20), MOST_DEPTH)
        self._most = MOST_DEPTH
        self._deadline = time.monotonic() + MOST_SECONDS
        self._requests = 0
        self._traces = self._spans = 0
        self._longest = 0
        #: All traces that match and were found, by id.
        self.found: dict[str, TraceSummary] = {}

    @property
    def floor(self) -> int | None:
        """The start of the oldest of ``limit`` traces that were found; None if there are fewer."""
        if len(self.found) < self._limit:
            return None
        return sorted(summary.start for summary in self.found.values())[-self._limit] // 1000

    def run(self, ask: Ask, since: int, until: int) -> int:
        """Search back from ``until``. Return a time: every trace is found that has a span since then.

        It is ``since``, unless there are enough traces, or the search has taken too long.
        """
        return self._run(ask, since, until, self._limit, MOST_REQUESTS)

    def run_above(self, ask: Ask, since: int) -> None:
        """Find traces that started before ``since`` and have spans that match only later.

        How much later is not known: as long as the traces take that were found, up to :data:`LONGEST_MARGIN`.
        """
        last_request = self._requests + _MARGIN_REQUESTS
        lower, upper = since, since
        while self._requests < last_request:
            longest = self._longest if self._longest else int(LONGEST_MARGIN * 1e6)
            margin = min(max(longest, int(_SHORTEST_MARGIN * 1e6)), int(LONGEST_MARGIN * 1e6))
            if since + margin <= lower:
                return
            # The nearest first: if traces are many, the rest is not searched.
            upper = since + (margin // 8 if lower == since else margin)
            self._run(ask, lower, upper, None, last_request - self._requests)
            lower = upper

    def _run(self, ask: Ask, since: int, until: int, limit: int | None, most_requests: int) -> int:
        lower, upper, depth = since, until, self._base
        last_request = self._requests + most_requests
        answer: list[TraceSummary] | None = None
        while True:
            try:
                if answer is None:
                    answer = self._ask(ask, lower, upper, depth)
                depth = min(depth, self._most)
                complete, answer, newer = self._examined(ask, lower, upper, depth, answer)
            except JaegerError as error:
                # What is known is returned, and a search for older traces goes on from there.
                if error.reason == "timeout" and upper < until:
                    return upper
                raise
            if complete and (lower <= since or (limit is not None and self._count_since(lower) >= limit)):
                return lower
            if self._requests >= last_request or time.monotonic() > self._deadline:
                # If no window is complete, the search must not start at the same time again.
                return lower if complete or upper == until else upper
            if complete:
                # As long as about half of the wanted traces need to start.
                started = sum(lower <= summary.start // 1000 <= upper for summary in answer)
                width = (_newest(answer, upper) - lower) * (self._base // 2) // started if started else upper - since
                upper, lower = lower, max(lower - max(width, _SHORTEST_STEP), since)
                answer, depth = None, self._base if lower == since else max(depth, self._depth())
            elif newer is not None:
                lower, answer, depth = (lower + upper) // 2, newer, self._most
            else:
                lower = self._narrowed(lower, upper, answer)
                # The more traces overlap, the more have a span in the shortest window.
                answer, depth = None, max(min(3 * depth, self._most), self._depth())

    def _examined(
        self, ask: Ask, lower: int, upper: int, depth: int, answer: list[TraceSummary]
    ) -> tuple[bool, list[TraceSummary], list[TraceSummary] | None]:
        """Return whether ``answer`` is complete, the answer, and that for the newer half if it was asked for."""
        if upper - lower <= _SHORTEST:
            return True, answer, None
        if len(answer) >= depth:
            return False, answer, None
        # Each row that Cassandra has read belongs to one of these traces. With fewer spans than rows that it may
        # read, it has read all rows.
        needed = sum(summary.span_count for summary in answer) // ROWS_PER_TRACE + 1
        if not self._joint:
            if needed <= depth:
                return True, answer, None
            if needed <= self._most:
                answer = self._ask(ask, lower, upper, needed)
                rows = sum(summary.span_count for summary in answer)
                if len(answer) < needed <= self._most and rows < ROWS_PER_TRACE * needed:
                    return True, answer, None
        # It is complete if its halves have nothing more.
        middle = (lower + upper) // 2
        newer = self._ask(ask, middle, upper, self._most)
        older = self._ask(ask, lower, middle, self._most)
        return _ids(newer) | _ids(older) <= _ids(answer), answer, newer

    def _ask(self, ask: Ask, lower: int, upper: int, depth: int) -> list[TraceSummary]:
        self._requests += 1
        depth = min(depth, self._most)
        try:
            # Cassandra leaves out what starts at the ends of the window.
            answer = ask(lower - 1, upper + 1, depth)
        except JaegerError as error:
            if error.reason != "failed" or depth <= _FEWEST:
                raise
            # Memory refuses to search for more traces than it may hold.
            self._most = max(min(depth // 2, self._base), _FEWEST)
            self._base = min(self._base, self._most)
            return self._ask(ask, lower, upper, self._most)
        for summary in answer:
            self._traces += 1
            self._spans += summary.span_count
            self._longest = max(self._longest, summary.duration // 1000)
            if self._matches(summary):
                known = self.found.get(summary.trace_id)
                if known is None or known.span_count <= summary.span_count:
                    self.found[summary.trace_id] = summary
        return answer

    def _count_since(self, start: int) -> int:
        return sum(summary.start >= start * 1000 for summary in self.found.values())

    def _depth(self) -> int:
        """Return how many traces to ask for, so that Cassandra reads the rows of as many as are wanted."""
        rows = self._base * self._spans // max(self._traces, 1)
        return min(max(self._base, rows // ROWS_PER_TRACE + 1), self._most)

    def _narrowed(self, lower: int, upper: int, answer: list[TraceSummary]) -> int:
        """Return the start of a window, at most half as long, that about half of the wanted traces start in."""
        starts = sorted((summary.start // 1000 for summary in answer), reverse=True)
        guess = starts[min(self._base // 2, len(starts) - 1)]
        middle = (lower + _newest(answer, upper)) // 2
        return max(guess, middle) if guess < upper else middle


def _newest(answer: Collection[TraceSummary], upper: int) -> int:
    """Return the last end of the traces in a window that ends at ``upper``."""
    return min(max((summary.start + summary.duration) // 1000 + 1 for summary in answer), upper)


def _ids(summaries: Collection[TraceSummary]) -> set[str]:
    return {summary.trace_id for summary in summaries}
