"""Validate and describe sampling rules, for those who edit them: in the admin, and on pages without it."""

from __future__ import annotations

from typing import Any, Final

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Max, QuerySet, Value
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.conf.loading import get_settings
from django_tracing.models import SamplingRule
from django_tracing.sampling.database import as_rule
from django_tracing.sampling.figures import StatusError, figures
from django_tracing.sampling.rules import pattern_problem
from django_tracing.sampling.strategies import inexpressible

__all__ = [
    "FIELDSETS",
    "UNITS",
    "SamplingRuleForm",
    "UnitInput",
    "conditions_of",
    "is_in_force",
    "limits_of",
    "move_buttons",
    "place_last",
    "served_text",
    "with_counts",
]

#: The fields of a rule in their groups, as the admin's ``fieldsets``.
FIELDSETS: Final[Any] = (
    (None, {"fields": ("name", "enabled", "valid_until")}),
    (
        _("Conditions"),
        {
            "fields": (
                *("operation", "method", "path", "service", "user_id", "subscription"),
                ("header_name", "header_value"),
            ),
            "description": _(
                "A rule matches if all its conditions are met. If a rule has a user or a subscription, every "
                "request that meets its other conditions is recorded until the user is known."
            ),
        },
    ),
    (_("What to keep"), {"fields": ("rate", "max_per_second", "keep_errors", "keep_slower_than")}),
)

#: The conditions of a rule, and their names in the list of rules.
_CONDITIONS: Final = (
    ("operation", _("operation")),
    ("method", _("method")),
    ("path", _("path")),
    ("service", _("service")),
    ("user_id", _("user")),
    ("subscription", _("subscription")),
    ("header_name", _("header")),
)


class UnitInput(forms.NumberInput):
    """A number with its unit behind it."""

    def __init__(self, unit: Any) -> None:
        super().__init__()
        self.unit = unit

    def render(self, *args: Any, **kwargs: Any) -> SafeString:
        return format_html(
            '<span class="tracing-with-unit">{} <span class="tracing-unit">{}</span></span>',
            super().render(*args, **kwargs),
            self.unit,
        )


#: The highest order that every database stores.
_LAST_ORDER: Final = 2**31 - 1
#: The units of a rule's numbers.
UNITS: Final = {"rate": "%", "max_per_second": _("per second"), "keep_slower_than": _("seconds")}


class SamplingRuleForm(forms.ModelForm):  # type: ignore[type-arg]
    """A rule with a valid pattern and with conditions that can be met together."""

    class Meta:
        model = SamplingRule
        fields = "__all__"  # noqa: DJ007 - operators may set every field of a rule

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        problem = pattern_problem(cleaned.get("path") or "")
        if problem:
            self.add_error("path", ValidationError(problem))
        if cleaned.get("header_value") and not cleaned.get("header_name"):
            self.add_error("header_name", ValidationError(gettext("Enter the name of the header with this value.")))
        if cleaned.get("operation") in ("command", "task"):
            for name in ("method", "header_name", "user_id", "subscription"):
                if cleaned.get(name):
                    self.add_error(name, ValidationError(gettext("This condition is for requests only.")))
        return cleaned


def place_last(rule: SamplingRule) -> None:
    """Put a new rule behind all others."""
    last = SamplingRule.objects.aggregate(last=Max("order"))["last"]
    # At most what the field holds: orders may also be written elsewhere.
    rule.order = 10 if last is None else min(last + 10, _LAST_ORDER)


def move_buttons(rule: SamplingRule) -> SafeString:
    """Return the buttons that move a rule up and down."""
    # They belong to a form of their own: Enter in an input must not move a rule.
    return format_html(
        '<span class="tracing-move" data-rule="{0}">'
        '<button form="tracing-reorder" name="move" value="{0}:up" aria-label="{1}">↑</button> '
        '<button form="tracing-reorder" name="move" value="{0}:down" aria-label="{2}">↓</button></span>',
        rule.pk,
        gettext("Move %(name)s up") % {"name": rule.name},
        gettext("Move %(name)s down") % {"name": rule.name},
    )


def with_counts(rules: QuerySet[SamplingRule]) -> QuerySet[SamplingRule]:
    """Annotate rules with ``kept_sum`` and ``passed_over_sum``, what they kept and did not keep in the last hour."""
    try:
        return figures(get_settings()).with_counts(rules)
    except StatusError:
        # The status page shows the reason.
        uncounted: QuerySet[SamplingRule] = rules.annotate(kept_sum=Value(0), passed_over_sum=Value(0))
        return uncounted


def limits_of(rule: SamplingRule) -> str:
    """Return the limits of a rule, and what it keeps beside its rate."""
    shown = []
    if rule.max_per_second is not None:
        shown.append(gettext("at most %(number)g per second") % {"number": rule.max_per_second})
    if rule.keep_errors is not None:
        shown.append(gettext("every error") if rule.keep_errors else gettext("errors as others"))
    if rule.keep_slower_than is not None:
        shown.append(gettext("all slower than %(seconds)g s") % {"seconds": rule.keep_slower_than})
    if rule.valid_until is not None:
        until = date_format(
            timezone.localtime(rule.valid_until) if timezone.is_aware(rule.valid_until) else rule.valid_until,
            "DATETIME_FORMAT",
        )
        shown.append(gettext("until %(time)s") % {"time": until})
    return ", ".join(shown)


def conditions_of(rule: SamplingRule) -> str:
    """Return the conditions of a rule in words."""
    shown = [f"{label} {getattr(rule, name)}" for name, label in _CONDITIONS if getattr(rule, name)]
    if rule.header_value:
        shown[-1] += f"={rule.header_value}"
    return ", ".join(shown) or gettext("all")


def is_in_force(rule: SamplingRule) -> bool:
    """Return whether a rule is enabled and has not expired."""
    return rule.enabled and (rule.valid_until is None or rule.valid_until > timezone.now())


def served_text(rule: SamplingRule) -> str:
    """Return whether services in other languages receive the rule through Jaeger's remote sampling protocol."""
    reason = inexpressible(as_rule(rule))
    return gettext("not served: %(reason)s") % {"reason": reason} if reason else gettext("served")
