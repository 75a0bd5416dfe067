"""Connect the pages to their site: to an admin site, or to a project that includes ``django_tracing.pages.urls``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from django.apps import apps
from django.contrib import messages
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

__all__ = ["AdminMount", "Mount", "PlainMount", "Views"]

#: Changes of rules are in the admin's history, wherever they were made.
_ADMIN: Final = "django.contrib.admin"


class Views:
    """The names of the pages' views, by ``<model>_<page>``, for ``{% url views.trace_trace %}`` in templates."""

    def __init__(self, prefix: str, current_app: str) -> None:
        self.prefix = prefix
        #: A project may mount the pages several times: links stay within the mount that shows the page.
        self.current_app = current_app

    def __getitem__(self, page: str) -> str:
        return f"{self.prefix}{page}"

    def address(self, page: str, *args: Any) -> str:
        """Return the path of a page."""
        return reverse(self[page], args=args, current_app=self.current_app)


class Mount(Protocol):
    """What the pages of a model need from the site that shows them."""

    #: The model whose page is shown.
    model: type[Model]
    views: Views

    @property
    def base(self) -> str:
        """The template that the pages extend."""

    def may(self, request: HttpRequest, action: str, model: type[Model] | None = None) -> bool:
        """Return whether the user may ``view``, ``add``, ``change`` or ``delete`` the model (default: its own)."""

    def context(self, request: HttpRequest) -> dict[str, Any]:
        """Return what the base template needs."""

    def log(self, request: HttpRequest, changed: Model, text: str, **fields: Any) -> None:
        """Add a change to the admin's history, if there is an admin."""

    def notify(self, request: HttpRequest, text: str) -> None:
        """Show a message on the next page."""


class AdminMount:
    """The pages of a model in an admin site."""

    base: Final = "admin/base_site.html"

    def __init__(self, admin: ModelAdmin[Any]) -> None:
        self.model = admin.model
        self._admin = admin
        self.views = Views("admin:django_tracing_", admin.admin_site.name)

    def may(self, request: HttpRequest, action: str, model: type[Model] | None = None) -> bool:
        site = self._admin.admin_site
        if model is None or model is self.model:
            admin: ModelAdmin[Any] = self._admin
        elif site.is_registered(model):
            admin = site.get_model_admin(model)
        else:
            return False
        allowed: bool = getattr(admin, f"has_{action}_permission")(request)
        return allowed

    def context(self, request: HttpRequest) -> dict[str, Any]:
        name = self._admin.admin_site.name
        crumbs = (
            {"label": gettext("Home"), "url": reverse("admin:index", current_app=name)},
            {
                "label": gettext("Tracing"),
                "url": reverse("admin:app_list", args=["django_tracing"], current_app=name),
            },
        )
        return {
            **self._admin.admin_site.each_context(request),
            "opts": self._admin.opts,
            "crumbs": crumbs,
        }

    def log(self, request: HttpRequest, changed: Model, text: str, **fields: Any) -> None:
        self._admin.log_change(request, changed, [{text: fields}])

    def notify(self, request: HttpRequest, text: str) -> None:
        self._admin.message_user(request, text)


class PlainMount:
    """The pages of a model in a project that includes ``django_tracing.pages.urls``, with or without an admin."""

    base: Final = "django_tracing/base.html"

    def __init__(self, namespace: str, model: type[Model]) -> None:
        self.model = model
        # The namespace that the project chose, below those of the URLs that include it.
        self.views = Views(f"{namespace}:", namespace)

    def may(self, request: HttpRequest, action: str, model: type[Model] | None = None) -> bool:
        name = (model or self.model)._meta.model_name
        # Whoever may change a rule may see it, as in the admin.
        actions = ("view", "change") if action == "view" else (action,)
        # A project's own model of users may be without permissions.
        has_perm = getattr(request.user, "has_perm", None)
        return has_perm is not None and any(has_perm(f"django_tracing.{each}_{name}") for each in actions)

    def context(self, request: HttpRequest) -> dict[str, Any]:
        # Not every project has the context processors that the admin requires.
        return {"request": request, "messages": messages.get_messages(request)}

    def log(self, request: HttpRequest, changed: Model, text: str, **fields: Any) -> None:
        if not apps.is_installed(_ADMIN):
            return
        from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry

        flag = {"added": ADDITION, "deleted": DELETION}.get(text, CHANGE)
        LogEntry.objects.log_actions(
            user_id=request.user.pk, queryset=[changed], action_flag=flag, change_message=[{text: fields}]
        )

    def notify(self, request: HttpRequest, text: str) -> None:
        # A project may be without messages.
        messages.success(request, text, fail_silently=True)
