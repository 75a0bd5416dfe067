"""Delete a sampling rule on sites without the admin."""

from __future__ import annotations

from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext

from django_tracing.models import SamplingRule
from django_tracing.pages import unmigrated
from django_tracing.pages.links import page_address
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.sampling.database import table_exists

__all__ = ["page"]


def page(request: HttpRequest, mount: Mount, pk: str) -> HttpResponse:
    """Ask whether to delete a rule; after a POST, delete it."""
    if not table_exists():
        return unmigrated.page(request, mount)
    rule = get_object_or_404(SamplingRule, pk=int(pk))
    if request.method != "POST":
        return respond(request, mount, "delete", gettext("Delete sampling rule"), {"rule": rule})
    with transaction.atomic(using=router.db_for_write(SamplingRule)):
        mount.log(request, rule, "deleted")
        rule.delete()
    mount.notify(request, gettext("The rule “%(name)s” was deleted.") % {"name": rule.name})
    return HttpResponseRedirect(page_address("samplingrule_changelist"))
