"""Test the preview of the sampling rules."""

from __future__ import annotations

import pytest
from django.test import Client

from django_tracing.models import SamplingRule
from tests.pages.helpers import RULES, page

pytestmark = pytest.mark.django_db


def preview(client: Client, **request: str) -> tuple[str, list[str]]:
    answer = client.get(f"{RULES}preview/", {"operation": "request", **request})
    return answer.context["decision"], [reason["outcome"] for reason in answer.context["reasons"]]


def test_a_preview_matches_rules_by_the_route_of_spans(root: Client) -> None:
    SamplingRule.objects.create(name="people", path="/people/<pk>/", rate=50)
    assert preview(root, path="/people/7/") == (
        "The rule “people” decides: 50 % of the traces are kept.",
        ["decides"],
    )


def test_a_preview_shows_which_rule_decides_and_why(root: Client) -> None:
    SamplingRule.objects.create(name="posts", order=1, method="POST")
    SamplingRule.objects.create(name="ada", order=2, user_id="42", rate=50)
    SamplingRule.objects.create(name="tenant", order=3, header_name="X-Tenant", header_value="acme")
    SamplingRule.objects.create(name="off", order=4, enabled=False)
    assert preview(root, method="get", path="/x", user_id="42") == (
        "The rule “ada” decides: 50 % of the traces are kept.",
        ["does not match: different method", "decides"],
    )
    decision, outcomes = preview(root, method="GET", path="/x", headers="X-Tenant: acme\nnonsense")
    assert decision == "The rule “tenant” decides: 100 % of the traces are kept."
    assert outcomes[1] == "does not match: different user"
    decision, outcomes = preview(root, method="GET", path="/x", service="billing")
    assert decision == "No rule matches. SAMPLE_RATE decides: 100 % of the traces are kept."
    assert outcomes[-1] == "does not match: different or missing header"
    assert "No rule matches" in page(root, f"{RULES}preview/?operation=request&path=/x")
