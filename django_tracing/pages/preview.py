"""Show which sampling rule decides about a request, a command or a task."""

from __future__ import annotations

from typing import Any, Final

from django import forms
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_tracing.conf.loading import get_settings
from django_tracing.context.description import find_route
from django_tracing.exceptions import ReadError
from django_tracing.models import SamplingRule, Trace
from django_tracing.pages import unmigrated
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rules import percent
from django_tracing.sampling.database import read_rules, table_exists
from django_tracing.sampling.rules import Reason, RuleSet, TraceStart, compile_rules, header_key

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


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
    """Show which rule decides, and why the rules before it don't match."""
    if not table_exists():
        return unmigrated.page(request, mount)
    form = PreviewForm(request.GET or None)
    valid = form.is_bound and form.is_valid()
    service = (form.cleaned_data["service"] if valid else "") or get_settings().service_name
    rules = compile_rules(read_rules(), service)
    reasons = rules.explain(form.trace_start(), timezone.now().timestamp()) if valid else []
    outcomes = {reason.rule.id: reason for reason in reasons}
    context: dict[str, Any] = {
        "form": form,
        "reasons": reasons if valid else None,
        "decision": _decision(reasons) if valid else "",
        "service": service,
        **_met(request, mount, rules, service),
    }
    context["rules"] = [
        {
            "id": compiled.rule.id,
            "name": compiled.rule.name,
            "rate": percent(compiled.rule.rate),
            "matches": compiled.rule.id in outcomes and outcomes[compiled.rule.id].matches,
            "outcome": _outcome(outcomes.get(compiled.rule.id)) if valid else "",
            "met": str(context["counts"].get(compiled.rule.id, "")),
        }
        for compiled in rules.compiled
    ]
    return respond(request, mount, "preview", gettext("Preview"), context)


def _met(request: HttpRequest, mount: Mount, rules: RuleSet, service: str) -> dict[str, Any]:
    """Return how many stored traces would have met each rule, for users who may view traces."""
    from django_tracing.pages.met import count_met
    from django_tracing.pages.source import open_reader, problem_of

    context: dict[str, Any] = {"counts": {}, "read": 0, "problem": None}
    if rules.compiled and mount.may(request, "view", Trace):
        try:
            found = count_met(open_reader(), rules, service)
        except ReadError as error:
            context["problem"] = problem_of(request, mount, error)
        else:
            context |= {"counts": found.counts, "read": found.read}
    return context


def _outcome(reason: Reason | None) -> str:
    if reason is None:
        return gettext("not reached")
    if reason.matches:
        return gettext("decides")
    return gettext("does not match: %(why)s") % {"why": _FAILED.get(reason.failed, reason.failed)}


def _decision(reasons: list[Reason]) -> str:
    decisive = reasons[-1].rule if reasons and reasons[-1].matches else None
    if decisive is None:
        rate = get_settings().sample_rate * 100
        return gettext("No rule matches. SAMPLE_RATE decides: %(rate)g %% of the traces are kept.") % {"rate": rate}
    return gettext("The rule “%(name)s” decides: %(rate)g %% of the traces are kept.") % {
        "name": decisive.name,
        "rate": decisive.rate * 100,
    }
