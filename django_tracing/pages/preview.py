"""Show which sampling rule decides about a request, a command or a task."""

from __future__ import annotations

from typing import Any, Final

from django import forms
from django.contrib.admin import ModelAdmin
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.conf.loading import get_settings
from django_tracing.context.description import find_route
from django_tracing.models import SamplingRule
from django_tracing.pages import unmigrated
from django_tracing.pages.responses import respond
from django_tracing.sampling.database import read_rules, table_exists
from django_tracing.sampling.rules import TraceStart, compile_rules, header_key

__all__ = ["PreviewForm", "page"]

#: Why a rule does not match, by the condition that is not met.
_FAILED: Final = {
    "valid_until": _("it has expired"),
    "operation": _("different operation"),
    "method": _("different method"),
    "path": _("different path"),
    "header": _("different or missing header"),
    "user_id": _("different user"),
    "subscription": _("different subscription"),
}


class PreviewForm(forms.Form):
    """A request, command or task to try the rules with."""

    operation = forms.ChoiceField(label=_("Operation"), choices=SamplingRule.Operation.choices, required=False)
    method = forms.CharField(label=_("Method"), max_length=20, required=False)
    path = forms.CharField(label=_("Path"), max_length=300, required=False)
    service = forms.CharField(
        label=_("Service"), max_length=100, required=False, help_text=_("Leave empty for this service.")
    )
    user_id = forms.CharField(label=_("User ID"), max_length=100, required=False)
    subscription = forms.CharField(label=_("Subscription"), max_length=100, required=False)
    headers = forms.CharField(
        label=_("Headers"),
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("One per line, for example “X-Debug: 1”."),
    )

    def trace_start(self) -> TraceStart:
        """Return the form's values as the rules compare them."""
        data = self.cleaned_data
        path_info = data["path"]
        lines = [line.partition(":") for line in data["headers"].splitlines() if line.strip()]
        return TraceStart(
            operation=data["operation"] or "request",
            method=data["method"].upper(),
            path=path_info,
            route=find_route(path_info),
            headers={header_key(name): value.strip() for name, _colon, value in lines},
            user_id=data["user_id"],
            subscription=data["subscription"],
        )


def page(request: HttpRequest, admin: ModelAdmin[Any]) -> HttpResponse:
    """Show which rule decides, and why the rules before it don't match."""
    if not table_exists():
        return unmigrated.page(request, admin)
    form = PreviewForm(request.GET or None)
    context: dict[str, Any] = {"form": form, "reasons": None}
    if form.is_bound and form.is_valid():
        context |= _decision(form)
    return respond(request, admin, "preview", gettext("Preview"), context)


def _decision(form: PreviewForm) -> dict[str, Any]:
    service = form.cleaned_data["service"] or get_settings().service_name
    reasons = compile_rules(read_rules(), service).explain(form.trace_start(), timezone.now().timestamp())
    decisive = reasons[-1].rule if reasons and reasons[-1].matches else None
    return {
        "reasons": [
            {
                "id": reason.rule.id,
                "name": reason.rule.name,
                "matches": reason.matches,
                "outcome": gettext("decides")
                if reason.matches
                else gettext("does not match: %(why)s") % {"why": _FAILED.get(reason.failed, reason.failed)},
            }
            for reason in reasons
        ],
        "decision": gettext("No rule matches. SAMPLE_RATE decides: %(rate)g %% of the traces are kept.")
        % {"rate": get_settings().sample_rate * 100}
        if decisive is None
        else gettext("The rule “%(name)s” decides: %(rate)g %% of the traces are kept.")
        % {"name": decisive.name, "rate": decisive.rate * 100},
    }
