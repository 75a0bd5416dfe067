"""A panel of django-debug-toolbar with the waterfall of the request: see docs/debug_toolbar.md.

Only for those who name it in ``DEBUG_TOOLBAR_PANELS``: nothing else imports it.
"""

from __future__ import annotations

import time
from typing import Any, Final

from debug_toolbar.panels import Panel
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext, ngettext

from django_tracing import spans
from django_tracing.conf import get_settings
from django_tracing.correlation import Scope, get_scope
from django_tracing.export.local import span_row
from django_tracing.manual import trace_url
from django_tracing.trace_rows import Colours, rows_of, shares_of
from django_tracing.traces.model import Trace, span_of
from django_tracing.traces.render import duration_text
from django_tracing.traces.waterfall import location_of, short_statement, statement_of, waterfall

__all__ = ["TracingPanel"]

#: The toolbar keeps what panels say of many requests: more rows are for the trace's own page.
MOST_ROWS: Final = 1000


class TracingPanel(Panel):  # type: ignore[misc]
    """The spans of the request that the toolbar belongs to."""

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

    def process_request(self, request: HttpRequest) -> Any:
        """Begins to collect; the toolbar calls its other panels and the view from here."""
        try:
            scope = get_scope()
            if scope is not None and _recorded(scope):
                spans.collect(scope)
        except Exception:
            spans.log_once("debug-toolbar", "The toolbar's panel could not collect the spans of a request.")
        return super().process_request(request)

    def generate_stats(self, request: HttpRequest, response: HttpResponse) -> None:
        """Makes the rows of what was collected."""
        try:
            scope = get_scope()
            if scope is None or not _recorded(scope):
                stats: dict[str, Any] = {"rows": [], "why": _why_not(scope)}
            else:
                stats = _stats(scope, request)
        except Exception:
            spans.log_once("debug-toolbar", "The toolbar's panel could not show the spans of a request.")
            stats = {"rows": [], "why": gettext("The spans could not be shown; the log says more.")}
        self.record_stats(stats)


def _recorded(scope: Scope) -> bool:
    return scope.span is not None and scope.span.is_recording()


def _why_not(scope: Scope | None) -> str:
    settings = get_settings()
    if not settings.enabled:
        return gettext("Tracing is off: ENABLED is False, or a setting is wrong (manage.py check).")
    if "request" not in settings.instrumentations:
        return gettext("Requests are not among the INSTRUMENTATIONS.")
    if scope is None:
        return gettext("This request is not traced: its path is in IGNORE_PATHS.")
    return gettext("This request is not recorded: its trace was not sampled.")


def _stats(scope: Scope, request: HttpRequest) -> dict[str, Any]:
    rows = [span_row(span) for span in tuple(spans.collect(scope))]
    span: Any = scope.span
    # The request itself goes on while the toolbar is made: as far as it is known now.
    rows.append({**span_row(span), "end": time.time_ns(), "name": _name(request)})
    trace_id = rows[-1]["trace_id"]
    trace = Trace(trace_id, [span_of(row) for row in rows if row["trace_id"] == trace_id])
    fall = waterfall(trace)
    shown = rows_of(fall, Colours(trace.services), everything=True)
    return {
        "rows": [row for row, found in zip(shown, fall.rows, strict=True) if not _folded(found.parent, fall.rows)][
            :MOST_ROWS
        ],
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


def _folded(parent: int, rows: Any) -> bool:
    return parent >= 0 and bool(rows[parent].folds)


def _name(request: HttpRequest) -> str:
    route = getattr(getattr(request, "resolver_match", None), "route", None)
    return f"{request.method} /{route}" if route is not None else str(request.method)
