"""Test the order of the sampling rules."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from django_tracing.models import SamplingRule
from tests.pages.helpers import RULES

pytestmark = pytest.mark.django_db


def test_the_order_is_saved_immediately_and_recorded_in_the_history(root: Client) -> None:
    rules = [
        SamplingRule.objects.create(name=name, order=order) for name, order in zip("abcd", (0, 0, 5, 9), strict=True)
    ]
    a, b, c, d = (str(rule.pk) for rule in rules)
    answer = root.post(f"{RULES}reorder/", {"ids": ",".join([d, a, "999", "x", c])})
    assert answer.status_code == 302
    # b was not on the page, so it keeps its place.
    assert list(SamplingRule.objects.values_list("name", "order")) == [("d", 10), ("b", 20), ("a", 30), ("c", 40)]
    assert LogEntry.objects.filter(object_repr="d").count() == 1
    assert root.get(f"{RULES}reorder/").status_code == 405
