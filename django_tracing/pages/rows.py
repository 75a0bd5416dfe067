"""Format the rows and bars of a trace for templates.

The admin's pages and the debug toolbar share them. Numbers become strings here: templates would localize them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.semconv.categories import Category
from django_tracing.traces.analysis.waterfall import Row, Waterfall, location_of, short_statement, statement_of
from django_tracing.traces.durations import duration_text
from django_tracing.traces.text import key_attributes
from django_tracing.traces.times import to_datetime

__all__ = [
    "NODES",
    "OPEN_ROWS",
    "SCALE",
    "WORKS",
    "Colors",
    "Share",
    "age_text",
    "local_time",
    "row_of",
    "rows_of",
    "shares_of",
    "status_color",
    "svg_number",
]

#: How many rows are open when a page opens; deeper levels of longer traces are closed.
OPEN_ROWS: Final = 500
#: How many colors tracing.css has for services.
COLORS: Final = 8
#: The length of the time line, in units of its view box.
SCALE: Final = 1000

WORKS: Final[Mapping[Category, Any]] = {
    "sql": _("SQL"),
    "cache": _("Cache"),
    "http": _("HTTP"),
    "python": _("Python"),
    "other": _("Other"),
}
#: The kinds of what is called.
NODES: Final[Mapping[str, Any]] = {
    "service": _("service"),
    "database": _("database"),
    "cache": _("cache"),
    "breaker": _("circuit breaker"),
    "external": _("not traced"),
}


def svg_number(value: float) -> str:
    """Format a number for an SVG attribute, independent of the locale."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def local_time(nanoseconds: int) -> datetime:
    """Return a time in the current time zone."""
    moment = to_datetime(nanoseconds)
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


#: The names of the colors of status codes, by their first digit.
_STATUS_COLORS: Final[Mapping[str, str]] = {"2": "ok", "4": "refused", "5": "failed"}


def status_color(status: str) -> str:
    """Return the name that tracing.css has for the color of an HTTP status."""
    return _STATUS_COLORS.get(status[:1], "other")


def age_text(seconds: float) -> str:
    """Return how long ago something was, in one unit."""
    count = max(int(seconds), 0)
    if count < 60:
        return gettext("%(count)d s ago") % {"count": count}
    if count < 3600:
        return gettext("%(count)d min ago") % {"count": count // 60}
    if count < 2 * 86400:
        return gettext("%(count)d h ago") % {"count": count // 3600}
    return gettext("%(count)d days ago") % {"count": count // 86400}


class Colors:
    """The colors of services, in the order in which the services occur."""

    def __init__(self, services: Iterable[str]) -> None:
        self.numbers = {service: number % COLORS for number, service in enumerate(services)}

    def __getitem__(self, service: str) -> int:
        return self.numbers.setdefault(service, len(self.numbers) % COLORS)


class Share(NamedTuple):
    """A part of the bar that shows time by category."""

    work: Category
    label: str
    time: str
    percent: str
    x: str
    width: str


def shares_of(times: Mapping[Category, int]) -> list[Share]:
    """Return the parts of a bar that shows time by category."""
    total = sum(times.values())
    found, x = [], 0.0
    for work, time in times.items():
        width = SCALE * time / total if total else 0.0
        percent = 100 * time / total if total else 0.0
        found.append(
            Share(work, str(WORKS[work]), duration_text(time), f"{percent:.0f} %", svg_number(x), svg_number(width))
        )
        x += width
    return found


def _bars(pieces: Iterable[tuple[int, int]], total: int, top: int, height: int) -> str:
    """Return bars as the ``d`` of one SVG path: with an element each, a page of 10,000 spans would be too large."""
    scale = SCALE / total
    return "".join(
        f"M{start * scale:.6g},{top}h{max(end - start, 0) * scale:.6g}v{height}h{(start - end) * scale:.6g}z"
        for start, end in pieces
    )


def row_of(
    number: int, row: Row, total: int, colors: Colors, above: str, hidden: bool, closed: bool
) -> dict[str, Any]:
    """Return one row of the waterfall; ``above`` is the service of the row above it."""
    span = row.span
    statement = statement_of(span.attributes)
    notes = [f"{key}={value}" for key, value in key_attributes(span.attributes)] if not row.folds else []
    pieces = row.pieces if row.folds else [(row.start, row.start + row.duration)]
    return {
        "number": str(number),
        "parent": str(row.parent),
        "depth": str(row.depth),
        "level": str(row.depth + 1),
        "indent": str(min(row.depth, 30) * 14),
        "name": span.name or gettext("(no name)"),
        "count": str(row.count) if row.folds else "",
        "service": span.service if span.service != above else "",
        "color": str(colors[span.service]),
        "work": row.work,
        "note": short_statement(statement) or " ".join(notes),
        "location": location_of(span.attributes) if row.folds else "",
        "n_plus_one": row.n_plus_one,
        "failed": bool(row.failed),
        "orphan": row.orphan,
        "url": f"spans/{span.span_id}/",
        "expandable": row.below > 0,
        "closed": closed,
        "hidden": hidden,
        "bars": _bars(pieces, total, 4, 11),
        "critical": _bars(row.critical, total, 16, 3),
        "duration": duration_text(row.duration),
        "self_time": duration_text(row.self_time),
        "offset": duration_text(row.start),
    }


def rows_of(fall: Waterfall, colors: Colors, everything: bool = False) -> list[dict[str, Any]]:
    """Return the rows of the waterfall; with ``everything``, all of them are open."""
    total = max(fall.trace.duration, 1)
    depth = None if everything else _open_depth(fall.rows)
    shown: list[dict[str, Any]] = []
    hidden: list[bool] = []
    closed: list[bool] = []
    for number, row in enumerate(fall.rows):
        parent = row.parent
        out_of_sight = parent >= 0 and (hidden[parent] or closed[parent])
        shut = not everything and row.below > 0 and (row.folds or (depth is not None and row.depth >= depth))
        hidden.append(out_of_sight)
        closed.append(shut)
        above = fall.rows[parent].span.service if parent >= 0 else "\0"
        shown.append(row_of(number, row, total, colors, above, out_of_sight, shut))
    return shown


def _open_depth(rows: Sequence[Row]) -> int | None:
    """Return the level below which rows start closed; None if all of them may be open."""
    if len(rows) <= OPEN_ROWS:
        return None
    at: dict[int, int] = {}
    for row in rows:
        at[row.depth] = at.get(row.depth, 0) + 1
    count = 0
    for depth in sorted(at):
        count += at[depth]
        if count > OPEN_ROWS:
            return max(depth - 1, 0)
    return None
