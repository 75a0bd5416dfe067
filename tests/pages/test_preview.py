"""Test the preview of the sampling rules."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from django_tracing.exceptions import ReadError
from django_tracing.models import SamplingRule
from django_tracing.pages import met
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import RULES, page, staff, words
from tests.traces.builders import row

pytestmark = pytest.mark.django_db


def preview(client: Client, **request: str) -> tuple[str, list[str]]:
    answer = client.get(f"{RULES}preview/", {"operation": "request", **request})
    outcomes = [rule["outcome"] for rule in answer.context["rules"]]
    return answer.context["decision"], [outcome for outcome in outcomes if outcome != "not reached"]


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


def rows(client: Client, **query: str) -> dict[str, list[str]]:
    """Return the cells of each rule's row by the rule's name."""
    text = client.get(f"{RULES}preview/", query).content.decode()
    table = text.split('id="tracing-rules"')[1].split("</table>")[0]
    cells = [
        [words(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)[1:]
    ]
    return {row[1]: row[2:] for row in cells if len(row) > 1}


def test_a_preview_shows_how_many_stored_traces_would_have_met_each_rule(root: Client, store: LocalStore) -> None:
    def trace(number: int, name: str, kind: str = "server", service: str = "shop", **attributes: Any) -> None:
        attributes = {key.replace("__", "."): value for key, value in attributes.items()}
        child = row(number, 2, 1, "GET /child", kind="client", service=service, attributes={"http.method": "PATCH"})
        store.write([row(number, 1, 0, name, kind=kind, service=service, attributes=attributes), child])

    url = "https://shop.example/orders/7/?page=1"
    trace(50, "GET /orders/<int:pk>/", http__method="GET", http__url=url, user__id=7, http__route="/orders/<int:pk>/")
    trace(51, "POST /orders/", http__request__method="POST", url__path="/orders/", user__subscription="pro")
    trace(52, "GET /orders/<int:pk>/", http__method="GET", http__url="http://[", http__route="/orders/<int:pk>/")
    trace(53, "command.clean", kind="internal")
    trace(54, "task.run.mail", kind="internal", user__id="7")
    trace(55, "GET /orders/", service="billing", http__method="GET", http__url=url)
    for name, conditions in {
        "all": {},
        "get": {"method": "GET"},
        "path": {"path": "/orders/*"},
        "route": {"path": "/orders/<int:pk>/"},
        "ada": {"user_id": "7"},
        "pro": {"subscription": "pro"},
        "commands": {"operation": "command"},
        "mail": {"operation": "task", "path": "mail"},
        "none": {"method": "PATCH"},
        "tenant": {"header_name": "X-Tenant"},
    }.items():
        SamplingRule.objects.create(name=name, rate=12.5, **conditions)
    assert {name: cells[-1] for name, cells in rows(root).items()} == {
        **{"all": "5", "get": "2", "path": "3", "route": "2", "ada": "2", "pro": "1"},
        **{"commands": "1", "mail": "1", "none": "0", "tenant": "?"},
    }
    shown = words(page(root, f"{RULES}preview/"))
    assert "of the newest 5 stored traces that started in shop" in shown
    assert rows(root, operation="request", service="billing", path="/x")["all"] == ["decides", "12.5 %", "1"]


def test_a_preview_counts_traces_for_users_who_may_view_them(store: LocalStore) -> None:
    store.write([row(50, 1, 0, "GET /", kind="server", service="shop")])
    SamplingRule.objects.create(name="all")
    assert rows(staff("view_samplingrule")) == {"all": ["100 %"]}
    User.objects.all().delete()
    assert rows(staff("view_samplingrule", "view_trace")) == {"all": ["100 %", "1"]}


def test_what_is_read_for_the_counts_is_bounded(
    root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([row(number, 1, 0, "GET /", kind="server", service="shop") for number in range(50, 60)])
    SamplingRule.objects.create(name="all")
    monkeypatch.setattr(met, "_MOST_READ", 6)
    assert rows(root)["all"][-1] == "6"
    monkeypatch.setattr(met, "_MOST_SPANS", 3)
    assert rows(root)["all"][-1] == "4"


@pytest.mark.parametrize("answers", [0, 2])
def test_a_preview_works_while_traces_cannot_be_read(
    root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    store.write([row(number, 1, 0, "GET /", kind="server", service="shop") for number in range(50, 60)])
    SamplingRule.objects.create(name="all")
    read, left = LocalStore.trace, [answers]

    def trace(self: LocalStore, trace_id: str) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise ReadError("no answer in time", "timeout")
        return read(self, trace_id)

    monkeypatch.setattr(LocalStore, "trace", trace)
    text = page(root, f"{RULES}preview/?operation=request&path=/x")
    assert "The rule “all” decides" in text
    assert ("no answer in time" in text) == (answers == 0)
    left[0] = answers
    assert rows(root)["all"] == (["100 %", "2"] if answers else ["100 %"])
