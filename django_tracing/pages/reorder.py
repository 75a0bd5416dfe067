"""Save a new order of the sampling rules."""

from __future__ import annotations

import re

from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.http import HttpRequest, HttpResponseRedirect
from django.utils.translation import gettext

from django_tracing.models import SamplingRule
from django_tracing.pages.links import page_address
from django_tracing.pages.mounts import Mount

__all__ = ["page"]

#: The id of a rule. Python refuses to convert very long numbers.
_ID = re.compile(r"[0-9]{1,18}")
#: What a rule's buttons send.
_MOVE = re.compile(r"([0-9]{1,18}):(up|down)")


def page(request: HttpRequest, mount: Mount) -> HttpResponseRedirect:
    """Put the given rules into the given order, or move one by a place. The other rules keep their places."""
    if request.method != "POST" or not mount.may(request, "change"):
        raise PermissionDenied
    given = [int(text) for text in request.POST.get("ids", "").split(",") if _ID.fullmatch(text)]
    with transaction.atomic(using=router.db_for_write(SamplingRule)):
        rules = list(SamplingRule.objects.select_for_update().order_by("order", "id"))
        known = {rule.pk: rule for rule in rules}
        move = _MOVE.fullmatch(request.POST.get("move", ""))
        if move:
            given = _moved([rule.pk for rule in rules], int(move[1]), -1 if move[2] == "up" else 1)
        wanted = iter([known[pk] for pk in dict.fromkeys(given) if pk in known])
        moved = set(given)
        for number, rule in enumerate([next(wanted) if rule.pk in moved else rule for rule in rules], start=1):
            if rule.order != number * 10:
                rule.order = number * 10
                rule.save(update_fields=["order", "updated"])
                mount.log(request, rule, "changed", fields=[gettext("order")])
    mount.notify(request, gettext("The order of the rules was saved."))
    return HttpResponseRedirect(page_address("samplingrule_changelist"))


def _moved(ids: list[int], moved: int, by: int) -> list[int]:
    """Return the two ids that change their places, in their new order; none if there is no such place."""
    place = ids.index(moved) if moved in ids else -1
    other = place + by
    if place < 0 or not 0 <= other < len(ids):
        return []
    return [moved, ids[other]] if by < 0 else [ids[other], moved]
