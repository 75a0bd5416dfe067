"""Register the models in the admin. Their pages are in ``django_tracing.pages``."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _

from django_tracing import pages
from django_tracing.conf.loading import get_settings
from django_tracing.models import ProcessStatus, SamplingRule, Trace
from django_tracing.sampling.database import table_exists
from django_tracing.sampling.editing import (
    FIELDSETS,
    UNITS,
    SamplingRuleForm,
    UnitInput,
    conditions_of,
    is_in_force,
    limits_of,
    move_buttons,
    place_last,
    served_text,
    with_counts,
)

__all__ = ["ProcessStatusAdmin", "SamplingRuleAdmin", "SamplingRuleForm", "TraceAdmin"]


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
    fieldsets = FIELDSETS

    def get_urls(self) -> list[URLPattern]:
        return [*pages.urls_of(self, pages.RULE_PAGES), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not table_exists():
            return pages.show_unmigrated(request, self)  # type: ignore[return-value]
        from django_tracing.pages.mounts import AdminMount
        from django_tracing.pages.rules import kept_without_rules, starters
        from django_tracing.pages.tabs import tabs_of

        settings, mount = get_settings(), AdminMount(self)
        context = {
            "may_reorder": self.has_change_permission(request),
            "tabs": tabs_of(request, mount, "rules"),
            "views": mount.views,
            "kept_now": kept_without_rules(settings),
            "no_rules": not SamplingRule.objects.exists(),
            "starters": starters(mount, settings) if self.has_add_permission(request) else [],
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
            return pages.show_unmigrated(request, self)  # type: ignore[return-value]
        from django_tracing.pages.mounts import AdminMount
        from django_tracing.pages.tabs import tabs_of

        context = {"tabs": tabs_of(request, AdminMount(self), "", "rules"), **(extra_context or {})}
        response: HttpResponse = super().changeform_view(request, object_id, form_url, context)
        return response

    def formfield_for_dbfield(self, db_field: Any, request: Any, **kwargs: Any) -> Any:
        if db_field.name in UNITS:
            kwargs["widget"] = UnitInput(UNITS[db_field.name])
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_list_display(self, request: HttpRequest) -> Any:
        if self.has_change_permission(request):
            return self.list_display
        # Without inputs and buttons, which have the unit and change the order.
        return [{"rate": "rate_shown"}.get(name, name) for name in self.list_display if name != "move"]

    def save_model(self, request: HttpRequest, obj: SamplingRule, form: Any, change: bool) -> None:
        if not change:
            place_last(obj)
        super().save_model(request, obj, form, change)

    @admin.display(description=_("rate"))
    def rate_shown(self, rule: SamplingRule) -> str:
        return f"{rule.rate:g} %"

    @admin.display(description=_("move"))
    def move(self, rule: SamplingRule) -> str:
        return move_buttons(rule)

    def get_queryset(self, request: HttpRequest) -> QuerySet[SamplingRule]:
        return with_counts(super().get_queryset(request))

    @admin.display(description=_("kept (1 h)"), ordering="kept_sum")
    def kept(self, rule: Any) -> int:
        return int(rule.kept_sum)

    @admin.display(description=_("not kept (1 h)"), ordering="passed_over_sum")
    def passed_over(self, rule: Any) -> int:
        return int(rule.passed_over_sum)

    @admin.display(description=_("also"))
    def also(self, rule: SamplingRule) -> str:
        """Return the limits of a rule, and what it keeps beside its rate."""
        return limits_of(rule)

    @admin.display(description=_("conditions"))
    def conditions(self, rule: SamplingRule) -> str:
        return conditions_of(rule)

    @admin.display(description=_("in force"), boolean=True)
    def in_force(self, rule: SamplingRule) -> bool:
        return is_in_force(rule)

    @admin.display(description=_("for other services"))
    def served(self, rule: SamplingRule) -> str:
        """Return whether services in other languages receive the rule through Jaeger's protocol."""
        return served_text(rule)


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

    def get_urls(self) -> list[URLPattern]:
        return pages.urls_of(self, pages.STATUS_PAGES)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # To check whether traces arrive. There is no page that changes anything.
        return admin.ModelAdmin.has_change_permission(self, request, obj)


@admin.register(Trace)
class TraceAdmin(_ReadOnlyAdmin):
    """The traces, which are read where they are stored and not from the database."""

    def get_urls(self) -> list[URLPattern]:
        return pages.urls_of(self, pages.TRACE_PAGES)
