"""The admin's pages: which traces are kept, and how the processes are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.models import SamplingRule
from django_tracing.sampling.refresh import as_rule
from django_tracing.sampling.rules import pattern_problem
from django_tracing.sampling.strategies import inexpressible

__all__ = ["SamplingRuleAdmin", "SamplingRuleForm"]

#: Condition -> how it is said.
_CONDITIONS = (
    ("operation", _("operation")),
    ("method", _("method")),
    ("path", _("path")),
    ("service", _("service")),
    ("user_id", _("user")),
    ("subscription", _("subscription")),
    ("header_name", _("header")),
)


class SamplingRuleForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rule whose pattern can be read and whose conditions make sense together."""

    class Meta:
        model = SamplingRule
        fields = "__all__"  # noqa: DJ007 - every field of a rule is an operator's

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        problem = pattern_problem(cleaned.get("path") or "")
        if problem:
            self.add_error("path", ValidationError(problem))
        if cleaned.get("header_value") and not cleaned.get("header_name"):
            self.add_error("header_name", ValidationError(gettext("Say which header has that value.")))
        if cleaned.get("operation") in ("command", "task"):
            for name in ("method", "header_name", "user_id", "subscription"):
                if cleaned.get(name):
                    self.add_error(name, ValidationError(gettext("Only requests have that.")))
        return cleaned


@admin.register(SamplingRule)
class SamplingRuleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The rules in their order, with what each did within the last hour."""

    form = SamplingRuleForm
    list_display = (
        *("name", "order", "enabled", "conditions", "rate", "max_per_second", "kept", "passed_over"),
        *("valid_until", "in_force", "served"),
    )
    list_editable = ("order", "enabled", "rate")
    list_filter = ("enabled", "operation")
    search_fields = ("name", "path", "user_id", "subscription")
    ordering = ("order", "id")
    save_as = True
    fieldsets = (
        (None, {"fields": ("name", ("order", "enabled"), "valid_until")}),
        (
            _("Conditions"),
            {
                "fields": (
                    *("operation", "method", "path", "service", "user_id", "subscription"),
                    ("header_name", "header_value"),
                ),
                "description": _(
                    "All of them have to hold. Rules for a user or a subscription record every request "
                    "that they may be for until the user is known."
                ),
            },
        ),
        (_("What is kept"), {"fields": ("rate", "max_per_second", "keep_errors", "keep_slower_than")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[SamplingRule]:
        since = timezone.now() - timedelta(hours=1)
        recent = Q(counts__minute__gte=since)
        found: QuerySet[SamplingRule] = super().get_queryset(request)
        annotated: QuerySet[SamplingRule] = found.annotate(
            kept_sum=Coalesce(Sum("counts__kept", filter=recent), 0),
            passed_over_sum=Coalesce(Sum("counts__passed_over", filter=recent), 0),
        )
        return annotated

    @admin.display(description=_("kept in the last hour"), ordering="kept_sum")
    def kept(self, rule: Any) -> int:
        return int(rule.kept_sum)

    @admin.display(description=_("passed over in the last hour"), ordering="passed_over_sum")
    def passed_over(self, rule: Any) -> int:
        return int(rule.passed_over_sum)

    @admin.display(description=_("conditions"))
    def conditions(self, rule: SamplingRule) -> str:
        said = [f"{label} {getattr(rule, name)}" for name, label in _CONDITIONS if getattr(rule, name)]
        if rule.header_value:
            said[-1] += f"={rule.header_value}"
        return ", ".join(said) or gettext("all")

    @admin.display(description=_("in force"), boolean=True)
    def in_force(self, rule: SamplingRule) -> bool:
        return rule.enabled and (rule.valid_until is None or rule.valid_until > timezone.now())

    @admin.display(description=_("for other services"))
    def served(self, rule: SamplingRule) -> str:
        """Whether services in other languages are told of it, by Jaeger's remote sampling protocol."""
        why = inexpressible(as_rule(rule))
        return gettext("left out: %(why)s") % {"why": why} if why else gettext("told")
