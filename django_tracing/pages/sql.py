"""Show the SQL of one trace: each statement in full, counted and summed."""

from __future__ import annotations

from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_tracing.exceptions import ReadError
from django_tracing.pages.heading import heading_of
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import Colors, svg_number
from django_tracing.pages.source import open_reader, respond_missing, respond_unreadable
from django_tracing.traces.analysis.statements import Statement, statements
from django_tracing.traces.analysis.waterfall import waterfall
from django_tracing.traces.durations import duration_text

__all__ = ["page"]

#: At most so many statements are shown, those that took longest, and at most so many characters of them. A trace of
#: hostile spans could have 10,000 different ones, each as long as its exporter allows.
_MOST: Final = 300
_MOST_CHARACTERS: Final = 1_000_000
_LONGEST: Final = 50_000


def page(request: HttpRequest, mount: Mount, trace_id: str) -> HttpResponse:
    """Show the statements of a trace, the one that took the longest in total first."""
    try:
        trace = open_reader().trace(trace_id)
    except ReadError as error:
        return respond_unreadable(request, mount, gettext("SQL"), error)
    if trace is None:
        return respond_missing(request, mount, trace_id)
    fall = waterfall(trace)
    found = statements(trace.spans)
    heading = heading_of(trace, fall, Colors(trace.services))
    shown, left = [], _MOST_CHARACTERS
    for statement in found[:_MOST]:
        if left <= 0:
            break
        row = _row(statement, found[0].time, trace.start, min(left, _LONGEST))
        left -= len(row["text"])
        shown.append(row)
    rest = found[len(shown) :]
    duplicates = sum(statement.count - 1 for statement in found if statement.duplicate)
    context = {
        "trace": heading,
        "statements": shown,
        "count": str(sum(statement.count for statement in found if statement.sent)),
        "different": str(sum(statement.sent for statement in found)),
        "time": duration_text(sum(statement.time for statement in found)),
        "duplicates": duplicates,
        "rest": len(rest),
        "rest_time": duration_text(sum(statement.time for statement in rest)),
        "several": len(trace.services) > 1,
    }
    return respond(request, mount, "sql", heading["title"], context)


def _row(statement: Statement, longest: int, start: int, room: int) -> dict[str, Any]:
    text = statement.text or statement.name
    spans = [
        {"url": f"../spans/{span.span_id}/", "label": f"+{duration_text(span.start - start)}"}
        for span in statement.spans
    ]
    return {
        "text": text if len(text) <= room else f"{text[:room]}…",
        "plain": not statement.text,
        "count": str(statement.count),
        "duplicate": statement.duplicate,
        "time": duration_text(statement.time),
        "width": svg_number(1000 * statement.time / longest if longest else 0),
        "slowest": duration_text(statement.slowest) if statement.count > 1 else "",
        "rows": "" if statement.rows is None else str(statement.rows),
        "failed": str(statement.failed) if statement.failed else "",
        "service": statement.service,
        "database": statement.database,
        "locations": statement.locations,
        "first": spans[0],
        "others": spans[1:],
        "more": statement.count - 1,
        "unlisted": statement.count > len(spans),
    }
