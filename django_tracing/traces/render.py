"""Traces as text for a terminal: one as a tree, many as a table.

Names and values come from requests, so they are an attacker's to choose: what a terminal would obey (escape
sequences, line breaks, characters that turn the direction of text) is shown as an escape instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Any, Final

from django_tracing.traces.model import Node, Span, Trace, TraceSummary, to_datetime

__all__ = ["duration_text", "key_attributes", "milliseconds", "plain", "render_list", "render_trace"]

#: What is shown beside a span, in this order: the default name, and the one that stable conventions give it.
_KEYS: Final = (
    ("http.status_code", "http.response.status_code"),
    ("db.rows", "db.response.returned_rows"),
    ("cache.hit",),
    ("circuit_breaker.state",),
    ("circuit_breaker.outcome",),
    ("rate_limit.allowed",),
    ("peer.service",),
)
#: A value takes no more characters than this; the whole of it is in ``--json``.
_VALUE_LENGTH: Final = 60
_MESSAGE_LENGTH: Final = 120
_MINIMUM_WIDTH: Final = 40

_RESET: Final = "\033[0m"
_STYLES: Final = {"bold": "\033[1m", "dim": "\033[2m", "error": "\033[31m", "service": "\033[36m"}


class _Line:
    """One line of pieces with styles, cut at a width that styles do not count for."""

    def __init__(self, width: int, color: bool) -> None:
        self._left = width
        self._color = color
        self._parts: list[str] = []

    def add(self, text: str, style: str = "") -> _Line:
        if self._left <= 0 or not text:
            return self
        if len(text) > self._left:
            text = text[: self._left - 1] + "…"
        self._left -= len(text)
        self._parts.append(f"{_STYLES[style]}{text}{_RESET}" if style and self._color else text)
        return self

    def __str__(self) -> str:
        return "".join(self._parts).rstrip()


def plain(value: Any) -> str:
    """``value`` on one line, without anything that a terminal would obey."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    code = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def key_attributes(attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What tells most about a span, in a fixed order: names, under the default conventions, and short values."""
    found: list[tuple[str, str]] = []
    for names in _KEYS:
        for name in names:
            if name in attributes:
                found.append((names[0], _cut(plain(attributes[name]), _VALUE_LENGTH)))
                break
    return found


def milliseconds(nanoseconds: int) -> str:
    """``12.3 ms``: three significant digits, no fewer than the whole milliseconds have."""
    value = nanoseconds / 1e6
    if abs(value) >= 99.95 or value == 0:
        return f"{value:.0f} ms"
    decimals = 1 if abs(value) >= 9.995 else 2 if abs(value) >= 0.9995 else 3 if abs(value) >= 0.09995 else 4
    return f"{value:.{decimals}f} ms"


def duration_text(nanoseconds: int) -> str:
    """Three significant digits in the unit that suits: ``58.3 µs``, ``12.3 ms``, ``1.57 s``."""
    size = abs(nanoseconds)
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if size >= 0.9995 * scale:
            value = nanoseconds / scale
            decimals = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
            return f"{value:.{decimals}f} {unit}"
    return f"{nanoseconds} ns" if nanoseconds else "0 ms"


def render_trace(trace: Trace, *, width: int = 100, color: bool = False, timezone: tzinfo | None = None) -> str:
    """``trace`` as a tree: when each span started after the first, how long it took, its name and key attributes.

    ``width`` is in columns; times are in ``timezone``, by default this machine's.
    """
    width = max(width, _MINIMUM_WIDTH)
    lines = [
        _Line(width, color).add("Trace ").add(plain(trace.trace_id), "bold"),
        _header(trace, width, color, timezone),
        _Line(width, color).add(""),
    ]
    rows = list(_rows(trace.tree()))
    offsets = [_offset(span.start - trace.start) for _, _, span, _, _ in rows]
    durations = [milliseconds(span.duration) for _, _, span, _, _ in rows]
    offset_width = max(len("start"), *map(len, offsets))
    duration_width = max(len("took"), *map(len, durations))
    lines.append(_Line(width, color).add(f"{'start':>{offset_width}}  {'took':>{duration_width}}  span", "dim"))
    tree_width = max(_MINIMUM_WIDTH, width - offset_width - duration_width - 4)
    for (branch, below, span, service_changes, orphan), offset, duration in zip(
        rows, offsets, durations, strict=True
    ):
        margin = f"{offset:>{offset_width}}  "
        line = _Line(width, color).add(margin, "dim").add(f"{duration:>{duration_width}}  ")
        line.add(_shortened(branch, tree_width), "dim")
        _describe(line, span, service_changes, orphan)
        lines.append(line)
        message = _message(span)
        if message:
            blank = " " * (offset_width + duration_width + 4)
            lines.append(
                _Line(width, color).add(blank).add(_shortened(below, tree_width), "dim").add(message, "error")
            )
    return "\n".join(map(str, lines))


def render_list(
    summaries: Sequence[TraceSummary], *, width: int = 120, color: bool = False, timezone: tzinfo | None = None
) -> str:
    """A table of traces, the newest first: when it began, how long it took, spans, errors, service, root, id."""
    width = max(width, _MINIMUM_WIDTH)
    rows = [
        (
            to_datetime(summary.start).astimezone(timezone).strftime("%Y-%m-%d %H:%M:%S"),
            milliseconds(summary.duration),
            str(summary.span_count),
            str(summary.error_count or "-"),
            plain(summary.service),
            plain(summary.name),
            plain(summary.trace_id),
        )
        for summary in summaries
    ]
    titles = ("started", "took", "spans", "errors", "service", "request", "trace")
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    # The id is there to be copied, so it stands first and whole; the name has what is left.
    lines = []
    for row in (titles, *rows):
        head = row is titles
        failed = row[3] not in ("-", "errors")
        line = _Line(width, color).add(f"{row[6]:<{widths[6]}}  ", "dim" if head else "bold")
        line.add(f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  ", "dim" if head else "")
        line.add(f"{row[3]:>{widths[3]}}  ", "error" if failed else "dim")
        line.add(f"{row[4]:<{widths[4]}}  ", "dim" if head else "service")
        line.add(row[5], "dim" if head else "error" if failed else "")
        lines.append(str(line))
    return "\n".join(lines)


def _header(trace: Trace, width: int, color: bool, timezone: tzinfo | None) -> _Line:
    began = to_datetime(trace.start).astimezone(timezone)
    line = _Line(width, color)
    line.add(began.strftime("%Y-%m-%d %H:%M:%S.") + f"{began.microsecond // 1000:03d}")
    line.add(f" · {milliseconds(trace.duration)} · {_counted(trace.span_count, 'span')} · ")
    line.add(_counted(trace.error_count, "error"), "error" if trace.error_count else "")
    return line.add(" · ").add(", ".join(map(plain, trace.services)), "service")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _offset(nanoseconds: int) -> str:
    return "0" if nanoseconds == 0 else f"+{milliseconds(nanoseconds)}"


def _rows(roots: list[Node]) -> Iterable[tuple[str, str, Span, bool, bool]]:
    """The tree from top to bottom: the branch before a span, the one below it, the span, whether another service
    begins with it, whether it is an orphan. No recursion: a trace may be deeper than Python's stack."""
    waiting: list[tuple[Node, str, str, str]] = [(node, "", "", "\0") for node in reversed(roots)]
    while waiting:
        node, branch, trunk, service = waiting.pop()
        span = node.span
        has_children = bool(node.children)
        yield branch, trunk + ("│ " if has_children else "  "), span, span.service != service, node.orphan
        last = len(node.children) - 1
        for index in range(last, -1, -1):
            joint, below = ("└─ ", "   ") if index == last else ("├─ ", "│  ")
            waiting.append((node.children[index], trunk + joint, trunk + below, span.service))


def _shortened(branch: str, tree_width: int) -> str:
    """The end of a branch that leaves half of the tree's width to the names."""
    room = tree_width // 2
    return branch if len(branch) <= room else "…" + branch[-room + 1 :]


def _describe(line: _Line, span: Span, service_changes: bool, orphan: bool) -> None:
    if span.failed:
        line.add("✗ ", "error")
    line.add(plain(span.name) or "(no name)", "error" if span.failed else "bold")
    if service_changes and span.service:
        line.add(f"  [{plain(span.service)}]", "service")
    for key, value in key_attributes(span.attributes):
        line.add(f"  {key}={value}")
    if orphan:
        line.add("  (parent not stored)", "dim")


def _message(span: Span) -> str:
    """What went wrong in the span: its exception, else the message of its status."""
    for event in reversed(span.events):
        if event.name == "exception":
            kind = plain(event.attributes.get("exception.type", "exception"))
            message = plain(event.attributes.get("exception.message", ""))
            return _cut(f"{kind}: {message}" if message else kind, _MESSAGE_LENGTH)
    return _cut(plain(span.status_message), _MESSAGE_LENGTH) if span.failed else ""


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
