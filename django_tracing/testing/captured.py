"""Read the captured spans of a test: find one, or print all as a tree."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, overload

from opentelemetry.sdk.trace import ReadableSpan

from django_tracing.traces.model import Event, Kind, Status
from django_tracing.traces.text import key_attributes, plain

if TYPE_CHECKING:
    from django_tracing.testing.blocks import Mark

__all__ = ["CapturedSpan", "CapturedSpans"]

#: unittest shows the test's line for a failed ``find``, not a line of this module.
__unittest = True

#: How long the readers of a block wait, in total, for spans that are still open in other threads, in seconds.
_PATIENCE: Final = 1.0


class CapturedSpan:
    """An ended span as it would be exported: redacted, with the attribute names in force."""

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
        """Return True if the span failed."""
        return self.status == "error"

    @property
    def parent(self) -> CapturedSpan | None:
        """The parent span; None if there is none, or if it was not captured."""
        return None if self._parent_key is None else self._spans._ended.get(self._parent_key)

    @property
    def children(self) -> list[CapturedSpan]:
        """The captured spans whose parent is this one, in the order they started."""
        return [span for span in self._spans if span._parent_key == self._key]

    def __repr__(self) -> str:
        return f"<CapturedSpan {plain(self.name)} {self.attributes!r}>"


class CapturedSpans(Sequence[CapturedSpan]):
    """The spans that started after the start of a block and have ended, in the order they started.

    Reading waits for spans that are still open in other threads (for example a live server's), at most one second in
    total. After the end of the block it does not change.
    """

    def __init__(self, export: bool, enclosing: frozenset[int]) -> None:
        self._exported = export
        self._id = next(_ids)
        #: Its own id, and the ids of the blocks around it.
        self._chain = enclosing | {self._id}
        self._thread = threading.get_ident()
        self._in_task = _loop_runs() and asyncio.current_task() is not None
        self._marks: list[Mark] = []
        self._ended: dict[tuple[int, int], CapturedSpan] = {}
        self._patience = _PATIENCE
        #: Set by ``testing.blocks``.
        self._is_open = False

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
        """Return the one span with this name and these attributes. Raise AssertionError, with the tree, otherwise.

        Write a dot in an attribute's name as two underscores (``http__status_code=200``), or quote the name
        (``**{"http.status_code": 200}``). None finds spans without the attribute.
        """
        __tracebackhide__ = True  # pytest shows the test's line, not ours
        found = self.find_all(name, **attributes)
        if len(found) != 1:
            raise AssertionError(self._explain(found, name, attributes))
        return found[0]

    def find_all(self, name: str | None = None, **attributes: Any) -> list[CapturedSpan]:
        """Return all spans with this name and these attributes (as in :meth:`find`), in the order they started."""
        return [
            span
            for span in self._read()
            if (name is None or span.name == name)
            and all(_same(_value(span, key), wanted) for key, wanted in attributes.items())
        ]

    def tree(self) -> str:
        """Return the spans as a tree of text, one line each, with key attributes; then those still open."""
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
        # One line: pytest shows only one.
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
        # Waiting in an event loop would block the task that it waits for.
        if self._patience and self._is_open and not _loop_runs():
            me = threading.get_ident()
            for mark in list(self._marks):
                if mark.thread != me and not mark.done.wait(self._patience):
                    self._patience = 0.0
                    break
        return self._sorted()

    def _sorted(self) -> list[CapturedSpan]:
        # By time: a span may be created later, with the time at which its work started.
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
                found_values = ", ".join(f"{key.replace('__', '.')} = {_value(span, key)!r}" for key in attributes)
                text += f"\n  {plain(span.name)} with {found_values}"
            text += f"\n  and {len(named) - 10} more" if len(named) > 10 else ""
        return f"{text}\n\n{self.tree()}"


def _counted(count: int) -> str:
    return f"{count or 'no'} {'span' if count == 1 else 'spans'}"


def _value(span: CapturedSpan, key: str) -> Any:
    return span.attributes.get(key if key in span.attributes else key.replace("__", "."))


def _plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    # Tuples as in the SDK, so that they don't change after the span's end.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in (attributes or {}).items()}


def _same(value: Any, wanted: Any) -> bool:
    return bool(value == (tuple(wanted) if isinstance(wanted, list) else wanted))


def _rows(spans: list[CapturedSpan]) -> Iterator[tuple[str, str, CapturedSpan]]:
    """Yield the tree from top to bottom: the branch of a span, the branch below it, the span."""
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


_ids: Final = itertools.count(1)


def _loop_runs() -> bool:
    return asyncio._get_running_loop() is not None
