"""List the tabs that all pages of this app have at their top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from django.db.models import Model
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from django_tracing import pages
from django_tracing.models import ProcessStatus, SamplingRule, Trace
from django_tracing.pages.mounts import Mount

__all__ = ["Tab", "tabs_of"]


class Tab(NamedTuple):
    """A tab, as the template ``tabs.html`` shows it."""

    label: Any
    url: str
    #: The value of ``aria-current``: ``page`` for the tab's own page, ``true`` for a page below it, or "".
    current: str


def _targets() -> Iterable[tuple[type[Model], str, str, Any]]:
    """Return the model, the end of the URL name, the module and the label of each tab."""
    for page in pages.TRACE_PAGES:
        if page.tab:
            yield Trace, page.name, page.module, page.tab
    yield SamplingRule, "changelist", "rules", _("Sampling rules")
    yield ProcessStatus, "changelist", "status", _("Status")


def tabs_of(request: HttpRequest, mount: Mount, module: str, above: str = "") -> list[Tab]:
    """Return the tabs of the pages that the mount has and that the user may view.

    ``module`` is the page that is shown, and ``above`` is the tab that it belongs to if it is not the tab's own page.
    """
    targets = list(_targets())
    if module in [target for _model, _name, target, _label in targets]:
        above = ""
    models: tuple[type[Model], ...] = (Trace, SamplingRule, ProcessStatus)
    allowed = {model: mount.may(request, "view", model) for model in models}
    return [
        Tab(
            label,
            mount.views.address(f"{model._meta.model_name}_{name}"),
            "page" if target == module else "true" if target == above else "",
        )
        for model, name, target, label in targets
        if allowed[model]
    ]
