"""List the sampling rules in their order, on sites without the admin."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_tracing.conf.loading import get_settings
from django_tracing.models import SamplingRule
from django_tracing.pages import unmigrated
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rules import kept_without_rules, starters
from django_tracing.sampling.database import table_exists
from django_tracing.sampling.editing import (
    conditions_of,
    is_in_force,
    limits_of,
    move_buttons,
    served_text,
    with_counts,
)

__all__ = ["page"]


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
    """Show the rules, with what each of them decided during the last hour, and what is kept without a rule."""
    if not table_exists():
        return unmigrated.page(request, mount)
    settings = get_settings()
    may_add, may_reorder = (mount.may(request, action) for action in ("add", "change"))
    rows = [_row(rule) for rule in with_counts(SamplingRule.objects.order_by("order", "id"))]
    context = {
        "rules": rows,
        "no_rules": not rows,
        "may_add": may_add,
        "may_reorder": may_reorder,
        "kept_now": kept_without_rules(settings),
        "starters": starters(mount, settings) if may_add else [],
    }
    return respond(request, mount, "rules", gettext("Sampling rules"), context)


def _row(rule: Any) -> dict[str, Any]:
    return {
        "id": rule.pk,
        "name": rule.name,
        "conditions": conditions_of(rule),
        "rate": f"{rule.rate:g} %",
        "kept": str(rule.kept_sum),
        "passed_over": str(rule.passed_over_sum),
        "move": move_buttons(rule),
        "also": limits_of(rule),
        "in_force": is_in_force(rule),
        "served": served_text(rule),
    }
