"""Show one trace as a waterfall."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext, ngettext

from django_tracing.conf.loading import get_settings
from django_tracing.pages.answers import _answer, _failed, _missing, _reader
from django_tracing.pages.heading import _head
from django_tracing.pages.links import _trace_address
from django_tracing.pages.rows import Colours, rows_of
from django_tracing.pages.times import _time
from django_tracing.traces.analysis.waterfall import (
    location_of,
    short_statement,
    statement_of,
    waterfall,
)
from django_tracing.traces.model import Reader, ReadError, Trace
from django_tracing.traces.text import duration_text

__all__ = ["trace_page"]


def _ticks(trace: Trace) -> list[str]:
    return [duration_text(trace.duration * quarter // 4) for quarter in range(5)]


def trace_page(request: HttpRequest, site: AdminSite, trace_id: str) -> HttpResponse:
    """One trace as a waterfall."""
    try:
        reader = _reader()
        trace = reader.trace(trace_id)
        if trace is None:
            return _missing(request, site, trace_id)
        link = reader.trace_link(trace.trace_id)
    except ReadError as error:
        return _failed(request, site, gettext("Trace"), error)
    if trace.trace_id != trace_id:
        return HttpResponseRedirect(_trace_address(trace.trace_id))
    fall = waterfall(trace)
    colours = Colours(trace.services)
    rows = rows_of(fall, colours, everything="all" in request.GET)
    context = {
        "trace": _head(trace, fall, colours),
        "rows": rows,
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
        "others": _like(reader, trace),
    }
    return _answer(request, site, "trace", trace.root.name, context)


def _like(reader: Reader, trace: Trace) -> list[dict[str, str]]:
    """Other traces of the same route, to compare with."""
    root = trace.root
    try:
        found = reader.search(service=root.service, operation=root.name, limit=21)
    except ReadError:
        return []
    return [
        {
            "id": summary.trace_id,
            "label": f"{_time(summary.start):%Y-%m-%d %H:%M:%S}, {duration_text(summary.duration)}"
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
