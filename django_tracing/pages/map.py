"""Show the service map."""

from __future__ import annotations

from typing import Any, Final

from django.contrib.admin import ModelAdmin
from django.http import HttpRequest, HttpResponse
from django.utils.text import slugify
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.exceptions import ReadError
from django_tracing.pages.forms import RANGES, since
from django_tracing.pages.links import search_address
from django_tracing.pages.responses import respond
from django_tracing.pages.source import chosen_service, open_reader, problem_of, sample_sentence
from django_tracing.traces.analysis.layout import BOX_HEIGHT, BOX_WIDTH, layout
from django_tracing.traces.diagrams import errors_of
from django_tracing.traces.readers.base import limits_of

__all__ = ["page"]

_NODES: Final = {
    "service": _("service"),
    "database": _("database"),
    "cache": _("cache"),
    "breaker": _("circuit breaker"),
    "external": _("not traced"),
}
#: How many characters of a name fit into its box.
_NAME_LENGTH: Final = 20


def page(request: HttpRequest, admin: ModelAdmin[Any]) -> HttpResponse:
    """Show which services call each other, as a drawing and as a table."""
    context: dict[str, Any] = {"problem": None, "map": None, "links": [], "ranges": RANGES}
    within = request.GET.get("within", "")
    context["within"] = within if within in dict(RANGES) else ""
    try:
        reader = open_reader()
        chosen: dict[str, Any] = {}
        if limits_of(reader).map_per_service:
            context["services"] = reader.services()
            context["service"] = chosen_service(request, reader, context["services"])
            if context["service"]:
                chosen = {"service": context["service"]}
        dependencies = reader.dependencies(start=since(context["within"]), **chosen)
        context["sample"] = sample_sentence(reader, dependencies.sample)
        context["sampled"] = dependencies.sampled
        context["map"] = _drawing_of(layout(dependencies.links)) if dependencies.links else None
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
        context["problem"] = problem_of(request, error)
    return respond(request, admin, "map", gettext("Service map"), context)


def _drawing_of(drawing: Any) -> dict[str, Any]:
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
                "url": search_address(service=box.name) if box.kind == "service" else "",
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
                "label": gettext("%(caller)s calls %(callee)s: %(calls)d calls, %(errors)s failed")
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
