"""List the pages that this app adds to the admin.

To add a page, write a module in this package with a function ``page(request, admin, ...)``, write its template in
``templates/admin/django_tracing/<model>/``, and add a line to the list of its model.

The admin imports this module when Django starts. The modules of the pages are imported when the first one is
requested: most processes never show a trace, and don't need SQLite for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, re_path
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

__all__ = ["RULE_PAGES", "TRACE_PAGES", "Page", "show", "urls_of"]


class Page(NamedTuple):
    """A page of a model in the admin."""

    #: The module of this package.
    module: str
    #: The address, below the model's own in the admin.
    pattern: str
    #: The end of the URL name: ``admin:django_tracing_<model>_<name>``.
    name: str
    #: The label of the page's tab. Without one, only links lead to the page.
    tab: Any = ""


_TRACE: Final = r"^(?P<trace_id>[0-9a-fA-F]{6,32})/"

TRACE_PAGES: Final = (
    Page("list", r"^$", "changelist", _("Traces")),
    Page("routes", r"^routes/$", "routes", _("Routes")),
    Page("map", r"^map/$", "map", _("Service map")),
    Page("calls", r"^map/calls/$", "calls"),
    Page("trace", rf"{_TRACE}$", "trace"),
    Page("sql", rf"{_TRACE}sql/$", "sql"),
    Page("span", rf"{_TRACE}spans/(?P<span_id>[0-9a-f]{{16}})/$", "span"),
    Page("compare", rf"{_TRACE}compare/$", "compare"),
    Page("downloads", rf"{_TRACE}(?P<kind>otlp|jaeger)\.json$", "download"),
)

RULE_PAGES: Final = (
    Page("preview", r"^preview/$", "preview"),
    Page("reorder", r"^reorder/$", "reorder"),
)


def urls_of(admin: ModelAdmin[Any], pages: Sequence[Page]) -> list[URLPattern]:
    """Return the URL patterns of a model's pages."""
    return [
        re_path(
            page.pattern,
            admin.admin_site.admin_view(_view(page.module, admin)),
            name=f"django_tracing_{admin.opts.model_name}_{page.name}",
        )
        for page in pages
    ]


def _view(module: str, admin: ModelAdmin[Any]) -> Callable[..., HttpResponseBase]:
    def view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
        response: HttpResponseBase = show(module, request, admin, **kwargs)
        return response

    return view


def show(module: str, request: HttpRequest, admin: ModelAdmin[Any], **kwargs: Any) -> Any:
    """Return the response of a page (an ``HttpResponseBase``), for users who may view the model."""
    if not admin.has_view_permission(request):
        raise PermissionDenied
    page: Callable[..., HttpResponseBase] = import_module(f"{__name__}.{module}").page
    links = import_module(f"{__name__}.links")
    token = links.current_site.set(admin.admin_site.name)
    # Templates are rendered later, when the context variable is reset already.
    request.current_app = admin.admin_site.name
    try:
        return page(request, admin, **kwargs)
    finally:
        links.current_site.reset(token)
