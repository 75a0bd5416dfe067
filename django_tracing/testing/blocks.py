"""Give each span to the open blocks that it belongs to."""

from __future__ import annotations

import itertools
import threading
from contextvars import ContextVar, Token
from typing import Final
from weakref import WeakValueDictionary

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from django_tracing.testing.captured import CapturedSpan, CapturedSpans

__all__ = ["Mark", "collector", "current_blocks"]

#: How many traces are remembered that started in a block, also after the block has ended.
_MAX_TRACES: Final = 10_000
_MARK: Final = "_django_tracing_mark"

_sequence: Final = itertools.count()
#: The ids of the blocks that the running code is in, also of some that have ended.
current_blocks: Final[ContextVar[frozenset[int]]] = ContextVar("django_tracing_blocks", default=frozenset())


class Mark:
    """A span that started in a block. A mark lives as long as the span or the block does."""

    __slots__ = ("__weakref__", "blocks", "done", "export", "key", "sequence", "span", "thread")

    def __init__(self, span: Span, key: tuple[int, int], blocks: tuple[CapturedSpans, ...], export: bool) -> None:
        self.span: ReadableSpan = span
        self.key = key
        self.blocks = blocks
        self.export = export
        self.sequence = next(_sequence)
        self.thread = threading.get_ident()
        self.done = threading.Event()


class _Collector(SpanProcessor):
    """The open blocks of this process, and the spans that started in them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: All open blocks, in the order they were opened. Replaced as a whole, so that reading needs no lock.
        self.open: tuple[CapturedSpans, ...] = ()
        #: Trace id -> the blocks that the trace started in, and whether it is exported.
        self._traces: dict[int, tuple[frozenset[int], bool]] = {}
        #: By trace id and span id: the span that a processor receives at the end may be a copy.
        self._marks: WeakValueDictionary[tuple[int, int], Mark] = WeakValueDictionary()

    def enter(self, export: bool) -> tuple[CapturedSpans, Token[frozenset[int]]]:
        """Open a block. The token restores the context when the block ends."""
        spans = CapturedSpans(export, self._enclosing())
        token = current_blocks.set(spans._chain)
        spans._is_open = True
        with self._lock:
            self.open = (*self.open, spans)
        return spans, token

    def leave(self, spans: CapturedSpans) -> None:
        """Close a block, which no longer changes from now on."""
        spans._is_open = False
        with self._lock:
            self.open = tuple(other for other in self.open if other is not spans)

    def _enclosing(self) -> frozenset[int]:
        current = current_blocks.get()
        enclosing = [other for other in self.open if other._id in current]
        if not enclosing:
            # For example the block of a fixture: its context variable is not set in the event loop of its thread.
            thread = threading.get_ident()
            enclosing = [other for other in self.open if other._thread == thread and not other._in_task]
        return frozenset().union(*(other._chain for other in enclosing))

    def mark_of(self, span: ReadableSpan) -> Mark | None:
        """Return the mark of a span that started in a block; None for any other span."""
        context = span.get_span_context()
        return None if context is None else self._marks.get((context.trace_id, context.span_id))

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        blocks = self.open
        if not blocks and not self._traces:
            return
        context = span.get_span_context()
        known = self._traces.get(context.trace_id)
        current = current_blocks.get()
        belongs = tuple(block for block in blocks if block._id in current)
        if not belongs:
            # A thread that existed before, for example a live server's: by its trace, if that started in a block.
            belongs = blocks if known is None else tuple(block for block in blocks if block._chain & known[0])
        if belongs:
            export = belongs[-1]._exported
        elif known is not None:
            export = known[1]
        else:
            return
        mark = Mark(span, (context.trace_id, context.span_id), belongs, export)
        span.__dict__[_MARK] = mark
        self._marks[mark.key] = mark
        for block in belongs:
            block._marks.append(mark)
        if known is None and (span.parent is None or span.parent.is_remote):
            while len(self._traces) >= _MAX_TRACES:
                self._traces.pop(next(iter(self._traces)), None)
            self._traces[context.trace_id] = (frozenset(block._id for block in belongs), export)

    def on_end(self, span: ReadableSpan) -> None:
        mark = self.mark_of(span)
        if mark is None:
            return
        for block in mark.blocks:
            if block._is_open:
                block._ended[mark.key] = CapturedSpan(span, mark.sequence, block)
        mark.span = span
        mark.done.set()


collector: Final = _Collector()
