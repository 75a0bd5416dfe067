"""The spans that a block of a test makes: ``with capture_spans() as spans``, a pytest fixture, a TestCase mixin.

While a block is open every trace that begins in the process is kept, whatever the sampler says, and what begins in
it stays in the process, unless ``export=True`` says otherwise.

PYTEST_DONT_REWRITE: a conftest may import this before it names it as a plugin, which pytest would warn of.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final, overload
from weakref import WeakValueDictionary

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from django_tracing.conf.loading import get_settings
from django_tracing.export.queue import QueueProcessor
from django_tracing.instrumentation.upstream.processor import UpstreamProcessor
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.undecided import SamplingDecision
from django_tracing.spans import runtime
from django_tracing.traces.model import Event, Kind, Status
from django_tracing.traces.text import key_attributes, plain

__all__ = ["CaptureSpansMixin", "CapturedSpan", "CapturedSpans", "SpanCapture", "capture_spans"]

#: Of a failed ``find``, unittest shows the test's line, not ours.
__unittest = True

#: How many seconds a block's readers wait, in all, for spans that other threads still have open.
_PATIENCE: Final = 1.0
#: How many traces are remembered as begun in a block, after it too.
_MOST_TRACES: Final = 10_000
_MARK: Final = "_django_tracing_mark"


class CapturedSpan:
    """One ended span, as it would have been sent: redacted, with the names that are in force."""

    def __init__(self, span: ReadableSpan, sequence: int, spans: CapturedSpans) -> None:
        context = span.get_span_context()
        assert context is not None
        self.name: str = span.name
        #: Values are strings, booleans, numbers, or tuples of one of these.
        self.attributes: dict[str, Any] = _plain(span.attributes)
        self.events: list[Event] = [
            Event(event.name, event.timestamp, _plain(event.attributes)) for event in span.events
        ]
        self.status: Status = span.status.status_code.name.lower()  # type: ignore[assignment]
        self.status_message: str = span.status.description or ""
        self.kind: Kind = span.kind.name.lower()  # type: ignore[assignment]
        #: 32 and 16 digits of lower-case hex, as in logs and in Jaeger.
        self.trace_id: str = f"{context.trace_id:032x}"
        self.span_id: str = f"{context.span_id:016x}"
        started = span.start_time or 0
        #: Seconds.
        self.duration: float = max(0, (span.end_time or 0) - started) / 1e9
        self._key = (context.trace_id, context.span_id)
        self._parent_key = None if span.parent is None else (context.trace_id, span.parent.span_id)
        self._order = (started, sequence)
        self._spans = spans

    @property
    def error(self) -> bool:
        """Whether the span failed."""
        return self.status == "error"

    @property
    def parent(self) -> CapturedSpan | None:
        """The span that this one is below; None where there is none, or it is not among the captured."""
        return None if self._parent_key is None else self._spans._ended.get(self._parent_key)

    @property
    def children(self) -> list[CapturedSpan]:
        """The captured spans right below this one, in the order they started."""
        return [span for span in self._spans if span._parent_key == self._key]

    def __repr__(self) -> str:
        return f"<CapturedSpan {plain(self.name)} {self.attributes!r}>"


class CapturedSpans(Sequence[CapturedSpan]):
    """The spans that started since a block began and have ended, in the order they started.

    Reading waits for spans that other threads still have open (a live server's, say), a second in all at most.
    After the block it no longer changes.
    """

    def __init__(self, export: bool, enclosing: frozenset[int]) -> None:
        self._export = export
        self._id = next(_ids)
        #: Its own id and those of the blocks that it is in.
        self._chain = enclosing | {self._id}
        self._thread = threading.get_ident()
        self._in_task = _loop_runs() and asyncio.current_task() is not None
        self._marks: list[_Mark] = []
        self._ended: dict[tuple[int, int], CapturedSpan] = {}
        self._patience = _PATIENCE

    # ----- reading

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[CapturedSpan]:
        return iter(self._read())

    @overload
    def __getitem__(self, index: int) -> CapturedSpan: ...

    @overload
    def __getitem__(self, index: slice) -> list[CapturedSpan]: ...

    def __getitem__(self, index: int | slice) -> CapturedSpan | list[CapturedSpan]:
        return self._read()[index]

    @property
    def names(self) -> list[str]:
        """The spans' names, in the order they started."""
        return [span.name for span in self._read()]

    def find(self, name: str | None = None, **attributes: Any) -> CapturedSpan:
        """The one span with that name and those attributes; AssertionError, with the tree, where not just one has.

        A dot in an attribute's name is written as two underscores (``http__status_code=200``), or the name in
        quotes (``**{"http.status_code": 200}``). None asks for spans without the attribute.
        """
        __tracebackhide__ = True  # pytest shows the test's line, not ours
        found = self.find_all(name, **attributes)
        if len(found) != 1:
            raise AssertionError(self._explain(found, name, attributes))
        return found[0]

    def find_all(self, name: str | None = None, **attributes: Any) -> list[CapturedSpan]:
        """All spans with that name and those attributes (as in :meth:`find`), in the order they started."""
        return [
            span
            for span in self._read()
            if (name is None or span.name == name)
            and all(_same(_value(span, key), wanted) for key, wanted in attributes.items())
        ]

    def tree(self) -> str:
        """The spans as a tree of text, a line each, with what tells most about them; then what is still open."""
        ended = self._sorted()
        lines: list[str] = []
        for branch, below, span in _rows(ended):
            line = f"{branch}{'✗ ' if span.error else ''}{plain(span.name)}"
            for key, value in key_attributes(span.attributes):
                line += f"  {key}={value}"
            lines.append(line)
            message = _message(span)
            if message:
                lines.append(f"{below}{message}")
        lines += [f"(not ended in the block: {plain(name)})" for name in self._open_names()]
        return "\n".join(lines) or "(no spans)"

    def __repr__(self) -> str:
        # One line: pytest shows no more than that of it.
        text: list[str] = []
        depth = 0
        for branch, _, span in _rows(self._sorted()):
            level = len(branch) // 3
            text.append("]" * (depth - level))
            text.append(" [" if level > depth else ", " if text[1:] else "")
            text.append(f"{'✗ ' if span.error else ''}{plain(span.name)}")
            depth = level
        text.append("]" * depth)
        text += [f", (not ended in the block: {plain(name)})" for name in self._open_names()]
        return f"<{_counted(len(self._ended))}: {''.join(text)}>" if len(text) > 1 else "<no spans>"

    def _read(self) -> list[CapturedSpan]:
        # Waiting in an event loop would hold up the very task that is waited for.
        if self._patience and self in _open and not _loop_runs():
            me = threading.get_ident()
            for mark in list(self._marks):
                if mark.thread != me and not mark.done.wait(self._patience):
                    self._patience = 0.0
                    break
        return self._sorted()

    def _sorted(self) -> list[CapturedSpan]:
        # By time: a span may be made after the fact, with the time that its work began at.
        return sorted(self._ended.values(), key=lambda span: span._order)

    def _open_names(self) -> list[str]:
        return [mark.span.name for mark in list(self._marks) if mark.key not in self._ended]

    def _explain(self, found: list[CapturedSpan], name: str | None, attributes: Mapping[str, Any]) -> str:
        wanted = " and ".join(
            ([f"the name {name!r}"] if name is not None else [])
            + [f"{key.replace('__', '.')} = {value!r}" for key, value in attributes.items()]
        )
        text = f"{_counted(len(found)) if found else 'No span'}{f' with {wanted}' if wanted else ''}"
        text += ", not just one." if found else f" among {len(self._ended)}."
        named = [span for span in self._sorted() if name is None or span.name == name]
        if not found and attributes and named:
            text += "\nThere " + ("is" if len(named) == 1 else "are") + ":"
            for span in named[:10]:
                said = ", ".join(f"{key.replace('__', '.')} = {_value(span, key)!r}" for key in attributes)
                text += f"\n  {plain(span.name)} with {said}"
            text += f"\n  and {len(named) - 10} more" if len(named) > 10 else ""
        return f"{text}\n\n{self.tree()}"


def _counted(count: int) -> str:
    return f"{count or 'no'} {'span' if count == 1 else 'spans'}"


def _value(span: CapturedSpan, key: str) -> Any:
    return span.attributes.get(key if key in span.attributes else key.replace("__", "."))


def _plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    # As the SDK has them, and so that nothing changes after the span's end.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in (attributes or {}).items()}


def _same(value: Any, wanted: Any) -> bool:
    return bool(value == (tuple(wanted) if isinstance(wanted, list) else wanted))


def _rows(spans: list[CapturedSpan]) -> Iterator[tuple[str, str, CapturedSpan]]:
    """The tree from top to bottom: the branch before a span, the one below it, the span."""
    known = {span._key for span in spans}
    children: dict[tuple[int, int] | None, list[CapturedSpan]] = {}
    for span in spans:
        children.setdefault(span._parent_key if span._parent_key in known else None, []).append(span)
    waiting = [(span, "", "") for span in reversed(children.get(None, []))]
    while waiting:
        span, branch, trunk = waiting.pop()
        below = children.get(span._key, [])
        yield branch, trunk + ("│ " if below else "  "), span
        for index in range(len(below) - 1, -1, -1):
            joint, indent = ("└─ ", "   ") if index == len(below) - 1 else ("├─ ", "│  ")
            waiting.append((below[index], trunk + joint, trunk + indent))


def _message(span: CapturedSpan) -> str:
    for event in reversed(span.events):
        if event.name == "exception":
            attributes = event.attributes
            return plain(f"{attributes.get('exception.type')}: {attributes.get('exception.message', '')}")
    return plain(span.status_message)


# ----- the block


class SpanCapture:
    """What :func:`capture_spans` gives: a block, to be entered once, by ``with`` or ``async with``."""

    def __init__(self, export: bool) -> None:
        self._export = export
        self._spans: CapturedSpans | None = None
        self._token: Token[frozenset[int]] | None = None

    def __enter__(self) -> CapturedSpans:
        if self._spans is not None:
            raise RuntimeError("This capture_spans() has been entered before. Call capture_spans() for each block.")
        _install()
        self._spans = spans = CapturedSpans(self._export, _enclosing())
        self._token = _current.set(spans._chain)
        _enter(spans)
        return spans

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._spans is not None and self._token is not None
        if error is None:
            self._spans._read()
        _leave(self._spans)
        # An async fixture may end in another context than it began in; a closed block in it does no harm.
        with suppress(ValueError):
            _current.reset(self._token)

    async def __aenter__(self) -> CapturedSpans:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def capture_spans(*, export: bool = False) -> SpanCapture:
    """Captures the spans of a block: ``with capture_spans() as spans`` or ``async with capture_spans() as spans``.

    They are not sent, unless ``export`` is true. Entering the block raises ImproperlyConfigured where nothing is
    traced; the message says why.
    """
    return SpanCapture(export)


class CaptureSpansMixin(unittest.TestCase):
    """``self.spans``: the spans of each test, from ``setUp`` on. To be named before Django's TestCase."""

    spans: CapturedSpans

    def setUp(self) -> None:
        capture = capture_spans()
        self.spans = capture.__enter__()
        self.addCleanup(capture.__exit__, None, None, None)
        super().setUp()


# ----- which block a span belongs to

_ids: Final = itertools.count(1)
_sequence: Final = itertools.count()
_lock: Final = threading.Lock()
#: All open blocks, the first opened first. Replaced as a whole, so that it can be read without the lock.
_open: tuple[CapturedSpans, ...] = ()
#: The ids of the blocks that the running code is in, also of some that have ended.
_current: Final[ContextVar[frozenset[int]]] = ContextVar("django_tracing_blocks", default=frozenset())
#: Trace id -> the blocks that the trace began in, and whether it is exported.
_traces: Final[dict[int, tuple[frozenset[int], bool]]] = {}


def _enter(spans: CapturedSpans) -> None:
    global _open
    with _lock:
        _open = (*_open, spans)


def _leave(spans: CapturedSpans) -> None:
    global _open
    with _lock:
        _open = tuple(other for other in _open if other is not spans)


def _loop_runs() -> bool:
    return asyncio._get_running_loop() is not None


def _enclosing() -> frozenset[int]:
    current = _current.get()
    enclosing = [other for other in _open if other._id in current]
    if not enclosing:
        # A fixture's block, say, whose context variable did not come along into the event loop of its thread.
        me = threading.get_ident()
        enclosing = [other for other in _open if other._thread == me and not other._in_task]
    return frozenset().union(*(other._chain for other in enclosing))


class _Mark:
    """A span that started in a block: it lives as long as the span or the block does."""

    __slots__ = ("__weakref__", "blocks", "done", "export", "key", "sequence", "span", "thread")

    def __init__(self, span: Span, key: tuple[int, int], blocks: tuple[CapturedSpans, ...], export: bool) -> None:
        self.span: ReadableSpan = span
        self.key = key
        self.blocks = blocks
        self.export = export
        self.sequence = next(_sequence)
        self.thread = threading.get_ident()
        self.done = threading.Event()


#: By trace id and span id. What a processor is given at a span's end may be a copy of it.
_marks: Final[WeakValueDictionary[tuple[int, int], _Mark]] = WeakValueDictionary()


class _Collector(SpanProcessor):
    """Gives spans to the blocks that they belong to."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        blocks = _open
        if not blocks and not _traces:
            return
        context = span.get_span_context()
        known = _traces.get(context.trace_id)
        current = _current.get()
        belongs = tuple(block for block in blocks if block._id in current)
        if not belongs:
            # In a thread that was there before, a live server's for one: by its trace, if that began in a block.
            belongs = blocks if known is None else tuple(block for block in blocks if block._chain & known[0])
        if belongs:
            export = belongs[-1]._export
        elif known is not None:
            export = known[1]
        else:
            return
        mark = _Mark(span, (context.trace_id, context.span_id), belongs, export)
        span.__dict__[_MARK] = mark
        _marks[mark.key] = mark
        for block in belongs:
            block._marks.append(mark)
        if known is None and (span.parent is None or span.parent.is_remote):
            while len(_traces) >= _MOST_TRACES:
                _traces.pop(next(iter(_traces)), None)
            _traces[context.trace_id] = (frozenset(block._id for block in belongs), export)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        mark = None if context is None else _marks.get((context.trace_id, context.span_id))
        if mark is None:
            return
        for block in mark.blocks:
            if block in _open:
                block._ended[mark.key] = CapturedSpan(span, mark.sequence, block)
        mark.span = span
        mark.done.set()


_collector: Final = _Collector()


class _Gate(SpanProcessor):
    """Another processor, which is not told of the end of spans that stay in the process."""

    def __init__(self, processor: SpanProcessor) -> None:
        self.processor = processor

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.processor.on_start(span, parent_context=parent_context)

    def _on_ending(self, span: Span) -> None:
        self.processor._on_ending(span)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        mark = None if context is None else _marks.get((context.trace_id, context.span_id))
        if mark is None:
            self.processor.on_end(span)
        elif mark.export:
            # What a test asked for leaves a process whose tests export nothing else.
            (self.processor.send if isinstance(self.processor, QueueProcessor) else self.processor.on_end)(span)

    def shutdown(self) -> None:
        self.processor.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.processor.force_flush(timeout_millis)


class _KeepingSampler(Sampler):
    """Another sampler, whose word does not count for traces that begin while a block is open."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        result = self.sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision is Decision.RECORD_AND_SAMPLE or not _open:
            return result
        parent = get_current_span(parent_context).get_span_context()
        if parent.is_valid and not parent.trace_flags.sampled:
            return result
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, result.trace_state)

    def get_description(self) -> str:
        return self.sampler.get_description()


class _Keep:
    """The same for our own spans' shorter way of asking."""

    def __init__(self, keep: Callable[[SpanContext | None, int], bool]) -> None:
        self.keep = keep

    def __call__(self, parent: SpanContext | None, trace_id: int) -> bool:
        return self.keep(parent, trace_id) or (bool(_open) and (parent is None or parent.trace_flags.sampled))


class _Judge:
    """What judges traces where there is more to it than a rate: inside a block all are kept."""

    def __init__(self, decide: Callable[..., SamplingDecision]) -> None:
        self.decide = decide

    def __call__(
        self, state: Any, name: str, kind: SpanKind, parent: SpanContext | None, trace_id: int
    ) -> SamplingDecision:
        if _open and (parent is None or parent.trace_flags.sampled):
            return SamplingDecision(True)
        return self.decide(state, name, kind, parent, trace_id)


def _install() -> None:
    """Puts this module between the provider and its processors and sampler, where it is not yet.

    It stays there: without an open block it lets everything through, but for late spans of a block's traces.
    """
    _check()
    provider: Any = trace.get_tracer_provider()
    try:
        multi = provider._active_span_processor
        with _lock:
            wanted = (*(_gated(processor) for processor in multi._span_processors if processor is not _collector),)
            if (*wanted, _collector) != multi._span_processors:
                multi._span_processors = (*wanted, _collector)
            # Each tracer has the sampler that its provider had when it was made.
            for sampled in (provider, *list(provider._tracers.values())):
                if not isinstance(sampled.sampler, _KeepingSampler):
                    sampled.sampler = _KeepingSampler(sampled.sampler)
            factory: SpanFactory | None = runtime.current.factory
            if factory is not None and factory.keep is not None and not isinstance(factory.keep, _Keep):
                factory.keep = _Keep(factory.keep)
            refresher = runtime.current.refresher
            if factory is not None and refresher is not None and not isinstance(factory.decide, _Judge):
                refresher.settle()
                if factory.decide is not None:
                    factory.decide = _Judge(factory.decide)
    except AttributeError as error:
        raise ImproperlyConfigured(
            f"Spans can't be captured: the tracer provider of this process is {type(provider).__qualname__} of "
            f"{type(provider).__module__}, not OpenTelemetry's SDK ({error}). Set no other provider in tests."
        ) from error


def _gated(processor: SpanProcessor) -> SpanProcessor:
    if isinstance(processor, (_Gate, UpstreamProcessor)):
        return processor
    if isinstance(processor, SimpleSpanProcessor) and isinstance(processor.span_exporter, InMemorySpanExporter):
        return processor  # nothing leaves by it
    return _Gate(processor)


def _check() -> None:
    """Raises ImproperlyConfigured where nothing is traced."""
    if not apps.ready:
        why = "Django is not set up. Call django.setup() first, or run the tests by manage.py test or pytest-django."
    elif not apps.is_installed("django_tracing"):
        why = '"django_tracing" is not in INSTALLED_APPS. Add it.'
    elif get_settings().problems:
        why = "tracing is off: " + " / ".join(str(problem) for problem in get_settings().problems)
    elif not get_settings().enabled:
        why = (
            f"tracing is off (ENABLED is False, set by {get_settings().source('ENABLED')}). Leave it on in the "
            'settings of tests; with TRACING["EXPORTER"] = "none" nothing is ever sent.'
        )
    elif not runtime.current.tracing:
        why = (
            "tracing was off, or could not be set up, when Django started: the log says why. Settings that are "
            "overridden in a test come too late for it."
        )
    else:
        return
    raise ImproperlyConfigured(f"There are no spans to capture: {why}")
