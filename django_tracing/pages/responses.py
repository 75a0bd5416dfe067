"""Build the responses of the pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from django_tracing.pages.mounts import Mount
from django_tracing.pages.tabs import tabs_of
from django_tracing.redaction.printable import printable

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
    response = TemplateResponse(request, f"django_tracing/{name}.html", {**shared, **context}, status=status)
    response.add_post_render_callback(_show_controls)
    return response


#: Control characters, and those that turn the direction of what follows. Escaping for HTML leaves them as they are.
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
#: The values of inputs are sent back as they are.
_PARTS: Final = re.compile(f'value="[^"]*|{_CONTROL.pattern}')


def _show_controls(response: HttpResponse) -> None:
    """Write them as ``\\u202e``: a stored value must not change how the text beside it reads."""
    content = response.content.decode(response.charset)
    # Most pages have none, and this is faster.
    if _CONTROL.search(content):
        shown = _PARTS.sub(lambda found: found[0] if len(found[0]) > 1 else printable(found[0]), content)
        response.content = shown.encode(response.charset)
