"""Show the service map."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.utils.text import slugify
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.pages.answers import _answer, _problem, _reader
from django_tracing.pages.forms import _RANGES, _since
from django_tracing.pages.links import _address
from django_tracing.traces.analysis.dependencies import BOX_HEIGHT, BOX_WIDTH, errors_of, layout
from django_tracing.traces.model import ReadError

__all__ = ["map_page"]


def map_page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Who calls whom, as a drawing and as a table."""
    context: dict[str, Any] = {"problem": None, "map": None, "links": [], "ranges": _RANGES}
    within = request.GET.get("within", "")
    context["within"] = within if within in dict(_RANGES) else ""
    try:
        dependencies = _reader().dependencies(start=_since(context["within"]))
        context["sampled"] = dependencies.sampled
        context["map"] = _drawn(layout(dependencies.links)) if dependencies.links else None
        context["links"] = [
            {
                "caller": link.caller,
                "callee": link.callee,
                "kind": str(_NODES[link.kind]),
                "calls": str(link.calls),
                "errors": errors_of(link),
                "failing": link.errors > 0,
                "state": link.state,
            }
            for link in dependencies.links
        ]
    except ReadError as error:
        context["problem"] = _problem(request, error)
    return _answer(request, site, "map", gettext("Service map"), context)


_NODES: Final = {
    "service": _("service"),
    "database": _("database"),
    "cache": _("cache"),
    "breaker": _("circuit breaker"),
    "external": _("not traced"),
}


#: As much of a name as fits into its box.
_NAME_LENGTH: Final = 20


def _drawn(drawing: Any) -> dict[str, Any]:
    return {
        "width": str(drawing.width),
        "height": str(drawing.height),
        "box_width": str(BOX_WIDTH),
        "box_height": str(BOX_HEIGHT),
        "boxes": [
            {
                "name": box.name,
                "short": box.name if len(box.name) <= _NAME_LENGTH else box.name[: _NAME_LENGTH - 1] + "…",
                "kind": box.kind,
                "what": str(_NODES[box.kind]) + (f", {box.state}" if box.state else ""),
                "state": slugify(box.state),
                "x": str(box.x),
                "y": str(box.y),
                "middle": str(box.x + BOX_WIDTH // 2),
                "name_y": str(box.y + 20),
                "what_y": str(box.y + 36),
                "url": f"{_address('admin:django_tracing_trace_changelist')}?{urlencode({'service': box.name})}"
                if box.kind == "service"
                else "",
            }
            for box in drawing.boxes
        ],
        "lines": [
            {
                "path": line.path,
                "x": str(line.label_x),
                "y": str(line.label_y),
                "calls": str(line.link.calls),
                "failing": line.link.errors > 0,
                "label": gettext("%(caller)s calls %(callee)s: %(calls)d, failed: %(errors)s")
                % {
                    "caller": line.link.caller,
                    "callee": line.link.callee,
                    "calls": line.link.calls,
                    "errors": errors_of(line.link),
                },
                "errors": errors_of(line.link) if line.link.errors else "",
            }
            for line in drawing.lines
        ],
    }
