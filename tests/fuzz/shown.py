"""Show a trace in every way that this app has: in a terminal, as files, and as pages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from django.test import RequestFactory, override_settings

from django_tracing.models import Trace as TraceModel
from django_tracing.pages.compare import differences
from django_tracing.pages.mounts import PlainMount
from django_tracing.pages.rows import Colors, rows_of
from django_tracing.traces.analysis.dependencies import links_of
from django_tracing.traces.analysis.layout import layout
from django_tracing.traces.analysis.routes import routes_of
from django_tracing.traces.analysis.statements import statements
from django_tracing.traces.analysis.waterfall import waterfall
from django_tracing.traces.diagrams import as_dot, as_mermaid, as_text
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.model import Dependencies, FoundSpan, SpanStream, Trace, TraceSummary
from django_tracing.traces.text import render_list, render_trace
from tests.fuzz.promises import check_json, check_terminal

__all__ = ["PAGES", "pages_of", "show", "show_summaries", "site"]


def show_summaries(summaries: Sequence[TraceSummary]) -> None:
    check_terminal(render_list(summaries))
    check_json(json.dumps([summary.as_dict() for summary in summaries]))


def show_links(found: Dependencies) -> None:
    for write in (as_text, as_mermaid, as_dot):
        check_terminal(write(found))
    check_json(json.dumps([link.as_dict() for link in found.links]))
    if found.links:
        layout(found.links)


def show(trace: Trace) -> None:
    """Show a trace that was read. Readers raise what is wrong with it; nothing behind them does."""
    check_terminal(render_trace(trace))
    show_summaries([trace.summary()])
    check_json(json.dumps(trace.as_dict()))
    check_json("".join(otlp_json(trace.spans)))
    check_json("".join(jaeger_json(trace.trace_id, trace.spans)))
    fall = waterfall(trace)
    rows_of(fall, Colors(trace.services))
    statements(trace.spans)
    differences(trace, trace)
    check_json(json.dumps([route.as_dict() for route in routes_of([trace])]))
    show_links(Dependencies(links_of([trace])))


# ----- pages


class _Stored:
    """A reader of one trace."""

    def __init__(self) -> None:
        self.found: Trace | None = None

    def describe(self) -> str:
        return "memory"

    def trace_link(self, trace_id: str) -> str | None:
        return None

    def services(self) -> list[str]:
        return [] if self.found is None else sorted(self.found.services)

    def operations(self, service: str) -> list[str]:
        return [] if self.found is None else sorted({span.name for span in self.found.spans})

    def search(self, **query: Any) -> list[TraceSummary]:
        return [] if self.found is None else [self.found.summary()]

    def trace(self, trace_id: str) -> Trace | None:
        return self.found

    def span(self, trace_id: str, span_id: str) -> FoundSpan | None:
        trace = self.found
        return None if trace is None else FoundSpan(trace.spans[0], trace.topmost.name, trace.start)

    def stream(self, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
        trace = self.found
        return None if trace is None else SpanStream(trace.trace_id, trace.topmost.name, iter(trace.spans))

    def routes(self, **query: Any) -> Any:
        return [] if self.found is None else routes_of([self.found])

    def dependencies(self, **query: Any) -> Dependencies:
        return Dependencies([] if self.found is None else links_of([self.found]))


_stored = _Stored()


def make_reader(settings: Any) -> _Stored:
    return _stored


@contextmanager
def site() -> Iterator[None]:
    from django.conf import settings

    tracing = {**getattr(settings, "TRACING", {}), "READER": make_reader, "SERVICE_NAME": "shop"}
    with override_settings(TRACING=tracing, ROOT_URLCONF="tests.pages.urls"):
        yield


@lru_cache(maxsize=1)
def _user() -> Any:
    return SimpleNamespace(is_authenticated=True, is_active=True, is_staff=True, has_perm=lambda name: True, pk=1)


PAGES = ("trace", "sql", "span", "compare", "list", "routes", "map", "calls", "otlp", "jaeger")


def pages_of(trace: Trace, page: str, query: str = "") -> None:
    """Render a page of ``trace``. No text of it becomes markup."""
    from importlib import import_module

    from django_tracing.pages.links import current_views

    _stored.found = trace
    mount = PlainMount("django_tracing_pages", TraceModel)
    request = RequestFactory().get("/tracing/", QUERY_STRING=query)
    request.user = _user()
    trace_id = trace.trace_id
    given: dict[str, Any] = {"trace_id": trace_id} if page not in ("list", "routes", "map", "calls") else {}
    if page == "span":
        given["span_id"] = trace.spans[0].span_id
    if page == "compare":
        request.GET = request.GET.copy()
        request.GET["with"] = trace_id
    module = page
    if page in ("otlp", "jaeger"):
        given["kind"], module = page, "downloads"
    token = current_views.set(mount.views)
    try:
        response: Any = import_module(f"django_tracing.pages.{module}").page(request, mount, **given)
        if response.streaming:
            check_json(b"".join(response).decode())
            assert response["Content-Disposition"].isascii() and response["Content-Disposition"].isprintable()
            return
        if hasattr(response, "render"):
            response.render()
    finally:
        current_views.reset(token)
    assert response.status_code in (200, 302), response.status_code
    text = response.content.decode()
    for hostile in ("<script>", "<b>x", "javascript:"):
        assert hostile not in text.replace("&quot;", '"') or f'="{hostile}' not in text, hostile
    assert "<script>" not in text
    assert 'href="javascript:' not in text
