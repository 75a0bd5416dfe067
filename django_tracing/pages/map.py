"""Show the service map."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.exceptions import ReadError
from django_tracing.pages.forms import RANGES, since
from django_tracing.pages.links import page_address, search_address
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import NODES
from django_tracing.pages.source import chosen_service, open_reader, problem_of, sample_sentence
from django_tracing.traces.analysis.layout import BOX_WIDTH, Box, Line, Map, layout
from django_tracing.traces.diagrams import errors_of
from django_tracing.traces.model import Dependency
from django_tracing.traces.readers.base import limits_of

__all__ = ["page"]

#: What stands in a box, where it is not the kind of the calls to it.
_BOXES: Final = {"breaker": _("behind a circuit breaker")}
#: How many characters of a name fit into its box.
_NAME_LENGTH: Final = 21


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
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
        context["map"] = _drawing_of(layout(dependencies.links), context["within"]) if dependencies.links else None
        context["links"] = [
            {
                "caller": link.caller,
                "callee": link.callee,
                "kind": str(NODES[link.kind]),
                "calls": str(link.calls),
                "errors": errors_of(link),
                "failing": link.errors > 0,
                "state": link.state,
                "url": _calls_address(link, context["within"]),
            }
            for link in dependencies.links
        ]
    except ReadError as error:
        context["problem"] = problem_of(request, mount, error)
    return respond(request, mount, "map", gettext("Service map"), context)


def _calls_address(link: Dependency, within: str = "") -> str:
    """Return the address of the traces with these calls."""
    fields = {"caller": link.caller, "callee": link.callee, "kind": link.kind, "within": within}
    return f"{page_address('trace_calls')}?{urlencode({k: v for k, v in fields.items() if v})}"


def _drawing_of(drawing: Map, within: str) -> dict[str, Any]:
    return {
        "width": str(drawing.width),
        "height": str(drawing.height),
        "box_width": str(BOX_WIDTH),
        "boxes": [_box(box) for box in drawing.boxes],
        "lines": [_line(line, within) for line in drawing.lines],
    }


def _box(box: Box) -> dict[str, str]:
    name, what = box.name, str(_BOXES.get(box.kind) or NODES[box.kind])
    if box.kind in ("database", "cache"):
        # The system is in the second line, so that more of the rest fits.
        system, _space, rest = name.partition(" ")
        name, what = (rest, f"{system}, {what}") if rest else (name, what)
    return {
        "name": box.name,
        "short": _cut(name),
        "kind": box.kind,
        "what": _cut(what) if box.kind in ("database", "cache") else what,
        "x": str(box.x),
        "y": str(box.y),
        "height": str(box.height),
        "middle": str(box.x + BOX_WIDTH // 2),
        "name_y": str(box.y + box.height // 2 - 3),
        "what_y": str(box.y + box.height // 2 + 13),
        "url": search_address(service=box.name) if box.kind == "service" else "",
    }


def _cut(text: str) -> str:
    return text if len(text) <= _NAME_LENGTH else text[: _NAME_LENGTH - 1] + "…"


def _line(line: Line, within: str) -> dict[str, Any]:
    link = line.link
    labels = [_sentence(link), *(_sentence(breaker) for breaker in line.breakers if breaker is not link)]
    # Of several breakers, the mark shows the state that stops the most calls.
    states = [breaker.state for breaker in line.breakers]
    return {
        "url": _calls_address(link, within),
        "path": line.path,
        "x": str(line.label_x),
        "y": str(line.label_y),
        "calls": _short_count(link.calls),
        "failing": link.errors > 0,
        "errors": errors_of(link) if link.errors else "",
        "label": "; ".join(labels),
        "breaker": bool(line.breakers),
        "state": next((state for state in ("open", "half-open") if state in states), "closed"),
        "mark_x": str(line.mark_x),
        "mark_y": str(line.mark_y),
    }


def _sentence(link: Dependency) -> str:
    counts = {"caller": link.caller, "callee": link.callee, "calls": link.calls, "errors": errors_of(link)}
    if link.kind != "breaker":
        return gettext("%(caller)s calls %(callee)s: %(calls)d calls, %(errors)s failed") % counts
    state = {"state": link.state or gettext("unknown")}
    return gettext("circuit breaker %(callee)s (%(state)s): %(calls)d calls, %(errors)s failed") % {**counts, **state}


def _short_count(count: int) -> str:
    """Return a number in at most four characters, such as 9999, 12k or 3M; more than 999 millions of millions: ∞."""
    for unit in ("", "k", "M", "G", "T"):
        if count < (10_000 if not unit else 1000):
            return f"{count}{unit}"
        count //= 1000
    return "∞"
