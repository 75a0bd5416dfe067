"""Register the models in the admin. Their pages are in ``django_tracing.pages``."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Max, QuerySet, Value
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing import pages
from django_tracing.conf.loading import get_settings
from django_tracing.models import ProcessStatus, SamplingRule, Trace
from django_tracing.sampling.database import as_rule, table_exists
from django_tracing.sampling.figures import StatusError, figures
from django_tracing.sampling.rules import pattern_problem
from django_tracing.sampling.strategies import inexpressible

__all__ = ["ProcessStatusAdmin", "SamplingRuleAdmin", "SamplingRuleForm", "TraceAdmin"]

#: The conditions of a rule, and their names in the list of rules.
_CONDITIONS = (
    ("operation", _("operation")),
    ("method", _("method")),
    ("path", _("path")),
    ("service", _("service")),
    ("user_id", _("user")),
    ("subscription", _("subscription")),
    ("header_name", _("header")),
)


class _UnitInput(forms.NumberInput):
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
_LAST_ORDER = 2**31 - 1
#: The units of a rule's numbers.
_UNITS = {"rate": "%", "max_per_second": _("per second"), "keep_slower_than": _("seconds")}


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


@admin.register(SamplingRule)
class SamplingRuleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The rules in their order, with what each rule decided during the last hour."""

    form = SamplingRuleForm
    list_display = (
        *("name", "conditions", "rate", "kept", "passed_over", "enabled", "move", "also", "in_force", "served"),
    )
    list_editable = ("rate", "enabled")
    #: The order has a meaning, so the list always has it.
    sortable_by = ()
    search_fields = ("name", "path", "user_id", "subscription")
    ordering = ("order", "id")
    save_as = True
    fieldsets = (
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

    def get_urls(self) -> list[URLPattern]:
        return [*pages.urls_of(self, pages.RULE_PAGES), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not table_exists():
            unmigrated: HttpResponse = pages.show("unmigrated", request, self)
            return unmigrated
        from django_tracing.pages.rules import kept_without_rules, starters
        from django_tracing.pages.tabs import tabs_of

        settings = get_settings()
        context = {
            "may_reorder": self.has_change_permission(request),
            "tabs": tabs_of(request, self.admin_site, "rules"),
            "kept_now": kept_without_rules(settings),
            "no_rules": not SamplingRule.objects.exists(),
            "starters": starters(self.admin_site, settings) if self.has_add_permission(request) else [],
            **(extra_context or {}),
        }
        response: HttpResponse = super().changelist_view(request, context)
        return response

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if not table_exists():
            unmigrated: HttpResponse = pages.show("unmigrated", request, self)
            return unmigrated
        from django_tracing.pages.tabs import tabs_of

        context = {"tabs": tabs_of(request, self.admin_site, "", "rules"), **(extra_context or {})}
        response: HttpResponse = super().changeform_view(request, object_id, form_url, context)
        return response

    def formfield_for_dbfield(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        if db_field.name in _UNITS:
            kwargs["widget"] = _UnitInput(_UNITS[db_field.name])
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_list_display(self, request: HttpRequest) -> Any:
        if self.has_change_permission(request):
            return self.list_display
        # Without inputs and buttons, which have the unit and change the order.
        return [{"rate": "rate_shown"}.get(name, name) for name in self.list_display if name != "move"]

    def save_model(self, request: HttpRequest, obj: SamplingRule, form: Any, change: bool) -> None:
        if not change:
            last = SamplingRule.objects.aggregate(last=Max("order"))["last"]
            # At most what the field holds: orders may also be written elsewhere.
            obj.order = 10 if last is None else min(last + 10, _LAST_ORDER)
        super().save_model(request, obj, form, change)

    @admin.display(description=_("rate"))
    def rate_shown(self, rule: SamplingRule) -> str:
        return f"{rule.rate:g} %"

    @admin.display(description=_("move"))
    def move(self, rule: SamplingRule) -> str:
        # The buttons belong to a form of their own: Enter in an input must not move a rule.
        return format_html(
            '<span class="tracing-move" data-rule="{0}">'
            '<button form="tracing-reorder" name="move" value="{0}:up" aria-label="{1}">↑</button> '
            '<button form="tracing-reorder" name="move" value="{0}:down" aria-label="{2}">↓</button></span>',
            rule.pk,
            gettext("Move %(name)s up") % {"name": rule.name},
            gettext("Move %(name)s down") % {"name": rule.name},
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[SamplingRule]:
        rules: QuerySet[SamplingRule] = super().get_queryset(request)
        try:
            return figures(get_settings()).with_counts(rules)
        except StatusError:
            # The status page shows the reason.
            uncounted: QuerySet[SamplingRule] = rules.annotate(kept_sum=Value(0), passed_over_sum=Value(0))
            return uncounted

    @admin.display(description=_("kept (1 h)"), ordering="kept_sum")
    def kept(self, rule: Any) -> int:
        return int(rule.kept_sum)

    @admin.display(description=_("not kept (1 h)"), ordering="passed_over_sum")
    def passed_over(self, rule: Any) -> int:
        return int(rule.passed_over_sum)

    @admin.display(description=_("also"))
    def also(self, rule: SamplingRule) -> str:
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

    @admin.display(description=_("conditions"))
    def conditions(self, rule: SamplingRule) -> str:
        shown = [f"{label} {getattr(rule, name)}" for name, label in _CONDITIONS if getattr(rule, name)]
        if rule.header_value:
            shown[-1] += f"={rule.header_value}"
        return ", ".join(shown) or gettext("all")

    @admin.display(description=_("in force"), boolean=True)
    def in_force(self, rule: SamplingRule) -> bool:
        return rule.enabled and (rule.valid_until is None or rule.valid_until > timezone.now())

    @admin.display(description=_("for other services"))
    def served(self, rule: SamplingRule) -> str:
        """Return True if services in other languages receive the rule through Jaeger's remote sampling protocol."""
        reason = inexpressible(as_rule(rule))
        return gettext("not served: %(reason)s") % {"reason": reason} if reason else gettext("served")


class _ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ProcessStatus)
class ProcessStatusAdmin(_ReadOnlyAdmin):
    """The status of the processes, the settings in force, and whether traces arrive."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        response: HttpResponse = pages.show("status", request, self)
        return response


@admin.register(Trace)
class TraceAdmin(_ReadOnlyAdmin):
    """The traces, which are read where they are stored and not from the database."""

    def get_urls(self) -> list[URLPattern]:
        return pages.urls_of(self, pages.TRACE_PAGES)
