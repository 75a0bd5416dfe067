"""Show two traces side by side."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_tracing.exceptions import ReadError
from django_tracing.pages.heading import heading_of
from django_tracing.pages.links import TRACE_ID
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import OPEN_ROWS, Colors, row_of
from django_tracing.pages.source import open_reader, respond_missing, respond_unreadable
from django_tracing.traces.analysis.waterfall import (
    Row,
    Waterfall,
    waterfall,
)
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import Trace

__all__ = ["differences", "page", "side_rows"]


def page(request: HttpRequest, mount: Mount, trace_id: str) -> HttpResponse:
    """Show two traces side by side, and which spans take longer in which of them."""
    other_id = request.GET.get("with", "").strip()
    if not TRACE_ID.fullmatch(other_id):
        raise Http404
    try:
        reader = open_reader()
        traces = [reader.trace(each) for each in (trace_id, other_id)]
    except ReadError as error:
        return respond_unreadable(request, mount, gettext("Compare"), error)
    sides = []
    for each, trace in zip((trace_id, other_id), traces, strict=True):
        if trace is None:
            return respond_missing(request, mount, each)
        sides.append((trace, waterfall(trace)))
    colors = Colors(dict.fromkeys(service for trace, _fall in sides for service in trace.services))
    longest = max(trace.duration for trace, _fall in sides)
    context = {
        "color": "service" if len(colors.numbers) > 1 else "kind",
        "sides": [
            {
                "trace": heading_of(trace, fall, colors),
                "rows": side_rows(fall, longest, colors),
                "left_out": max(len([row for row in fall.rows if not _inner(row, fall)]) - OPEN_ROWS, 0),
                "ticks": [duration_text(longest * quarter // 4) for quarter in range(5)],
            }
            for trace, fall in sides
        ],
        "differences": differences(*(trace for trace, _fall in sides)),
    }
    return respond(request, mount, "compare", gettext("Compare"), context)


def _inner(row: Row, fall: Waterfall) -> bool:
    """Return whether another row folds this one."""
    return row.parent >= 0 and fall.rows[row.parent].folds


def side_rows(fall: Waterfall, longest: int, colors: Colors) -> list[dict[str, Any]]:
    """Return the rows of one trace, without folded ones."""
    return [
        row_of(number, row, max(longest, 1), colors, "", False, False)
        for number, row in enumerate(fall.rows)
        if not _inner(row, fall)
    ][:OPEN_ROWS]


def differences(left: Trace, right: Trace) -> list[dict[str, Any]]:
    """Return count and total time by service and span name in both traces, the largest difference first."""
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
