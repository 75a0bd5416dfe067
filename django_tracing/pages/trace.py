"""Show one trace as a waterfall."""

from __future__ import annotations

from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext, ngettext

from django_tracing.conf.loading import get_settings
from django_tracing.exceptions import ReadError
from django_tracing.pages.heading import heading_of
from django_tracing.pages.links import trace_address, value_text
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import Colors, local_time, rows_of
from django_tracing.pages.source import open_reader, respond_missing, respond_unreadable
from django_tracing.traces.analysis.waterfall import (
    location_of,
    short_statement,
    statement_of,
    waterfall,
)
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import Trace
from django_tracing.traces.readers.base import Reader

__all__ = ["page"]

#: What the colors of the bars can stand for.
_COLORS: Final = ("kind", "service")
#: How many exceptions are shown above the spans, and how many characters of each text. Their spans have the rest.
_MOST_EXCEPTIONS: Final = 3
_LONGEST_MESSAGE: Final = 500


def _ticks(trace: Trace) -> list[str]:
    return [duration_text(trace.duration * quarter // 4) for quarter in range(5)]


def page(request: HttpRequest, mount: Mount, trace_id: str) -> HttpResponse:
    """Show one trace as a waterfall, with links to other views of it."""
    try:
        reader = open_reader()
        trace = reader.trace(trace_id)
        if trace is None:
            return respond_missing(request, mount, trace_id)
        link = reader.trace_link(trace.trace_id)
    except ReadError as error:
        return respond_unreadable(request, mount, gettext("Trace"), error)
    if trace.trace_id != trace_id:
        return HttpResponseRedirect(trace_address(trace.trace_id))
    fall = waterfall(trace)
    colors = Colors(trace.services)
    rows = rows_of(fall, colors, everything="all" in request.GET)
    heading = heading_of(trace, fall, colors)
    chosen = request.GET.get("color")
    context = {
        "trace": heading,
        "color": chosen if chosen in _COLORS else "service" if len(trace.services) > 1 else "kind",
        "rows": rows,
        **_exceptions_of(trace),
        "repeated": [
            {
                "count": str(row.count),
                "statement": short_statement(statement_of(row.span.attributes)) or row.span.name,
                "location": location_of(row.span.attributes),
                "duration": duration_text(row.duration),
            }
            for row in fall.repeated
        ],
        "locations_off": not get_settings().code_locations,
        "ticks": _ticks(trace),
        "total_ns": str(trace.duration),
        "link": link,
        "others": _others_of(reader, trace),
    }
    return respond(request, mount, "trace", heading["title"], context)


def _exceptions_of(trace: Trace) -> dict[str, Any]:
    """Return the first exceptions of a trace in their order, each with the span that it first left."""
    found = sorted(
        (
            (event.time, event.attributes, span)
            for span in trace.spans
            if span.failed_first
            for event in span.events
            if event.name == "exception"
        ),
        key=lambda raised: raised[0],
    )
    return {
        "exceptions": [
            {
                "type": _cut(attributes.get("exception.type")) or gettext("Exception"),
                "message": _cut(attributes.get("exception.message")),
                "span": span.name or gettext("(no name)"),
                "url": f"spans/{span.span_id}/",
            }
            for _time, attributes, span in found[:_MOST_EXCEPTIONS]
        ],
        "more_exceptions": max(len(found) - _MOST_EXCEPTIONS, 0),
    }


def _cut(value: Any) -> str:
    text = "" if value is None else value_text(value)
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}…"


def _others_of(reader: Reader, trace: Trace) -> list[dict[str, str]]:
    """Return other traces of the same route, to compare with."""
    topmost = trace.topmost
    try:
        found = reader.search(service=topmost.service, operation=topmost.name, limit=21)
    except ReadError:
        return []
    return [
        {
            "id": summary.trace_id,
            "label": f"{local_time(summary.start):%Y-%m-%d %H:%M:%S}, {duration_text(summary.duration)}"
            + (
                ", "
                + ngettext("%(count)d error", "%(count)d errors", summary.error_count)
                % {"count": summary.error_count}
                if summary.error_count
                else ""
            ),
        }
        for summary in found
        if summary.trace_id != trace.trace_id
    ][:20]
