"""Build the responses of the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpRequest
from django.template.response import TemplateResponse

from django_tracing.pages.mounts import Mount
from django_tracing.pages.tabs import tabs_of

__all__ = ["respond"]

#: The tab of each template that is not named as the module of its tab.
_TABS: Final = {
    "samplingrule/rules": "rules",
    "samplingrule/unmigrated": "rules",
}
#: The tab that each page below another one belongs to.
_ABOVE: Final = {"samplingrule": "rules", "trace": "list", "trace/calls": "map"}


def respond(
    request: HttpRequest,
    mount: Mount,
    template: str,
    title: str,
    context: Mapping[str, Any],
    status: int = 200,
) -> TemplateResponse:
    """Render one of the model's templates inside its site."""
    model = str(mount.model._meta.model_name)
    name = f"{model}/{template}"
    shared = {
        **mount.context(request),
        "base": mount.base,
        "views": mount.views,
        "title": title,
        "tabs": tabs_of(request, mount, _TABS.get(name, template), _ABOVE.get(name, _ABOVE.get(model, ""))),
    }
    return TemplateResponse(request, f"django_tracing/{name}.html", {**shared, **context}, status=status)
