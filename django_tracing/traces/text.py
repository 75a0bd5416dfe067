"""Write traces as text for a terminal: one as a tree, many as a table.

Names and values come from requests, so an attacker may choose them: control characters (escape sequences, line
breaks, characters that change the direction of text) are shown as escapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Any, Final, NamedTuple

from django_tracing.redaction.printable import printable
from django_tracing.semconv.categories import Category
from django_tracing.traces.analysis.waterfall import (
    Row,
    Waterfall,
    location_of,
    short_statement,
    statement_of,
    waterfall,
)
from django_tracing.traces.durations import milliseconds
from django_tracing.traces.model import Span, Trace, TraceSummary
from django_tracing.traces.times import to_datetime

__all__ = [
    "WORDS",
    "key_attributes",
    "left_out",
    "plain",
    "render_list",
    "render_trace",
]

#: The attributes that are shown beside a span, in this order: the default name and that of the stable conventions.
_KEYS: Final = (
    ("http.status_code", "http.response.status_code"),
    ("db.rows", "db.response.returned_rows"),
    ("cache.hit",),
    ("circuit_breaker.state",),
    ("circuit_breaker.outcome",),
    ("rate_limit.allowed",),
    ("peer.service",),
)
#: The longest value in characters. ``--json`` has the whole value.
_VALUE_LENGTH: Final = 60
_MESSAGE_LENGTH: Final = 120
_MINIMUM_WIDTH: Final = 40
#: The smallest width with bars, and the width of the widest bars.
_BARS_FROM: Final = 80
_WIDEST_BAR: Final = 40
_BAR: Final = "▒"
_CRITICAL: Final = "█"
#: The names of categories.
WORDS: Final[Mapping[Category, str]] = {
    "sql": "SQL",
    "cache": "Cache",
    "http": "HTTP",
    "python": "Python",
    "other": "Other",
}

_RESET: Final = "\033[0m"
_STYLES: Final = {"bold": "\033[1m", "dim": "\033[2m", "error": "\033[31m", "service": "\033[36m"}


class _Line:
    """One line of pieces with styles, cut at a width. Styles do not count."""

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
    """Return ``value`` on one line, without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return printable(text)


def key_attributes(attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the most useful attributes of a span, in a fixed order: default names and short values."""
    found: list[tuple[str, str]] = []
    for names in _KEYS:
        for name in names:
            if name in attributes:
                found.append((names[0], _cut(plain(attributes[name]), _VALUE_LENGTH)))
                break
    return found


def render_trace(trace: Trace, *, width: int = 100, color: bool = False, timezone: tzinfo | None = None) -> str:
    """Draw ``trace`` as a waterfall.

    Each line has a span's start after the first one, its duration, its bar (dark where the end of the trace waited
    for the span), its place in the tree, its name and key attributes. Repeated calls are folded into one line.
    ``width`` is in columns; times are in ``timezone``, by default that of this machine.
    """
    width = max(width, _MINIMUM_WIDTH)
    fall = waterfall(trace)
    lines = [
        _Line(width, color).add("Trace ").add(plain(trace.trace_id), "bold"),
        _header(trace, width, color, timezone),
        _Line(width, color).add(
            " · ".join(f"{WORDS[work]} {milliseconds(time)}" for work, time in fall.time_by_work.items())
        ),
        _Line(width, color).add(""),
    ]
    # Of a deep branch only its end is shown: all of each would be a square of the depth.
    rows = list(_rows(fall, width))
    total = trace.duration
    offsets = [_offset(line.row.start) for line in rows]
    durations = [milliseconds(line.row.duration) for line in rows]
    offset_width = max(len("start"), *map(len, offsets))
    duration_width = max(len("took"), *map(len, durations))
    bar_width = min(width // 4, _WIDEST_BAR) if width >= _BARS_FROM else 0
    blank = " " * (bar_width + 2 if bar_width else 0)
    lines.append(
        _Line(width, color).add(f"{'start':>{offset_width}}  {'took':>{duration_width}}  {blank}span", "dim")
    )
    margin_width = offset_width + duration_width + 4 + len(blank)
    tree_width = max(_MINIMUM_WIDTH, width - margin_width)
    for found, offset, duration in zip(rows, offsets, durations, strict=True):
        line = _Line(width, color).add(f"{offset:>{offset_width}}  ", "dim").add(f"{duration:>{duration_width}}  ")
        if bar_width:
            line.add(_bar(found.row, total, bar_width), "service").add("  ")
        line.add(_shortened(found.branch, tree_width), "dim")
        _describe(line, found.row, found.service_changes)
        lines.append(line)
        message = _message(found.failed)
        if message:
            lines.append(
                _Line(width, color)
                .add(" " * margin_width)
                .add(_shortened(found.below, tree_width), "dim")
                .add(message, "error")
            )
    text = "\n".join(map(str, lines))
    return f"{text}\n\n{left_out(trace)}" if trace.left_out or trace.uncounted else text


def left_out(trace: Trace) -> str:
    """How many spans of a trace are not shown, and where to find them; empty if all are shown."""
    if not trace.left_out and not trace.uncounted:
        return ""
    shown = len(trace.spans)
    more = "more than " if trace.uncounted else ""
    text = f"The earliest {shown} of {more}{trace.span_count} spans."
    if trace.unstored:
        text += f' {trace.unstored} were not stored: TRACING["MAX_TRACE_SPANS"] limits the spans of a trace.'
    if trace.uncounted or trace.left_out > trace.unstored:
        text += " The others are in the file that you can download from the trace's page in the admin."
    return text


def render_list(
    summaries: Sequence[TraceSummary], *, width: int = 120, color: bool = False, timezone: tzinfo | None = None
) -> str:
    """Return a table of traces, the newest first: start, duration, spans, errors, service, root and id."""
    width = max(width, _MINIMUM_WIDTH)
    rows = [
        (
            to_datetime(summary.start).astimezone(timezone).strftime("%Y-%m-%d %H:%M:%S"),
            milliseconds(summary.duration) if summary.state == "finished" else summary.state,
            str(summary.span_count) + (f" ({summary.left_out} not stored)" if summary.left_out else ""),
            str(summary.error_count or "-"),
            plain(summary.service),
            plain(summary.name),
            plain(summary.trace_id),
        )
        for summary in summaries
    ]
    titles = ("started", "took", "spans", "errors", "service", "request", "trace")
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    # The id is for copying, so it comes first and is not cut. The name gets the rest of the width.
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
    state = "" if trace.topmost.state == "finished" else f"{trace.topmost.state}, so far "
    line.add(f" · {state}{milliseconds(trace.duration)} · {_counted(trace.span_count, 'span')} · ")
    line.add(_counted(trace.error_count, "error"), "error" if trace.error_count else "")
    return line.add(" · ").add(", ".join(map(plain, trace.services)), "service")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _offset(nanoseconds: int) -> str:
    return "0" if nanoseconds == 0 else f"+{milliseconds(nanoseconds)}"


class _Found(NamedTuple):
    """A line: the branch before a row, the one below it, and whether its service differs from its parent's."""

    row: Row
    branch: str
    below: str
    service_changes: bool
    #: The span whose error is shown; None if there is none.
    failed: Span | None


def _rows(fall: Waterfall, width: int) -> Iterable[_Found]:
    """Yield the rows from top to bottom, without folded ones. Branches are cut to their last ``width`` characters."""
    rows = fall.rows
    shown = [number for number, row in enumerate(rows) if row.parent < 0 or not rows[row.parent].folds]
    last_of = {rows[number].parent: number for number in shown}
    trunks: dict[int, str] = {}
    for number in shown:
        row = rows[number]
        if row.parent < 0:
            branch, trunk = "", ""
        else:
            is_last = last_of[row.parent] == number
            above = trunks[row.parent][-width:]
            branch = above + ("└─ " if is_last else "├─ ")
            trunk = above + ("   " if is_last else "│  ")
        trunks[number] = trunk
        service = rows[row.parent].span.service if row.parent >= 0 else "\0"
        members = [each.span for each in rows[number + 1 : number + 1 + row.count]] if row.folds else [row.span]
        failed = next((span for span in members if span.failed or span.events), None)
        has_children = row.below > 0 and not row.folds
        yield _Found(row, branch, trunk + ("│ " if has_children else "  "), row.span.service != service, failed)


def _bar(row: Row, total: int, width: int) -> str:
    """Draw the time of the row within the time of the trace."""
    cells = [" "] * width
    scale = width / max(total, 1)
    for mark, pieces in ((_BAR, row.pieces or [(row.start, row.start + row.duration)]), (_CRITICAL, row.critical)):
        for start, end in pieces:
            first = min(int(start * scale), width - 1)
            # A short span is visible, too. A short wait does not make a whole cell dark.
            last = min(max(round(end * scale), first + (mark == _BAR)), width)
            cells[first:last] = [mark] * (last - first)
    return "".join(cells)


def _shortened(branch: str, tree_width: int) -> str:
    """Return the end of a branch, so that half of the tree's width is left for names."""
    room = tree_width // 2
    return branch if len(branch) <= room else "…" + branch[-room + 1 :]


def _describe(line: _Line, row: Row, service_changes: bool) -> None:
    span = row.span
    if row.failed:
        line.add("✗ ", "error")
    count = f"{row.count} × " if row.folds else ""
    line.add(count + (plain(span.name) or "(no name)"), "error" if row.failed else "bold")
    if service_changes and span.service:
        line.add(f"  [{plain(span.service)}]", "service")
    if row.folds:
        if row.n_plus_one:
            line.add("  N+1", "error")
        for text in (short_statement(statement_of(span.attributes)), location_of(span.attributes)):
            line.add(f"  {plain(text)}" if text else "", "dim")
        return
    for key, value in key_attributes(span.attributes):
        line.add(f"  {key}={value}")
    if row.orphan:
        line.add("  (parent not stored)", "dim")


def _message(span: Span | None) -> str:
    """Return the error of the span: its exception, or else the message of its status."""
    if span is None:
        return ""
    for event in reversed(span.events):
        if event.name == "exception":
            kind = plain(event.attributes.get("exception.type", "exception"))
            message = plain(event.attributes.get("exception.message", ""))
            return _cut(f"{kind}: {message}" if message else kind, _MESSAGE_LENGTH)
    return _cut(plain(span.status_message), _MESSAGE_LENGTH) if span.failed else ""


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
