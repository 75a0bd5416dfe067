"""Add or change a sampling rule on sites without the admin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django import forms
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.forms.models import modelform_factory
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext

from django_tracing.models import SamplingRule
from django_tracing.pages import unmigrated
from django_tracing.pages.links import page_address
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.sampling.database import table_exists
from django_tracing.sampling.editing import FIELDSETS, UNITS, SamplingRuleForm, UnitInput, place_last

__all__ = ["page"]

#: What an input for a date and a time needs, in the server's time zone. With seconds, saving does not change them.
_MOMENT: Final = "%Y-%m-%dT%H:%M:%S"


def page(request: HttpRequest, mount: Mount, pk: str | None = None) -> HttpResponse:
    """Show a rule, or an empty one, and save what the user sends."""
    if not table_exists():
        return unmigrated.page(request, mount)
    rule = get_object_or_404(SamplingRule, pk=int(pk)) if pk else None
    may_save = mount.may(request, "change" if rule else "add")
    if request.method == "POST":
        if not may_save:
            raise PermissionDenied
        form = _form_class()(request.POST, instance=rule)
        if form.is_valid():
            return _save(request, mount, form, new=rule is None)
    else:
        # The links of the starters fill in a new rule.
        form = _form_class()(instance=rule, initial=None if rule else request.GET.dict())
    for field in form.fields.values():
        field.disabled = not may_save
    zone = gettext("In the time zone %(zone)s.") % {"zone": timezone.get_current_timezone_name()}
    form.fields["valid_until"].help_text += f" {zone}"
    context = {
        "rule": rule,
        "form": form,
        "groups": list(_groups(form)),
        "may_save": may_save,
        "may_delete": rule is not None and mount.may(request, "delete"),
    }
    return respond(request, mount, "rule", rule.name if rule else gettext("Add sampling rule"), context)


def _form_class() -> Any:
    names = [name for _label, group in FIELDSETS for name in _flat(group["fields"])]
    return modelform_factory(
        SamplingRule,
        form=SamplingRuleForm,
        fields=names,
        widgets={
            "valid_until": forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format=_MOMENT),
            **{name: UnitInput(unit) for name, unit in UNITS.items()},
        },
    )


def _flat(names: Any) -> Iterator[str]:
    for name in names:
        if isinstance(name, str):
            yield name
        else:
            yield from name


def _groups(form: forms.BaseForm) -> Iterator[dict[str, Any]]:
    for label, group in FIELDSETS:
        yield {
            "label": label or "",
            "description": group.get("description", ""),
            "fields": [form[name] for name in _flat(group["fields"])],
        }


def _save(request: HttpRequest, mount: Mount, form: Any, new: bool) -> HttpResponse:
    rule: SamplingRule = form.save(commit=False)
    with transaction.atomic(using=router.db_for_write(SamplingRule)):
        if new:
            place_last(rule)
        rule.save()
        if new:
            mount.log(request, rule, "added")
        elif form.changed_data:
            mount.log(request, rule, "changed", fields=form.changed_data)
    mount.notify(request, gettext("The rule “%(name)s” was saved.") % {"name": rule.name})
    return HttpResponseRedirect(page_address("samplingrule_changelist"))
