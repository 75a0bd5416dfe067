"""Test the tabs at the top of all pages."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import path

from django_tracing.admin import TraceAdmin
from django_tracing.models import SamplingRule, Trace
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import BLUEPRINT, RULES, STATUS, TRACES, staff

pytestmark = pytest.mark.django_db

LABELS = ["Traces", "Routes", "Service map", "Sampling rules", "Status"]


def tabs(client: Client, address: str) -> list[tuple[str, str, str]]:
    """Return the label, the address and the ``aria-current`` of each tab of a page."""
    text = client.get(address).content.decode()
    [found] = re.findall(r'<nav class="tracing-tabs".*?</nav>', text, re.DOTALL)
    return [
        (label, url, current)
        for url, current, label in re.findall(r'<a href="([^"]+)"(?: aria-current="(\w+)")?>([^<]+)</a>', found)
    ]


@pytest.mark.parametrize(
    ("address", "label", "current"),
    [
        (TRACES, "Traces", "page"),
        (f"{TRACES}{BLUEPRINT}/", "Traces", "true"),
        (f"{TRACES}{'f' * 32}/", "Traces", "true"),
        (f"{TRACES}routes/", "Routes", "page"),
        (f"{TRACES}map/", "Service map", "page"),
        (RULES, "Sampling rules", "page"),
        (f"{RULES}add/", "Sampling rules", "true"),
        (f"{RULES}RULE/change/", "Sampling rules", "true"),
        (f"{RULES}preview/", "Sampling rules", "true"),
        (STATUS, "Status", "page"),
    ],
)
def test_each_page_has_all_tabs_and_marks_its_own(
    root: Client, store: LocalStore, address: str, label: str, current: str
) -> None:
    rule = SamplingRule.objects.create(name="a")
    address = address.replace("RULE", str(rule.pk))
    found = tabs(root, address)
    assert [each[0] for each in found] == LABELS
    assert {each[0]: each[2] for each in found if each[2]} == {label: current}
    for _label, url, _current in found:
        assert root.get(url).status_code == 200
    # A project may have several admin sites.
    assert all(url.startswith("/ops/") for _label, url, _current in tabs(root, address.replace("/admin/", "/ops/")))


def test_users_see_the_tabs_of_the_pages_that_they_may_view(store: LocalStore) -> None:
    assert [each[0] for each in tabs(staff("view_trace"), TRACES)] == LABELS[:3]
    User.objects.all().delete()
    assert [each[0] for each in tabs(staff("view_samplingrule"), RULES)] == ["Sampling rules"]
    User.objects.all().delete()
    assert [each[0] for each in tabs(staff("view_processstatus", "view_trace"), STATUS)] == [*LABELS[:3], "Status"]


def test_a_site_without_some_of_the_models_has_no_tabs_for_them(root: Client, store: LocalStore) -> None:
    site = admin.AdminSite(name="admin")
    site.register(Trace, TraceAdmin)
    urls = ModuleType("urls_of_traces_only")
    urls.urlpatterns = [path("admin/", site.urls)]  # type: ignore[attr-defined]
    with override_settings(ROOT_URLCONF=urls):
        assert [each[0] for each in tabs(root, TRACES)] == LABELS[:3]
