"""List the tabs that all pages of this app have at their top."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from django.contrib.admin import AdminSite
from django.db.models import Model
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from django_tracing import pages
from django_tracing.models import ProcessStatus, SamplingRule, Trace

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


def tabs_of(request: HttpRequest, site: AdminSite, module: str, above: str = "") -> list[Tab]:
    """Return the tabs of the pages that the site has and that the user may view.

    ``module`` is the page that is shown, and ``above`` is the tab that it belongs to if it is not the tab's own page.
    """
    targets = list(_targets())
    if module in [target for _model, _name, target, _label in targets]:
        above = ""
    models: tuple[type[Model], ...] = (Trace, SamplingRule, ProcessStatus)
    allowed = {
        model: site.is_registered(model) and site.get_model_admin(model).has_view_permission(request)
        for model in models
    }
    return [
        Tab(
            label,
            reverse(f"admin:django_tracing_{model._meta.model_name}_{name}", current_app=site.name),
            "page" if target == module else "true" if target == above else "",
        )
        for model, name, target, label in targets
        if allowed[model]
    ]
