"""Describe a trace at the top of its page."""

from __future__ import annotations

from typing import Any, Final

from django.utils.translation import gettext, ngettext

from django_tracing.pages.links import attribute_address, trace_address, value_text
from django_tracing.pages.rows import Colors, local_time, shares_of, status_color
from django_tracing.semconv import names
from django_tracing.traces.analysis.waterfall import Waterfall
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import Trace
from django_tracing.traces.times import to_datetime

__all__ = ["heading_of", "left_out_sentences"]

#: How many services are named; the others are counted.
_MOST_SERVICES: Final = 100


def heading_of(trace: Trace, fall: Waterfall, colors: Colors) -> dict[str, Any]:
    """Return the facts about a trace that stand above its rows."""
    topmost = trace.topmost
    request = trace.request
    name = topmost.name or gettext("(no name)")
    # The request as it was. The name is its route, and shown below.
    asked = f"{request.method} {request.path}".strip() if request.path else name
    status = "" if request.status_code is None else str(request.status_code)
    sql_count, sql_time = trace.sql
    counts, services = trace.spans_by_service(), trace.services
    linked = {}
    for key in (names.USER_ID, names.USER_SUBSCRIPTION, names.CORRELATION_ID):
        value = next((span.attributes[key] for span in trace.spans if key in span.attributes), None)
        if value is not None:
            linked[key] = {"value": value_text(value), "url": attribute_address(key, value)}
    return {
        "id": trace.trace_id,
        "url": trace_address(trace.trace_id),
        "name": name,
        "asked": asked,
        "status": status,
        "status_color": status_color(status),
        "title": f"{asked} {status}".strip(),
        "sql_count": str(sql_count),
        "sql_time": duration_text(sql_time) if sql_count else "",
        "service": topmost.service,
        "state": topmost.state,
        "started": local_time(trace.start),
        "iso": to_datetime(trace.start).isoformat(),
        "duration": duration_text(trace.duration),
        "spans": ngettext("%(count)d span", "%(count)d spans", trace.span_count) % {"count": trace.span_count},
        "errors": ngettext("%(count)d error", "%(count)d errors", trace.error_count) % {"count": trace.error_count}
        if trace.error_count
        else "",
        "services": [
            {"name": service, "color": str(colors[service]), "spans": str(counts[service])}
            for service in services[:_MOST_SERVICES]
        ],
        "more_services": max(len(services) - _MOST_SERVICES, 0),
        "left_out": left_out_sentences(trace),
        "linked": linked,
        "shares": shares_of(fall.time_by_work),
        "orphans": sum(row.orphan for row in fall.rows),
    }


def left_out_sentences(trace: Trace) -> list[str]:
    """Explain how much of the trace the page leaves out, and where to find it."""
    if not trace.left_out and not trace.uncounted:
        return []
    counts = {"shown": len(trace.spans), "count": trace.span_count, "unstored": trace.unstored}
    if trace.uncounted:
        sentences = [gettext("Only the earliest %(shown)d of more than %(count)d spans are shown.") % counts]
    else:
        sentences = [gettext("Only the earliest %(shown)d of %(count)d spans are shown.") % counts]
    if trace.uncounted or trace.left_out > trace.unstored:
        sentences.append(gettext("Download the trace to see all of them."))
    if trace.unstored:
        sentences.append(
            gettext(
                '%(unstored)d spans were not stored because of the limit TRACING["MAX_TRACE_SPANS"]. '
                "If many requests share this trace id, a caller sends the same traceparent header with each of them."
            )
            % counts
        )
    return sentences
