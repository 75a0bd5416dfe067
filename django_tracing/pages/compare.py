"""Show two traces side by side."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_tracing.pages.answers import _answer, _failed, _missing, _reader
from django_tracing.pages.heading import _head
from django_tracing.pages.links import _TRACE_ID
from django_tracing.pages.rows import OPEN_ROWS, Colours, row_of
from django_tracing.traces.analysis.waterfall import (
    Row,
    Waterfall,
    waterfall,
)
from django_tracing.traces.model import ReadError, Trace
from django_tracing.traces.text import duration_text

__all__ = ["compare_page"]


def compare_page(request: HttpRequest, site: AdminSite, trace_id: str) -> HttpResponse:
    """Two traces side by side, and what takes longer in which."""
    other_id = request.GET.get("with", "").strip()
    if not _TRACE_ID.fullmatch(other_id):
        raise Http404
    try:
        reader = _reader()
        traces = [reader.trace(each) for each in (trace_id, other_id)]
    except ReadError as error:
        return _failed(request, site, gettext("Compare"), error)
    sides = []
    for each, trace in zip((trace_id, other_id), traces, strict=True):
        if trace is None:
            return _missing(request, site, each)
        sides.append((trace, waterfall(trace)))
    colours = Colours(dict.fromkeys(service for trace, _fall in sides for service in trace.services))
    longest = max(trace.duration for trace, _fall in sides)
    context = {
        "sides": [
            {
                "trace": _head(trace, fall, colours),
                "rows": _side(fall, longest, colours),
                "left_out": max(len([row for row in fall.rows if not _inner(row, fall)]) - OPEN_ROWS, 0),
                "ticks": [duration_text(longest * quarter // 4) for quarter in range(5)],
            }
            for trace, fall in sides
        ],
        "differences": _differences(*(trace for trace, _fall in sides)),
    }
    return _answer(request, site, "compare", gettext("Compare"), context)


def _inner(row: Row, fall: Waterfall) -> bool:
    """Whether the row is one of several that another row folds."""
    return row.parent >= 0 and fall.rows[row.parent].folds


def _side(fall: Waterfall, longest: int, colours: Colours) -> list[dict[str, Any]]:
    return [
        row_of(number, row, max(longest, 1), colours, "", False, False)
        for number, row in enumerate(fall.rows)
        if not _inner(row, fall)
    ][:OPEN_ROWS]


def _differences(left: Trace, right: Trace) -> list[dict[str, Any]]:
    """What both did, by service and name: how often, how long in all, and the difference, the largest first."""
    totals: dict[tuple[str, str], list[int]] = {}
    for side, trace in enumerate((left, right)):
        for span in trace.spans:
            counted = totals.setdefault((span.service, span.name), [0, 0, 0, 0])
            counted[side] += 1
            counted[2 + side] += span.duration
    found = []
    for (service, name), (count, other_count, time, other_time) in totals.items():
        found.append((abs(other_time - time), service, name, count, other_count, time, other_time))
    return [
        {
            "service": service,
            "name": name,
            "counts": (str(count) if count else "–", str(other_count) if other_count else "–"),
            "times": (duration_text(time) if count else "–", duration_text(other_time) if other_count else "–"),
            "difference": f"{'+' if other_time >= time else '−'}{duration_text(abs(other_time - time))}",
            "slower": other_time > time,
        }
        for _size, service, name, count, other_count, time, other_time in sorted(found, key=lambda item: -item[0])[
            :OPEN_ROWS
        ]
    ]
