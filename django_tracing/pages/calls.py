"""Show the traces with the calls of one line of the service map."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_tracing.exceptions import ReadError
from django_tracing.pages.forms import RANGES, since
from django_tracing.pages.links import trace_address
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import NODES, local_time
from django_tracing.pages.source import open_reader, problem_of
from django_tracing.traces.analysis.dependencies import links_of
from django_tracing.traces.diagrams import errors_of
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import Dependency, TraceSummary
from django_tracing.traces.readers.base import Reader
from django_tracing.traces.times import to_datetime

__all__ = ["page"]

#: How many traces are shown.
_MOST_SHOWN: Final = 25
#: How many traces are read to find them, how many spans of them, and for how many seconds.
_MOST_READ: Final = 200
_MOST_SPANS: Final = 20_000
_SECONDS: Final = 5.0
#: The attributes that lead to the spans of a target, by its kind: all of its name, or its first word.
_ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "breaker": ("circuit_breaker.name", "circuit_breaker.service"),
    "cache": ("cache.system", "db.system", "db.system.name"),
    "database": ("db.system", "db.system.name"),
    "external": ("peer.service", "server.address", "net.peer.name"),
}


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
    """Show the newest traces in which one service makes calls of one kind to one callee."""
    # Longer names are not stored.
    caller, callee, kind = (request.GET.get(name, "")[:1000] for name in ("caller", "callee", "kind"))
    within = request.GET.get("within", "")
    within = within if within in dict(RANGES) else ""
    context: dict[str, Any] = {"problem": None, "traces": [], "caller": caller, "callee": callee}
    context["kind"] = str(NODES.get(kind, ""))
    if caller and callee and kind in NODES:
        try:
            context |= _found(open_reader(), caller, callee, kind, since(within))
        except ReadError as error:
            context["problem"] = problem_of(request, mount, error)
    return respond(request, mount, "calls", gettext("Calls"), context)


def _found(reader: Reader, caller: str, callee: str, kind: str, start: float | None) -> dict[str, Any]:
    """Return the traces with the calls, and how many traces were read to find them."""
    deadline = time.monotonic() + _SECONDS
    rows: list[dict[str, str]] = []
    read = spans = 0
    for summary in _candidates(reader, caller, callee, kind, start):
        if len(rows) == _MOST_SHOWN or read == _MOST_READ or spans > _MOST_SPANS or time.monotonic() > deadline:
            break
        read += 1
        spans += summary.span_count
        try:
            trace = reader.trace(summary.trace_id)
        except ReadError:
            # The time for one page is over. What was found is shown.
            if not rows:
                raise
            break
        if trace is not None:
            links = links_of([trace])
            rows += [
                _row(summary, link)
                for link in links
                if (link.caller, link.callee, link.kind) == (caller, callee, kind)
            ]
    return {"traces": rows, "read": str(read)}


def _candidates(reader: Reader, caller: str, callee: str, kind: str, start: float | None) -> Iterator[TraceSummary]:
    """Yield the summaries of traces that may have the calls, each once: first those that probably have them."""
    searches: list[dict[str, Any]] = []
    if kind == "service":
        searches.append({"service": callee})
    else:
        value = callee.partition(" ")[0] if kind in ("cache", "database") else callee
        searches += [{"service": caller, "attributes": {key: value}} for key in _ATTRIBUTES[kind]]
        searches.append({"service": caller})
    seen = set()
    for search in searches:
        for summary in reader.search(**search, start=start, limit=_MOST_READ):
            if summary.trace_id not in seen:
                seen.add(summary.trace_id)
                yield summary


def _row(summary: TraceSummary, link: Dependency) -> dict[str, str]:
    return {
        "url": trace_address(summary.trace_id),
        "name": summary.name or gettext("(no name)"),
        "service": summary.service,
        "started": f"{local_time(summary.start):%Y-%m-%d %H:%M:%S}",
        "iso": to_datetime(summary.start).isoformat(),
        "duration": duration_text(summary.duration),
        "calls": str(link.calls),
        "errors": errors_of(link) if link.errors else "",
    }
