"""Show statistics by route."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.exceptions import ReadError
from django_tracing.pages.forms import RANGES, since
from django_tracing.pages.links import changed_query, search_address, trace_address
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import WORKS, shares_of
from django_tracing.pages.source import chosen_service, open_reader, problem_of, sample_sentence
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import RouteStatistics

__all__ = ["page"]

#: With fewer, the slowest of them would be the 99th percentile.
FEWEST_FOR_P99: Final = 100
_COLUMNS: Final = (
    ("name", _("Route")),
    ("service", _("Service")),
    ("count", _("Count")),
    ("errors", _("Errors")),
    ("p50", _("p50")),
    ("p95", _("p95")),
    ("p99", _("p99")),
    ("slowest", _("Slowest")),
    ("total", _("Total")),
)
_KEYS: Final[Mapping[str, Callable[[RouteStatistics], Any]]] = {
    "name": lambda route: route.name,
    "service": lambda route: (route.service, route.name),
    "count": lambda route: route.count,
    "errors": lambda route: route.error_count,
    "p50": lambda route: route.p50,
    "p95": lambda route: route.p95,
    "p99": lambda route: route.p99 if route.count >= FEWEST_FOR_P99 else -1,
    "slowest": lambda route: route.slowest,
    "total": lambda route: sum(route.time_by_work.values()),
}


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
    """Show count, duration and time by category of requests, tasks and commands, by route."""
    context: dict[str, Any] = {"routes": [], "problem": None, "services": [], "service": "", "ranges": RANGES}
    context["works"] = list(WORKS.items())
    within = request.GET.get("within", "")
    context["within"] = within if within in dict(RANGES) else ""
    order = request.GET.get("o", "-count")
    context["columns"] = [_column(request, key, label, order) for key, label in _COLUMNS]
    try:
        reader = open_reader()
        context["services"] = reader.services()
        context["service"] = chosen_service(request, reader, context["services"])
        found = reader.routes(service=context["service"] or None, start=since(context["within"]))
        context["routes"] = [_route(route) for route in _sorted(found, order)]
        context["sample"] = sample_sentence(reader, getattr(found, "sample", None))
    except ReadError as error:
        context["problem"] = problem_of(request, mount, error)
    return respond(request, mount, "routes", gettext("Routes"), context)


def _sorted(routes: list[RouteStatistics], order: str) -> list[RouteStatistics]:
    key = _KEYS.get(order.lstrip("-"), _KEYS["count"])
    return sorted(routes, key=key, reverse=order.startswith("-"))


def _column(request: HttpRequest, key: str, label: Any, order: str) -> dict[str, Any]:
    chosen = order.lstrip("-") == key
    first = "" if key in ("name", "service") else "-"
    turned = f"{'' if order.startswith('-') else '-'}{key}" if chosen else f"{first}{key}"
    return {
        "key": key,
        "label": label,
        "url": changed_query(request, o=turned),
        "sort": ("descending" if order.startswith("-") else "ascending") if chosen else "",
        "numeric": key not in ("name", "service"),
    }


def _route(route: RouteStatistics) -> dict[str, Any]:
    return {
        "name": route.name or gettext("(no name)"),
        "service": route.service,
        "url": search_address(service=route.service, operation=route.name),
        "count": str(route.count),
        "errors": str(route.error_count) if route.error_count else "",
        "error_share": f"{100 * route.error_count / route.count:.0f} %",
        "p50": duration_text(route.p50),
        "p95": duration_text(route.p95),
        "p99": duration_text(route.p99) if route.count >= FEWEST_FOR_P99 else "",
        "slowest": duration_text(route.slowest),
        "slowest_url": trace_address(route.slowest_trace_id),
        "total": duration_text(sum(route.time_by_work.values())),
        "shares": shares_of(route.time_by_work),
    }
