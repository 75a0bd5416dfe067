"""The admin's pages: which traces are kept, how the processes are, and the way to the traces."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from datetime import timezone as datetime_timezone
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import router, transaction
from django.db.models import QuerySet, Value
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, re_path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.addresses import shown_address
from django_tracing.conf.loading import get_settings
from django_tracing.conf.table import SPECS
from django_tracing.conf.values import Settings
from django_tracing.context.description import find_route
from django_tracing.models import ProcessStatus, SamplingRule, Trace
from django_tracing.redaction import SensitiveKeys, redact_resource
from django_tracing.sampling.database import as_rule, read_rules, table_exists
from django_tracing.sampling.figures import StatusError, figures
from django_tracing.sampling.rules import Asked, compile_rules, header_key, pattern_problem
from django_tracing.sampling.strategies import inexpressible

__all__ = ["SamplingRuleAdmin", "SamplingRuleForm", "TraceAdmin"]

#: What is longer is no rule's, and more than Python reads as a number.
_ID = re.compile(r"[0-9]{1,18}")
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


class PreviewForm(forms.Form):
    """What begins."""

    operation = forms.ChoiceField(label=_("Operation"), choices=SamplingRule.Operation.choices, required=False)
    method = forms.CharField(label=_("Method"), max_length=20, required=False)
    path = forms.CharField(label=_("Path"), max_length=300, required=False)
    service = forms.CharField(label=_("Service"), max_length=100, required=False, help_text=_("Empty: this one."))
    user_id = forms.CharField(label=_("User id"), max_length=100, required=False)
    subscription = forms.CharField(label=_("Subscription"), max_length=100, required=False)
    headers = forms.CharField(
        label=_("Headers"),
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("One a line, such as X-Debug: 1."),
    )

    def asked(self) -> Asked:
        """The form as the rules are asked."""
        data = self.cleaned_data
        path_info = data["path"]
        lines = [line.partition(":") for line in data["headers"].splitlines() if line.strip()]
        return Asked(
            operation=data["operation"] or "request",
            method=data["method"].upper(),
            path=path_info,
            route=find_route(path_info),
            headers={header_key(name): value.strip() for name, _colon, value in lines},
            user_id=data["user_id"],
            subscription=data["subscription"],
        )


#: Condition -> what is said of one that does not hold.
_FAILED = {
    "valid_until": _("it has ended"),
    "operation": _("another operation"),
    "method": _("another method"),
    "path": _("another path"),
    "header": _("the header"),
    "user_id": _("another user"),
    "subscription": _("another subscription"),
}


@admin.register(SamplingRule)
class SamplingRuleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The rules in their order, with what each did within the last hour."""

    form = SamplingRuleForm
    list_display = (
        *("name", "move", "order", "enabled", "conditions", "rate", "max_per_second", "kept", "passed_over"),
        *("valid_until", "in_force", "served"),
    )
    list_editable = ("order", "enabled", "rate")
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

    def get_urls(self) -> list[Any]:
        return [
            path("preview/", self.admin_site.admin_view(self.preview), name="django_tracing_samplingrule_preview"),
            path("reorder/", self.admin_site.admin_view(self.reorder), name="django_tracing_samplingrule_reorder"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not table_exists():
            return self._unmigrated(request)
        context = {"may_reorder": self.has_change_permission(request), **(extra_context or {})}
        answer: HttpResponse = super().changelist_view(request, context)
        return answer

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        if not table_exists():
            return self._unmigrated(request)
        answer: HttpResponse = super().changeform_view(request, object_id, form_url, extra_context)
        return answer

    def _unmigrated(self, request: HttpRequest) -> HttpResponse:
        """Says what to do before there can be rules: the traces need no table, so nobody may have migrated."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Sampling rules"),
            "opts": self.model._meta,
        }
        return TemplateResponse(request, "admin/django_tracing/samplingrule/unmigrated.html", context)

    def reorder(self, request: HttpRequest) -> HttpResponse:
        """Gives the rules that are named the order they are named in, among all the others."""
        if request.method != "POST" or not self.has_change_permission(request):
            raise PermissionDenied
        named = [int(text) for text in request.POST.get("ids", "").split(",") if _ID.fullmatch(text)]
        with transaction.atomic(using=router.db_for_write(SamplingRule)):
            rules = list(SamplingRule.objects.select_for_update().order_by("order", "id"))
            known = {rule.pk: rule for rule in rules}
            wanted = iter([known[pk] for pk in dict.fromkeys(named) if pk in known])
            moved = set(named)
            for number, rule in enumerate([next(wanted) if rule.pk in moved else rule for rule in rules], start=1):
                if rule.order != number * 10:
                    rule.order = number * 10
                    rule.save(update_fields=["order", "updated"])
                    self.log_change(request, rule, [{"changed": {"fields": [gettext("order")]}}])
        self.message_user(request, gettext("The rules have their new order."))
        changelist = reverse("admin:django_tracing_samplingrule_changelist", current_app=self.admin_site.name)
        return HttpResponseRedirect(changelist)

    def preview(self, request: HttpRequest) -> HttpResponse:
        """Which rule would decide, and why."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if not table_exists():
            return self._unmigrated(request)
        # Where the page's links lead, of several admin sites.
        request.current_app = self.admin_site.name
        form = PreviewForm(request.GET or None)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": gettext("Preview"),
            "form": form,
            "opts": self.model._meta,
            "reasons": None,
        }
        if form.is_bound and form.is_valid():
            asked = form.asked()
            service = form.cleaned_data["service"] or get_settings().service_name
            reasons = compile_rules(read_rules(), service).explain(asked, timezone.now().timestamp())
            context["reasons"] = [
                {
                    "id": reason.rule.id,
                    "name": reason.rule.name,
                    "matches": reason.matches,
                    "outcome": gettext("decides")
                    if reason.matches
                    else gettext("does not match: %(what)s") % {"what": _FAILED.get(reason.failed, reason.failed)},
                }
                for reason in reasons
            ]
            decided = reasons[-1].rule if reasons and reasons[-1].matches else None
            context["verdict"] = (
                gettext("No rule decides: SAMPLE_RATE does, %(rate)g %%.")
                % {"rate": get_settings().sample_rate * 100}
                if decided is None
                else gettext("The rule “%(name)s” decides: %(rate)g %% are kept.")
                % {"name": decided.name, "rate": decided.rate * 100}
            )
        return TemplateResponse(request, "admin/django_tracing/samplingrule/preview.html", context)

    @admin.display(description=_("move"))
    def move(self, rule: SamplingRule) -> str:
        return format_html(
            '<span class="tracing-move" data-rule="{}">'
            '<button type="button" data-move="up" aria-label="{}">↑</button> '
            '<button type="button" data-move="down" aria-label="{}">↓</button></span>',
            rule.pk,
            gettext("Move %(name)s up") % {"name": rule.name},
            gettext("Move %(name)s down") % {"name": rule.name},
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[SamplingRule]:
        rules: QuerySet[SamplingRule] = super().get_queryset(request)
        try:
            return figures(get_settings()).counted(rules)
        except StatusError:
            # Why, the status page says.
            uncounted: QuerySet[SamplingRule] = rules.annotate(kept_sum=Value(0), passed_over_sum=Value(0))
            return uncounted

    @admin.display(description=_("kept (1 h)"), ordering="kept_sum")
    def kept(self, rule: Any) -> int:
        return int(rule.kept_sum)

    @admin.display(description=_("passed over (1 h)"), ordering="passed_over_sum")
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


@admin.register(ProcessStatus)
class ProcessStatusAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """How the processes are, the settings in force, and whether traces arrive."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: ProcessStatus | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ProcessStatus | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        settings = get_settings()
        where = figures(settings)
        migrated = not where.in_tables or table_exists()
        processes: list[ProcessStatus] = []
        untold = ""
        try:
            processes = where.processes() if migrated else []
        except StatusError as error:
            untold = str(error)
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": gettext("Status"),
            "opts": self.model._meta,
            "settings": [_setting(settings, spec.name) for spec in SPECS],
            "processes": list(map(_process, processes)),
            "untold": untold,
            "migrated": migrated,
            "steps": None,
        }
        if request.method == "POST":
            # Every process of a site with the admin imports this module; few of them ever check.
            from django_tracing.diagnosis.steps import Diagnosis

            diagnosis = Diagnosis(settings, timeout=10)
            context["steps"] = list(diagnosis.steps())
            context["link"] = diagnosis.link
            context["outcome"] = {
                0: gettext("The trace arrived.") if diagnosis.link else gettext("The trace was sent."),
                1: gettext("The trace did not arrive."),
                2: gettext("The settings are wrong."),
            }[diagnosis.exit_code]
        return TemplateResponse(request, "admin/django_tracing/processstatus/change_list.html", context)


@admin.register(Trace)
class TraceAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Traces are read where they are stored, not from the database: the pages of ``trace_pages`` are all there is."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Trace | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Trace | None = None) -> bool:
        return False

    def get_urls(self) -> list[Any]:
        trace_id = r"^(?P<trace_id>[0-9a-fA-F]{6,32})/"
        pages = [
            ("^$", "list", "changelist"),
            ("^routes/$", "routes", "routes"),
            ("^map/$", "map", "map"),
            (rf"{trace_id}$", "trace", "trace"),
            (rf"{trace_id}spans/(?P<span_id>[0-9a-f]{{16}})/$", "span", "span"),
            (rf"{trace_id}compare/$", "compare", "compare"),
            (rf"{trace_id}(?P<kind>otlp|jaeger)\.json$", "download", "download"),
        ]
        return [
            re_path(pattern, self.admin_site.admin_view(self._page(view)), name=f"django_tracing_trace_{name}")
            for pattern, view, name in pages
        ]

    def _page(self, name: str) -> Callable[..., HttpResponseBase]:
        def page(request: HttpRequest, **kwargs: Any) -> HttpResponseBase:
            if not self.has_view_permission(request):
                raise PermissionDenied
            # Every process of a site with the admin imports this module; few of them ever show a trace.
            from django_tracing.pages import views as trace_pages

            return trace_pages.show(name, request, self.admin_site, **kwargs)

        return page


#: Settings whose values are nobody's to read.
_SECRET = frozenset({"HEADERS", "SAMPLING_TOKEN"})


def _setting(settings: Settings, name: str) -> dict[str, str]:
    value = getattr(settings, name.lower())
    if name in _SECRET and value:
        shown = gettext("set, not shown")
        if name == "HEADERS":
            shown = ", ".join(f"{header}: …" for header in value)
    elif callable(value):
        # An object that can be called, such as a partial, has no name of its own.
        named = value if hasattr(value, "__qualname__") else type(value)
        shown = f"{named.__module__}.{named.__qualname__}"
    elif isinstance(value, str) and "://" in value:
        shown = shown_address(value)
    elif isinstance(value, (tuple, frozenset)):
        shown = ", ".join(str(item) for item in value)
    elif hasattr(value, "items"):
        judged = redact_resource(value, SensitiveKeys(settings.sensitive_keys))
        shown = ", ".join(f"{key}={item}" for key, item in judged.items())
    else:
        shown = "" if value is None else str(value)
    return {"name": name, "value": shown, "source": settings.source(name)}


def _process(row: ProcessStatus) -> dict[str, Any]:
    report = row.report
    sampling = report.get("sampling", {})
    said = [f"SAMPLE_RATE {sampling.get('rate')}", *sampling.get("rules", ())]
    success = report.get("last_success_time")
    # A process of an older version tells more of its address.
    endpoint = shown_address(str(report.get("endpoint") or ""))
    return {
        "service": row.service,
        "name": f"{row.host}:{row.pid}",
        "started": row.started,
        "updated": row.updated,
        "exporter": " ".join(filter(None, (str(report.get("exporter") or ""), endpoint))),
        "queued": str(report.get("queued", "")),
        "exported": str(report.get("exported", "")),
        "dropped": ", ".join(f"{reason} {count}" for reason, count in report.get("dropped", {}).items()) or "0",
        "last_success": None if success is None else datetime.fromtimestamp(float(success), datetime_timezone.utc),
        "last_error": report.get("last_error") or "",
        "sampling": ", ".join(said),
    }
