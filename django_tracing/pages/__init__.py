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
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseNotAllowed
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
    "show_unmigrated",
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
    #: The methods that the page answers, beside HEAD with GET. Only POST changes anything.
    methods: tuple[str, ...] = ("GET",)


#: The methods of a page with a form.
_FORM: Final = ("GET", "POST")

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
    Page("reorder", r"^reorder/$", "reorder", action="change", methods=("POST",)),
)


#: What the admin has views of its own for.
PLAIN_RULE_PAGES: Final = (
    Page("rule_list", r"^$", "changelist"),
    Page("rule_form", r"^add/$", "add", action="add", methods=_FORM),
    Page("rule_form", r"^(?P<pk>[0-9]{1,18})/$", "change", methods=_FORM),
    Page("rule_delete", r"^(?P<pk>[0-9]{1,18})/delete/$", "delete", action="delete", methods=_FORM),
)

STATUS_PAGES: Final = (Page("status", r"^$", "changelist", methods=_FORM),)


def urls_of(admin: ModelAdmin[Any], pages: Sequence[Page]) -> list[URLPattern]:
    """Return the URL patterns of a model's pages in the admin."""

    def view_of(page: Page) -> Callable[..., HttpResponseBase]:
        def view(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            return _show_in_admin(page, request, admin, kwargs)

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
            return _show_plain(page, request, model, kwargs)

        return view

    return [re_path(page.pattern, view_of(page), name=f"{model}_{page.name}") for page in pages]


def show_unmigrated(request: HttpRequest, admin: ModelAdmin[Any]) -> HttpResponseBase:
    """Return the page in the admin that stands for the pages of a model without its table."""
    return _show_in_admin(Page("unmigrated", "", "", methods=_FORM), request, admin, {})


def _show_in_admin(
    page: Page, request: HttpRequest, admin: ModelAdmin[Any], kwargs: dict[str, Any]
) -> HttpResponseBase:
    """Return the response of a page in the admin, for users who may view the model."""
    return _show(page, request, import_module(f"{__name__}.mounts").AdminMount(admin), kwargs)


def _show_plain(page: Page, request: HttpRequest, model: str, kwargs: dict[str, Any]) -> HttpResponseBase:
    """Return the response of a page outside the admin. Send users who are not signed in to ``LOGIN_URL``."""
    # Without AuthenticationMiddleware, there is no user, and no permission.
    if not getattr(getattr(request, "user", None), "is_authenticated", False):
        if not apps.is_installed("django.contrib.auth"):
            raise PermissionDenied("These pages need django.contrib.auth, which is not installed.")
        from django.contrib.auth.views import redirect_to_login

        return redirect_to_login(request.get_full_path())
    namespace = request.resolver_match.namespace if request.resolver_match else ""
    mount = import_module(f"{__name__}.mounts").PlainMount(namespace, apps.get_model("django_tracing", model))
    return _show(page, request, mount, kwargs)


def _show(page: Page, request: HttpRequest, mount: Mount, kwargs: dict[str, Any]) -> HttpResponseBase:
    if not mount.may(request, page.action):
        raise PermissionDenied
    if ("GET" if request.method == "HEAD" else request.method) not in page.methods:
        return HttpResponseNotAllowed(page.methods)
    build: Callable[..., HttpResponseBase] = import_module(f"{__name__}.{page.module}").page
    links = import_module(f"{__name__}.links")
    token = links.current_views.set(mount.views)
    # Templates are rendered later, when the context variable is reset already.
    request.current_app = mount.views.current_app
    try:
        return _hardened(build(request, mount, **kwargs))
    finally:
        links.current_views.reset(token)


def _hardened(response: HttpResponseBase) -> HttpResponseBase:
    """Set the headers that Django's middleware would set, for sites without it. A site's own values stay."""
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        ("X-Frame-Options", settings.X_FRAME_OPTIONS),
    ):
        response.headers.setdefault(name, value)
    return response
