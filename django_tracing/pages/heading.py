"""Describe a trace at the top of its page."""

from __future__ import annotations

from typing import Any, Final

from django.utils.translation import gettext, ngettext

from django_tracing.pages.links import _searchable, _trace_address, _value
from django_tracing.pages.rows import Colours, shares_of
from django_tracing.pages.times import _time
from django_tracing.semconv import names
from django_tracing.traces.analysis.waterfall import (
    Waterfall,
)
from django_tracing.traces.model import Trace, to_datetime
from django_tracing.traces.text import duration_text

__all__ = ["MOST_SERVICES"]

#: More services are counted, not named.
MOST_SERVICES: Final = 100


def _head(trace: Trace, fall: Waterfall, colours: Colours) -> dict[str, Any]:
    root = trace.root
    counts, services = trace.spans_by_service(), trace.services
    said = {}
    for key in (names.USER_ID, names.USER_SUBSCRIPTION, names.CORRELATION_ID):
        value = next((span.attributes[key] for span in trace.spans if key in span.attributes), None)
        if value is not None:
            said[key] = {"value": _value(value), "url": _searchable(key, value)}
    return {
        "id": trace.trace_id,
        "url": _trace_address(trace.trace_id),
        "name": root.name or gettext("(no name)"),
        "service": root.service,
        "started": _time(trace.start),
        "iso": to_datetime(trace.start).isoformat(),
        "duration": duration_text(trace.duration),
        "spans": ngettext("%(count)d span", "%(count)d spans", trace.span_count) % {"count": trace.span_count},
        "errors": ngettext("%(count)d error", "%(count)d errors", trace.error_count) % {"count": trace.error_count}
        if trace.error_count
        else "",
        "services": [
            {"name": service, "colour": str(colours[service]), "spans": str(counts[service])}
            for service in services[:MOST_SERVICES]
        ],
        "more_services": max(len(services) - MOST_SERVICES, 0),
        "left_out": _left_out(trace),
        "said": said,
        "shares": shares_of(fall.time_by_work),
        "orphans": sum(row.orphan for row in fall.rows),
    }


def _left_out(trace: Trace) -> list[str]:
    """How much of the trace is not on the page, and where it is."""
    if not trace.left_out and not trace.uncounted:
        return []
    counts = {"shown": len(trace.spans), "count": trace.span_count, "unstored": trace.unstored}
    if trace.uncounted:
        sentences = [gettext("The earliest %(shown)d of more than %(count)d spans are shown.") % counts]
    else:
        sentences = [gettext("The earliest %(shown)d of %(count)d spans are shown.") % counts]
    if trace.uncounted or trace.left_out > trace.unstored:
        sentences.append(gettext("The download has the others."))
    if trace.unstored:
        sentences.append(
            gettext(
                '%(unstored)d were not stored: TRACING["MAX_TRACE_SPANS"] says how many are kept of a trace. '
                "A trace id that many requests share is what a caller that repeats one traceparent makes."
            )
            % counts
        )
    return sentences
