"""Test the list and the form of the sampling rules."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from django.test import Client

from django_tracing.models import SamplingRule
from tests.pages.helpers import RULES, page, staff, words

pytestmark = pytest.mark.django_db


def names() -> list[str]:
    return list(SamplingRule.objects.values_list("name", flat=True))


def starters(client: Client) -> dict[str, str]:
    """Return the addresses of the offered rules by their labels."""
    found = re.search(r'<ul class="tracing-starters">.*?</ul>', page(client, RULES), re.DOTALL)
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', found[0]) if found else []
    return {label: html.unescape(url) for url, label in links}


def saved(client: Client, url: str) -> SamplingRule:
    """Open the form at ``url`` as a browser does, save it unchanged, and return the rule."""
    form = client.get(url).context["adminform"].form
    values = {bound.html_name: bound.value() for bound in form if bound.value() is not None}
    values |= {"valid_until_0": "", "valid_until_1": ""}
    answer = client.post(url.partition("?")[0], {"keep_errors": "unknown", **values})
    assert answer.status_code == 302, answer.context["errors"]
    return SamplingRule.objects.latest("pk")


def test_an_empty_list_states_what_is_kept_now(root: Client, settings: Any) -> None:
    settings.TRACING = {**settings.TRACING, "SAMPLE_RATE": 0.25, "KEEP_ERRORS": True, "KEEP_SLOWER_THAN": 1.5}
    shown = words(page(root, RULES))
    assert "There are no rules yet. This is kept now:" in shown
    assert "25 % of all traces ( SAMPLE_RATE )" in shown
    assert "every request that fails ( KEEP_ERRORS )" in shown
    assert "every request that takes longer than 1.5 s ( KEEP_SLOWER_THAN )" in shown
    settings.TRACING = {**settings.TRACING, "KEEP_ERRORS": False, "KEEP_SLOWER_THAN": None, "SAMPLING_REFRESH": 0}
    shown = words(page(root, RULES))
    assert "KEEP_" not in shown
    assert "rules have no effect in this process ( SAMPLING_REFRESH )" in shown
    settings.TRACING = {**settings.TRACING, "REMOTE_SAMPLING_URL": "http://user:hunter2@jaeger:5778/sampling"}
    text = page(root, RULES)
    assert "the share of the traces that http://jaeger:5778" in words(text)
    assert "hunter2" not in text


def test_a_list_with_rules_states_what_is_kept_if_none_matches(root: Client) -> None:
    SamplingRule.objects.create(name="a", enabled=False)
    shown = words(page(root, RULES))
    assert "If no rule matches, this is kept: 100 % of all traces ( SAMPLE_RATE )" in shown
    assert starters(root) == {}


def test_the_offered_rules_can_be_saved_as_they_are(root: Client, settings: Any) -> None:
    settings.TRACING = {**settings.TRACING, "SAMPLE_RATE": 0.5}
    offered = starters(root)
    assert list(offered) == ["Keep errors", "Keep slow requests of a route", "10 % of everything"]
    errors, slow, tenth = (saved(root, url) for url in offered.values())
    assert (errors.operation, errors.path, errors.rate, errors.keep_errors) == ("request", "", 50, True)
    assert (slow.path, slow.rate, slow.keep_slower_than, slow.keep_errors) == ("/checkout/*", 50, 1, None)
    assert (tenth.operation, tenth.path, tenth.rate, tenth.keep_errors) == ("", "", 10, None)
    assert names() == list(offered), "each new rule is the last"
    assert all(rule.enabled for rule in SamplingRule.objects.all())


def test_rules_are_offered_to_users_who_may_add_them() -> None:
    client = staff("view_samplingrule")
    assert starters(client) == {}
    assert "There are no rules yet." in page(client, RULES)


def test_a_new_rule_is_the_last(root: Client) -> None:
    SamplingRule.objects.create(name="last", order=70)
    SamplingRule.objects.create(name="first", order=3)
    assert 'name="order"' not in page(root, f"{RULES}add/")
    saved(root, f"{RULES}add/?name=new")
    assert names() == ["first", "last", "new"]
    SamplingRule.objects.update(order=2**31 - 1)
    saved(root, f"{RULES}add/?name=newest")
    assert names()[-1] == "newest"


def test_saving_a_rule_again_leaves_its_place(root: Client) -> None:
    first = SamplingRule.objects.create(name="first", order=10)
    SamplingRule.objects.create(name="second", order=20)
    saved(root, f"{RULES}{first.pk}/change/")
    assert names() == ["first", "second"]


def test_a_button_moves_a_rule_by_one_place(root: Client) -> None:
    for name in "abc":
        SamplingRule.objects.create(name=name)
    text = page(root, RULES)
    buttons = dict(re.findall(r'form="tracing-reorder" name="move" value="([^"]+)" aria-label="Move ([^"]+)"', text))
    values = {label: value for value, label in buttons.items()}
    assert 'id="tracing-reorder" method="post"' in text
    for move, order in (
        *(("c up", "acb"), ("c up", "cab"), ("c up", "cab"), ("a down", "cba"), ("a down", "cba"), ("b up", "bca")),
    ):
        assert root.post(f"{RULES}reorder/", {"ids": "", "move": values[move]}).status_code == 302
        assert "".join(names()) == order, move
    for move in ("999:up", "x:up", f"{'9' * 5000}:up", values["a up"] + ":up"):
        assert root.post(f"{RULES}reorder/", {"ids": "", "move": move}).status_code == 302
    assert "".join(names()) == "bca"


def test_what_matters_comes_first_and_numbers_have_units(root: Client) -> None:
    SamplingRule.objects.create(
        name="a", rate=12.5, path="/x", max_per_second=2, keep_errors=True, keep_slower_than=0.5
    )
    text = page(root, RULES)
    columns = re.findall(r'scope="col" class="(?:sorted ascending )?(?:sortable )?column-(\w+)', text)
    assert columns[:6] == ["name", "conditions", "rate", "kept", "passed_over", "enabled"]
    assert re.search(r'<input[^>]* name="form-0-rate"[^>]*> <span class="tracing-unit">%</span>', text)
    assert "at most 2 per second, every error, all slower than 0.5 s" in words(text)
    assert "column-order" not in text
    form = page(root, f"{RULES}add/")
    assert re.findall(r'<span class="tracing-unit">([^<]+)</span>', form) == ["%", "per second", "seconds"]


def test_users_who_may_only_view_rules_see_the_unit_and_no_buttons() -> None:
    SamplingRule.objects.create(name="a", rate=12.5)
    text = page(staff("view_samplingrule"), RULES)
    assert '<td class="field-rate_shown">12.5 %</td>' in text
    assert "tracing-move" not in text
