"""Show the waterfall of the request in django-debug-toolbar: see docs/debug_toolbar.md.

This module is imported only if ``DEBUG_TOOLBAR_PANELS`` names it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from debug_toolbar.panels import Panel
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.translation import gettext, ngettext

from django_tracing import spans
from django_tracing.api.spans import trace_url
from django_tracing.conf.loading import get_settings
from django_tracing.context.description import span_name
from django_tracing.context.request import HEADER, RequestState, get_request_state
from django_tracing.export.local import span_row
from django_tracing.instrumentation.request.placing import MIDDLEWARE
from django_tracing.pages.rows import Colors, rows_of, shares_of
from django_tracing.traces.analysis.waterfall import Row, location_of, short_statement, statement_of, waterfall
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import Trace, span_of

__all__ = ["TracingPanel"]

#: The toolbar stores the panels of many requests. The trace's own page shows all rows.
MOST_ROWS: Final = 1000


class TracingPanel(Panel):  # type: ignore[misc]
    """The panel with the spans of a request."""

    is_async = True
    template = "django_tracing/debug_toolbar.html"

    @property
    def title(self) -> str:
        return gettext("Tracing")

    @property
    def nav_subtitle(self) -> str:
        stats = self.get_stats()
        if not stats.get("rows"):
            return gettext("not recorded")
        count = stats["span_count"]
        return ngettext("%(count)d span, %(time)s", "%(count)d spans, %(time)s", count) % {
            "count": count,
            "time": stats["duration"],
        }

    @property
    def content(self) -> str:
        try:
            return str(super().content)
        except Exception:
            spans.log_once("debug-toolbar-content", "The toolbar's panel could not be rendered.")
            return format_html("<p>{}</p>", _not_shown())

    def process_request(self, request: HttpRequest) -> Any:
        """Start to collect spans. The toolbar calls its other panels and the view from here."""
        try:
            state = _state_of(request)
            if state is not None and _recorded(state):
                spans.collect(state)
        except Exception:
            spans.log_once("debug-toolbar", "The toolbar's panel could not collect the spans of a request.")
        return super().process_request(request)

    def generate_stats(self, request: HttpRequest, response: HttpResponse) -> None:
        """Build the rows from the collected spans."""
        try:
            state = _state_of(request)
            if state is None or not _recorded(state):
                stats: dict[str, Any] = {"rows": [], "why": _why_not(state, response)}
            else:
                stats = _stats(state, request)
        except Exception:
            spans.log_once("debug-toolbar", "The toolbar's panel could not show the spans of a request.")
            stats = {"rows": [], "why": _not_shown()}
        self.record_stats(stats)


def _not_shown() -> str:
    return gettext("The spans could not be shown. The log has the details.")


def _state_of(request: HttpRequest) -> RequestState | None:
    """Return the state of this request, but not that of a command or a request that makes it."""
    state = get_request_state()
    return state if state is not None and state.request is request else None


def _recorded(state: RequestState) -> bool:
    return state.span is not None and state.span.is_recording()


def _why_not(state: RequestState | None, response: HttpResponse) -> str:
    settings = get_settings()
    if not settings.enabled:
        return gettext("Tracing is off: ENABLED is False, or a setting is wrong (see manage.py check).")
    if "request" not in settings.instrumentations:
        return gettext("The setting INSTRUMENTATIONS does not contain “request”.")
    if state is None:
        # The header shows that our middleware has run already.
        if HEADER in response.headers and MIDDLEWARE in django_settings.MIDDLEWARE[1:]:
            return gettext(
                "TracingMiddleware comes after the toolbar's middleware in MIDDLEWARE. Put it first, or remove it."
            )
        return gettext(
            "This request is not traced: its path is in IGNORE_PATHS, it is for a static file, or it shows traces."
        )
    return gettext("This request is not recorded: its trace was not sampled.")


def _stats(state: RequestState, request: HttpRequest) -> dict[str, Any]:
    rows = [span_row(span) for span in tuple(spans.collect(state))]
    span: Any = state.span
    # The request has not ended yet: its row shows what is known now.
    request_row = {**span_row(span), "end": time.time_ns(), "name": span_name(request)}
    trace_id = request_row["trace_id"]
    rows = [row for row in rows if row["trace_id"] == trace_id]
    known = {request_row["span_id"], *(row["span_id"] for row in rows)}
    for row in rows:
        # A span in between may not have ended either. What is below it is shown below the request.
        if row["parent_id"] not in known:
            row["parent_id"] = request_row["span_id"]
    trace = Trace(trace_id, [span_of(row) for row in (*rows, request_row)])
    fall = waterfall(trace)
    # The trace's own page shows folded rows.
    shown = [number for number, row in enumerate(fall.rows) if not _folded(row, fall.rows)]
    # Only the rows shown are built: for a long trace, building all of them takes a second.
    made = rows_of(
        replace(fall, rows=fall.rows[: shown[:MOST_ROWS][-1] + 1]), Colors(trace.services), everything=True
    )
    return {
        "rows": [made[number] for number in shown[:MOST_ROWS]],
        "left_out": max(len(shown) - MOST_ROWS, 0),
        "span_count": trace.span_count,
        "duration": duration_text(trace.duration),
        "shares": [share._asdict() for share in shares_of(fall.time_by_work)],
        "repeated": [
            {
                "count": str(row.count),
                "duration": duration_text(row.duration),
                "statement": short_statement(statement_of(row.span.attributes)) or row.span.name,
                "location": location_of(row.span.attributes),
            }
            for row in fall.repeated
        ],
        "trace_id": trace_id,
        "url": trace_url(trace_id) or "",
    }


def _folded(row: Row, rows: Sequence[Row]) -> bool:
    return row.parent >= 0 and rows[row.parent].folds
