"""The admin's pages of traces: the list, one trace, two side by side, the routes, the service map.

Imported with the first page that is asked for: no process that shows none waits for SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from django_tracing.pages.compare import compare_page
from django_tracing.pages.downloads import download
from django_tracing.pages.links import _site
from django_tracing.pages.list import list_page
from django_tracing.pages.map import map_page
from django_tracing.pages.routes import routes_page
from django_tracing.pages.span import span_page
from django_tracing.pages.trace import trace_page

__all__ = ["show"]


def show(view: str, request: HttpRequest, site: AdminSite, **kwargs: Any) -> HttpResponseBase:
    """The page that the function called ``view`` makes, for ``site``."""
    token = _site.set(site.name)
    # For the templates, which are rendered later.
    request.current_app = site.name
    try:
        page: Callable[..., HttpResponseBase] = _PAGES[view]
        return page(request, site, **kwargs)
    finally:
        _site.reset(token)


_PAGES: Final[Mapping[str, Callable[..., HttpResponseBase]]] = {
    "list": list_page,
    "routes": routes_page,
    "map": map_page,
    "trace": trace_page,
    "span": span_page,
    "compare": compare_page,
    "download": download,
}
