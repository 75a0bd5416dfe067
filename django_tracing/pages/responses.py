"""Build the responses of the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.contrib.admin import ModelAdmin
from django.http import HttpRequest
from django.template.response import TemplateResponse

from django_tracing.pages.tabs import tabs_of

__all__ = ["respond"]

#: The tab of each template that is not named as the module of its tab.
_TABS: Final = {
    "samplingrule/unmigrated": "rules",
    "processstatus/change_list": "status",
}
#: The tab that each page below another one belongs to.
_ABOVE: Final = {"samplingrule": "rules", "trace": "list", "trace/calls": "map"}


def respond(
    request: HttpRequest,
    admin: ModelAdmin[Any],
    template: str,
    title: str,
    context: Mapping[str, Any],
    status: int = 200,
) -> TemplateResponse:
    """Render one of the model's templates inside the admin site."""
    model = str(admin.opts.model_name)
    name = f"{model}/{template}"
    shared = {
        **admin.admin_site.each_context(request),
        "title": title,
        "opts": admin.opts,
        "tabs": tabs_of(
            request, admin.admin_site, _TABS.get(name, template), _ABOVE.get(name, _ABOVE.get(model, ""))
        ),
    }
    return TemplateResponse(request, f"admin/django_tracing/{name}.html", {**shared, **context}, status=status)
