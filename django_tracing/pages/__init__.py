"""List the pages of this app, in the admin and on sites without it.

To add a page, write a module in this package with a function ``page(request, mount, ...)``, write its template in
``templates/django_tracing/<model>/``, and add a line to the list of its model.

The admin imports this module when Django starts. The modules of the pages are imported when the first one is
requested: most processes never show a trace, and don't need SQLite for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.apps import apps
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, re_path
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

    from django_tracing.pages.mounts import Mount

__all__ = [
    "PLAIN_RULE_PAGES",
    "RULE_PAGES",
    "STATUS_PAGES",
    "TRACE_PAGES",
    "Page",
    "plain_urls",
    "show_in_admin",
    "urls_of",
]


class Page(NamedTuple):
    """A page of a model."""

    #: The module of this package.
    module: str
    #: The address, below the model's own.
    pattern: str
    #: The end of the URL name: ``admin:django_tracing_<model>_<name>``, ``django_tracing_pages:<model>_<name>``.
    name: str
    #: The label of the page's tab. Without one, only links lead to the page.
    tab: Any = ""
    #: What a user must be allowed to do with the model.
    action: str = "view"


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


#: What the admin has views of its own for.
PLAIN_RULE_PAGES: Final = (
    Page("rule_list", r"^$", "changelist"),
    Page("rule_form", r"^add/$", "add", action="add"),
    Page("rule_form", r"^(?P<pk>[0-9]{1,18})/$", "change"),
    Page("rule_delete", r"^(?P<pk>[0-9]{1,18})/delete/$", "delete", action="delete"),
)

STATUS_PAGES: Final = (Page("status", r"^$", "changelist"),)


def urls_of(admin: ModelAdmin[Any], pages: Sequence[Page]) -> list[URLPattern]:
    """Return the URL patterns of a model's pages in the admin."""

    def view_of(page: Page) -> Callable[..., HttpResponseBase]:
        def view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            response: HttpResponseBase = show_in_admin(page.module, request, admin, action=page.action, **kwargs)
            return response

        return admin.admin_site.admin_view(view)

    return [
        re_path(page.pattern, view_of(page), name=f"django_tracing_{admin.opts.model_name}_{page.name}")
        for page in pages
    ]


def plain_urls(model: str, pages: Sequence[Page]) -> list[URLPattern]:
    """Return the URL patterns of a model's pages in a project that includes ``django_tracing.pages.urls``."""

    def view_of(page: Page) -> Callable[..., HttpResponseBase]:
        @never_cache
        @csrf_protect
        def view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            response: HttpResponseBase = _show_plain(page.module, request, model, page.action, **kwargs)
            return response

        return view

    return [re_path(page.pattern, view_of(page), name=f"{model}_{page.name}") for page in pages]


def show_in_admin(
    module: str, request: HttpRequest, admin: ModelAdmin[Any], *, action: str = "view", **kwargs: Any
) -> Any:
    """Return the response of a page (an ``HttpResponseBase``) in the admin, for users who may view the model."""
    return _show(module, request, import_module(f"{__name__}.mounts").AdminMount(admin), action, **kwargs)


def _show_plain(module: str, request: HttpRequest, model: str, action: str, **kwargs: Any) -> Any:
    """Return the response of a page outside the admin. Send users who are not signed in to ``LOGIN_URL``."""
    # Without AuthenticationMiddleware, there is no user, and no permission.
    if not getattr(getattr(request, "user", None), "is_authenticated", False):
        if not apps.is_installed("django.contrib.auth"):
            raise PermissionDenied("These pages need django.contrib.auth, which is not installed.")
        from django.contrib.auth.views import redirect_to_login

        return redirect_to_login(request.get_full_path())
    namespace = request.resolver_match.namespace if request.resolver_match else ""
    mount = import_module(f"{__name__}.mounts").PlainMount(namespace, apps.get_model("django_tracing", model))
    return _show(module, request, mount, action, **kwargs)


def _show(module: str, request: HttpRequest, mount: Mount, action: str, **kwargs: Any) -> Any:
    if not mount.may(request, action):
        raise PermissionDenied
    page: Callable[..., HttpResponseBase] = import_module(f"{__name__}.{module}").page
    links = import_module(f"{__name__}.links")
    token = links.current_views.set(mount.views)
    # Templates are rendered later, when the context variable is reset already.
    request.current_app = mount.views.current_app
    try:
        return page(request, mount, **kwargs)
    finally:
        links.current_views.reset(token)
