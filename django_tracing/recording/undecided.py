"""Hold the ended spans of traces whose sampling decision is still open."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from threading import RLock
from typing import Final, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags, TraceState, get_current_span

from django_tracing.faults import log_once
from django_tracing.recording.copies import SpanCopy
from django_tracing.recording.sdk import set_context
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import SAMPLED, RecordingSpan
from django_tracing.semconv.names import (
    SAMPLING_LOST,
)

__all__ = ["SamplingDecision", "UndecidedTrace", "late", "lost_undecided", "undecided_traces"]

_logger = logging.getLogger("django_tracing")


class SamplingDecision(NamedTuple):
    """The decision on a trace that starts in this process or comes in from another one."""

    kept: bool
    #: Set where the decision cannot be made yet, or may change with the outcome of the request.
    undecided: UndecidedTrace | None = None
    #: The attributes of the first span that describe the decision.
    shared: SharedAttributes | None = None
    #: The tracestate to pass on; None: the caller's.
    trace_state: TraceState | None = None


#: The largest number of undecided traces. One whose first span never ends is never decided.
_MOST_TRACES: Final = 10_000
#: The largest number of ended spans that wait for a decision, of one trace and of all.
_MOST_SPANS_OF_ONE: Final = 1000
_MOST_SPANS: Final = 20_000

#: The undecided traces by trace id, by which spans of other tracers find theirs. The oldest comes first.
undecided_traces: Final[dict[int, UndecidedTrace]] = {}


class _Waiting:
    """How many ended spans of all undecided traces wait for a decision, and how many were lost meanwhile."""

    __slots__ = ("lock", "lost", "spans")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.spans = 0
        self.lost = 0
        self.lock = RLock()

    def lose(self, count: int) -> None:
        with self.lock:
            self.lost += count


_waiting: Final = _Waiting()


def lost_undecided() -> int:
    """Return how many spans of this process were lost while their trace was undecided.

    They are those beyond the limits, of traces that were kept; all spans of traces that were never decided, because
    newer ones needed the space; and spans that could not be passed on.
    """
    return _waiting.lost


class UndecidedTrace:
    """Hold the ended spans of a trace that is recorded before it is known whether it is kept. No method raises.

    The decision is made at the latest when the first span ends: ``decide`` is called for the last time, and an error
    or a long duration may keep a trace that the rate did not. Until then, calls to other services carry the flag "not
    sampled", unless the decision was made earlier.
    """

    __slots__ = (
        *("deadline", "decided", "ended", "decide", "forgotten", "keep_errors", "kept", "lost", "root"),
        "trace_id",
    )

    def __init__(
        self,
        trace_id: int,
        decide: Callable[[bool], SamplingDecision | None] | None,
        *,
        keep_errors: bool = False,
        slower_than: float | None = None,
    ) -> None:
        self.trace_id = trace_id
        #: Decides by the user. It returns None while the user is unknown, unless it is called with True: the last
        #: time.
        self.decide = decide
        self.keep_errors = keep_errors
        #: The duration in nanoseconds from which a trace is kept.
        self.deadline = None if slower_than is None else int(slower_than * 1e9)
        self.kept = False
        self.decided = False
        self.root: RecordingSpan | None = None
        self.ended: list[ReadableSpan] = []
        #: How many spans had no place here, and whether the trace itself has none any more.
        self.lost = 0
        self.forgotten = False

    def start(self, root: RecordingSpan) -> None:
        """Wait for the end of ``root``, the first span of the trace here, or for its request's user."""
        self.root = root
        if root.request_state is not None:
            # A rule for this user, or this subscription, may keep the trace.
            root.request_state.when_user_known = self.reconsider
        if len(undecided_traces) >= _MOST_TRACES:
            self._forget_oldest()
        undecided_traces[self.trace_id] = self

    @staticmethod
    def _forget_oldest() -> None:
        try:
            oldest = undecided_traces.pop(next(iter(undecided_traces)))
        except (KeyError, RuntimeError, StopIteration):  # another thread was quicker
            return
        oldest.forgotten = True
        oldest.decided = True
        oldest.root = None
        _waiting.lose(oldest.lost + oldest._discard())

    def reconsider(self) -> None:
        """Decide again, now that the user is known."""
        self._ask(last=False)

    def _ask(self, *, last: bool) -> None:
        decide = self.decide
        if decide is None:
            return
        decision = decide(last)
        if decision is None:
            return
        self.decide = None
        root = self.root
        if decision.undecided is not None:
            self.keep_errors = decision.undecided.keep_errors
            self.deadline = decision.undecided.deadline
        if root is not None and decision.shared is not None:
            # It may have ended already.
            root.set_after_end(decision.shared)
        self.kept = decision.kept
        if self.kept:
            self._release()

    def _release(self) -> None:
        """Forward the spans that wait."""
        waiting, self.ended = self.ended, []
        # In two statements: another thread may run between reading the length and subtracting it.
        count = len(waiting)
        _waiting.spans -= count
        for span in waiting:
            _forward(span)

    def end(self, span: RecordingSpan) -> None:
        """Take an ended span of the trace."""
        if self.decided:
            if self.kept:
                _forward(span)
            elif self.forgotten:
                _waiting.lose(1)
            return
        if span is not self.root:
            if self.kept:
                _forward(span)
                return
            if len(self.ended) >= _MOST_SPANS_OF_ONE or _waiting.spans >= _MOST_SPANS:
                self.lost += 1
                return
            self._wait(span)
            return
        try:
            self._ask(last=True)
            if not self.kept:
                self._overrule(span)
        finally:
            self._decide(span)

    def _overrule(self, root: RecordingSpan) -> None:
        """Keep a trace that failed or took long, though the rate did not keep it."""
        failed = self.keep_errors and root.span_status.status_code is StatusCode.ERROR
        slow = self.deadline is not None and (root.end_ns or 0) - root.start_ns >= self.deadline
        self.kept = failed or slow

    def _decide(self, root: RecordingSpan) -> None:
        self.decided = True
        undecided_traces.pop(self.trace_id, None)
        self.root = None
        if self.kept:
            self._release()
            if self.lost:
                _waiting.lose(self.lost)
                root.set_after_end(SharedAttributes({SAMPLING_LOST: self.lost}))
            _forward(root)
        else:
            self._discard()

    def _discard(self) -> int:
        """Drop the spans that wait, one by one, since another thread may be adding to them. Return how many."""
        ended = self.ended
        count = 0
        while ended:
            try:
                ended.pop()
            except IndexError:  # another thread was quicker
                break
            _waiting.spans -= 1
            count += 1
        return count

    def _wait(self, span: ReadableSpan) -> None:
        _waiting.spans += 1
        self.ended.append(span)
        # Another thread may have decided a moment ago.
        if self.kept:
            self._release()
        elif self.decided:
            discarded = self._discard()
            if self.forgotten:
                _waiting.lose(discarded)

    def end_sdk_span(self, span: ReadableSpan) -> None:
        """Hold an SDK span until the decision."""
        if self.kept:
            _forward(span)
        elif self.decided:
            if self.forgotten:
                _waiting.lose(1)
        elif len(self.ended) >= _MOST_SPANS_OF_ONE or _waiting.spans >= _MOST_SPANS:
            self.lost += 1
        else:
            self._wait(span)


def _after_fork_in_child() -> None:
    """Leave what waits to the parent, which sends or drops it. What the child ends is its own."""
    _waiting.reset()
    current = None
    try:
        current = undecided_traces.get(get_current_span().get_span_context().trace_id)
    except Exception:
        _logger.debug("The current span of a forked process is of an unknown kind.", exc_info=True)
    for undecided in undecided_traces.values():
        undecided.ended = []
        undecided.lost = 0
    # The other traces are of the parent's other threads, and never end here.
    undecided_traces.clear()
    if current is not None:
        undecided_traces[current.trace_id] = current


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


#: What takes the SDK's own spans of a trace that was kept late: the queue.
late: list[Callable[[ReadableSpan], None]] = []


def _forward(span: ReadableSpan) -> None:
    """Pass an ended span to the processors as a sampled one."""
    try:
        if span.__class__ is RecordingSpan:
            span.flags |= SAMPLED
            span.made_context = None
            span.undecided = None
            for on_end in span.factory.processors().on_end:
                on_end(span)
            return
        known = span.get_span_context()
        if known is not None:
            flags = TraceFlags(known.trace_flags | SAMPLED)
            sampled = SpanContext(known.trace_id, known.span_id, known.is_remote, flags, known.trace_state)
            if isinstance(span, SpanCopy):
                span.span_context = sampled
            else:
                set_context(span, sampled)
            for take in late:
                take(span)
    except Exception:
        _waiting.lose(1)
        log_once("kept-late", "A span that was kept late could not be sent.")
