"""Show the list of traces."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_tracing.conf.loading import get_settings
from django_tracing.exceptions import ReadError
from django_tracing.pages.forms import SearchForm
from django_tracing.pages.links import changed_query, search_address, trace_address, trace_id_in
from django_tracing.pages.mounts import Mount
from django_tracing.pages.plot import plot
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import SCALE, age_text, local_time, status_color, svg_number
from django_tracing.pages.source import open_reader, problem_of
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import TraceSummary, root_first
from django_tracing.traces.readers.base import limits_of
from django_tracing.traces.times import to_datetime

__all__ = ["page"]

#: What was entered as a trace id is shown again, so much of it.
_LONGEST_ENTERED: Final = 100
#: The most frequent searches, as links above the form.
_SEARCHES: Final[tuple[tuple[Any, dict[str, str]], ...]] = (
    (_("All"), {}),
    (_("Slow requests"), {"min_duration": "1s"}),
    (_("Errors"), {"errors_only": "on"}),
    (_("Circuit breakers"), {"attributes": "operation.type=circuit_breaker"}),
    (_("Database queries"), {"attributes": "operation.type=database"}),
)


def _listed(summary: TraceSummary, longest: int, now: float) -> dict[str, Any]:
    name, route = _request_of(summary)
    status = "" if summary.status_code is None else str(summary.status_code)
    return {
        "id": summary.trace_id,
        "url": trace_address(summary.trace_id),
        "method": summary.method if summary.path else "",
        "name": name,
        "route": route,
        "status": status,
        "status_color": status_color(status),
        "user": summary.user,
        "user_url": search_address(user=summary.user) if summary.user else "",
        "sql_count": "" if summary.sql_count is None else str(summary.sql_count),
        "sql_time": duration_text(summary.sql_time) if summary.sql_count and summary.sql_time is not None else "",
        # The service of the topmost span first.
        "services": ", ".join(root_first(summary.service, summary.services)),
        "state": summary.state,
        "running_for": duration_text(max(round(now * 1e9) - summary.start, 0)),
        "started": local_time(summary.start),
        "age": age_text(now - summary.start / 1e9),
        "iso": to_datetime(summary.start).isoformat(),
        "duration": duration_text(summary.duration),
        "width": svg_number(SCALE * summary.duration / longest if longest else 0),
        "spans": str(summary.span_count),
        "left_out": gettext("%(count)d not stored") % {"count": summary.left_out} if summary.left_out else "",
        "errors": bool(summary.error_count),
        "error_text": ngettext("%(count)d error", "%(count)d errors", summary.error_count)
        % {"count": summary.error_count},
    }


def _request_of(summary: TraceSummary) -> tuple[str, str]:
    """Return what stands for the trace, and its route where that is something else."""
    if not summary.path:
        return summary.name or gettext("(no name)"), ""
    route = summary.name.removeprefix(f"{summary.method} ")
    return summary.path, "" if route in (summary.path, summary.method) else route


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
    """Show the newest traces that match the search, or open the trace whose id was entered."""
    context: dict[str, Any] = {"found": [], "plot": None, "problem": None, "older": "", "newer": ""}
    data = request.GET.copy()
    entered = str(data.get("trace", ""))
    if entered:
        trace_id = trace_id_in(entered)
        if trace_id:
            return HttpResponseRedirect(trace_address(trace_id))
        context["entered"] = entered[:_LONGEST_ENTERED]
    form = SearchForm(data)
    try:
        reader = open_reader()
        services = reader.services()
        own = get_settings().service_name
        if "service" not in data and limits_of(reader).per_service and own in services:
            # Jaeger needs one query per service. Only those who choose "All" wait for fifty of them.
            data["service"] = own
        chosen = str(data.get("service", ""))
        operations = reader.operations(chosen) if chosen in services else []
        form = SearchForm(data, services=services, operations=operations)
        context["described"] = reader.describe()
        if form.is_valid():
            before = _before(data.get("before", ""))
            summaries = reader.search(**form.query(), limit=form.page_size + 1, before=before)
            context |= _found(request, summaries, form.page_size)
            context["newer"] = changed_query(request, before=None) if before else ""
    except ReadError as error:
        context["problem"] = problem_of(request, mount, error)
    context["form"] = form
    context["searches"] = [
        {"label": label, "query": urlencode(query), "chosen": _is_chosen(data, query)} for label, query in _SEARCHES
    ]
    # Shown on the drawer that holds the form on a phone.
    context["filters"] = sum(bool(data.get(name)) for name in form.fields)
    context["detailed"] = any(
        data.get(name) for name in ("status_code", "user", "correlation_id", "max_duration", "limit")
    )
    part = request.GET.get("part") == "results"
    return respond(request, mount, "results" if part else "list", gettext("Traces"), context)


def _found(request: HttpRequest, summaries: list[TraceSummary], limit: int) -> dict[str, Any]:
    shown = summaries[:limit]
    now = time.time()
    # The final durations of requests that are still running are not known.
    finished = [summary for summary in shown if summary.state == "finished"]
    longest = max((summary.duration for summary in finished), default=0)
    # Set if the search took too long to find all.
    reached = getattr(summaries, "reached", None)
    older = (
        f"{shown[-1].start}-{shown[-1].trace_id}" if len(summaries) > limit else reached and f"{reached}-{'0' * 32}"
    )
    return {
        "found": [_listed(summary, longest, now) for summary in finished],
        "waiting": [_listed(summary, longest, now) for summary in shown if summary.state != "finished"],
        # Jaeger's summaries have no attributes: columns that all would leave empty are left out.
        "columns": {
            "status": any(summary.status_code is not None for summary in finished),
            "sql": any(summary.sql_count is not None for summary in finished),
            "user": any(summary.user for summary in finished),
        },
        "plot": plot(finished),
        "all_times": changed_query(request, start=None, end=None, before=None)
        if request.GET.get("start") or request.GET.get("end")
        else "",
        "older": changed_query(request, before=older) if older else "",
        "reached": None if reached is None else local_time(reached),
        "shown": ngettext("%(count)d trace", "%(count)d traces", len(shown)) % {"count": len(shown)},
    }


def _before(text: str) -> tuple[int, str] | None:
    start, _dash, trace_id = text.partition("-")
    return (int(start), trace_id) if start.isdecimal() and len(start) < 20 and trace_id else None


def _is_chosen(data: Any, query: Mapping[str, str]) -> bool:
    given = {key: value for key, value in data.items() if value and key not in ("service", "limit", "before", "part")}
    return given == dict(query)
