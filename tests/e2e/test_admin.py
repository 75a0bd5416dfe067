"""Test the admin's pages in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.urls import path
from pytest_django.live_server_helper import LiveServer

from django_tracing.models import SamplingRule
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.e2e.browser import needs_chromium, sign_in, watched_page
from tests.traces.builders import row

pytestmark = [needs_chromium, pytest.mark.django_db(transaction=True)]

urlpatterns = [path("admin/", admin.site.urls)]


@pytest.fixture
def site(settings: Any, live_server: LiveServer) -> str:
    settings.ROOT_URLCONF = __name__
    if django.VERSION >= (6, 0):
        # As strict as the admin itself allows: only scripts and styles from the site's files.
        settings.MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware", *settings.MIDDLEWARE]
        settings.SECURE_CSP = {"default-src": ["'self'"], "img-src": ["'self'", "data:"]}
    User.objects.create_superuser("root", "root@example.com", "secret")
    return str(live_server.url)


@pytest.fixture
def rules(browser: Any, site: str) -> Iterator[Any]:
    with watched_page(browser) as page:
        sign_in(page, f"{site}/admin/login/?next=/admin/django_tracing/samplingrule/", "root", "secret")
        yield page


def rules_by_name() -> dict[str, int]:
    """Return the ids of the rules by name, in their order."""
    try:
        return dict(SamplingRule.objects.values_list("name", "pk"))
    finally:
        # An event loop runs between Playwright's calls, so pytest-django wouldn't close this connection.
        connection.close()


def names() -> list[str]:
    return list(rules_by_name())


def test_adding_ordering_previewing_and_expiring(rules: Any) -> None:
    for name in ("first", "second", "third"):
        rules.click("text=Add sampling rule")
        rules.fill("#id_name", name)
        rules.click("[name=_save]")
    assert names() == ["first", "second", "third"]

    # With the keyboard.
    button = rules.get_by_role("button", name="Move third up")
    button.focus()
    with rules.expect_navigation():
        rules.keyboard.press("Enter")
    assert names() == ["first", "third", "second"]

    # With the mouse.
    rows = rules.locator("#result_list tbody tr")
    with rules.expect_navigation():
        rows.nth(2).drag_to(rows.nth(0), source_position={"x": 5, "y": 8}, target_position={"x": 5, "y": 2})
    assert names() == ["second", "first", "third"]
    assert "The order of the rules was saved." in rules.content()

    rules.click("text=Preview")
    rules.fill("#id_path", "/x")
    rules.click("[type=submit][value=Preview]")
    assert "The rule “second” decides" in rules.inner_text("#tracing-decision")

    rules.goto(rules.url.split("/preview/")[0] + f"/{rules_by_name()['second']}/change/")
    rules.fill("#id_valid_until_0", "2020-01-01")
    rules.fill("#id_valid_until_1", "00:00")
    rules.click("[name=_save]")
    rules.click("text=Preview")
    rules.fill("#id_path", "/x")
    rules.click("[type=submit][value=Preview]")
    assert "The rule “first” decides" in rules.inner_text("#tracing-decision")


def test_the_status_page(rules: Any) -> None:
    rules.goto(rules.url.replace("samplingrule", "processstatus"))
    assert "SAMPLE_RATE" not in rules.inner_text("body"), "defaults are folded"
    rules.click("text=settings have their defaults")
    assert "SAMPLE_RATE" in rules.inner_text("#tracing-defaults")
    rules.click("text=Check now")
    rules.locator("#tracing-steps tbody tr").nth(1).wait_for()


def test_rules_begin_with_a_template_and_move_without_javascript(browser: Any, site: str) -> None:
    with watched_page(browser, java_script_enabled=False) as page:
        sign_in(page, f"{site}/admin/login/?next=/admin/django_tracing/samplingrule/", "root", "secret")
        for label in ("Keep errors", "Keep slow requests of a route"):
            page.goto(f"{site}/admin/django_tracing/samplingrule/")
            if label == "Keep errors":
                page.get_by_role("link", name=label).click()
            else:
                page.click("text=Add sampling rule")
                page.fill("#id_name", label)
            page.click("[name=_save]")
        assert names() == ["Keep errors", "Keep slow requests of a route"]
        page.get_by_role("button", name="Move Keep slow requests of a route up").click()
        assert names() == ["Keep slow requests of a route", "Keep errors"]


@pytest.mark.parametrize("width", [1280, 390])
def test_five_tabs_lead_from_each_page_to_each_other(rules: Any, width: int) -> None:
    rules.set_viewport_size({"width": width, "height": 900})
    labels = ["Traces", "Routes", "Service map", "Sampling rules", "Status"]
    for label in [*labels, *reversed(labels)]:
        with rules.expect_navigation():
            rules.locator(".tracing-tabs").get_by_text(label, exact=True).click()
        assert rules.locator(".tracing-tabs a").all_inner_texts() == labels
        assert rules.locator(".tracing-tabs [aria-current=page]").all_inner_texts() == [label]
        assert rules.evaluate("document.documentElement.scrollWidth") <= width, label


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_of_the_service_map_do_not_overlap_and_lines_open_traces(
    browser: Any, site: str, settings: Any, tmp_path: Path, scheme: str
) -> None:
    path = tmp_path / "traces.sqlite3"
    settings.TRACING = {"EXPORTER": "local", "LOCAL_STORE": str(path), "SERVICE_NAME": "a"}
    services = "abcdef"
    spans = []
    for trace, (caller, callee) in enumerate(permutations(services, 2), start=1):
        breaker = {
            "operation.type": "circuit_breaker",
            "circuit_breaker.name": callee,
            "circuit_breaker.state": "open",
        }
        spans += [
            row(trace, 1, 0, kind="server", service=caller),
            row(trace, 2, 1, kind="client", service=caller, attributes={"http.method": "GET"}),
            row(trace, 3, 2, kind="server", service=callee, status="error"),
            row(trace, 4, 1, service=caller, attributes=breaker if trace % 2 else {}),
            row(trace, 5, 1, kind="client", service=caller, attributes={"db.system": "redis"}),
        ]
    store = LocalStore(path)
    store.write(spans)
    store.close()
    with watched_page(browser, color_scheme=scheme) as page:
        sign_in(page, f"{site}/admin/login/?next=/admin/django_tracing/trace/map/", "root", "secret")
        overlapping = page.evaluate("""() => {
            const boxes = (selector) => Array.from(document.querySelectorAll(selector), (each) => each.getBBox());
            const labels = boxes(".tracing-map .tracing-label");
            const others = [...labels, ...boxes(".tracing-box rect")];
            const meet = (one, other) => one !== other && one.x < other.x + other.width && other.x < one.x + one.width
                && one.y < other.y + other.height && other.y < one.y + one.height;
            return [labels.length, labels.filter((one) => others.some((other) => meet(one, other))).length];
        }""")
        assert overlapping == [36, 0]
        assert page.locator(".tracing-mark.tracing-state-open").count() == 15
        line = page.get_by_role("link", name="a calls b: 1 calls, 100 % failed")
        line.focus()
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert page.locator("#tracing-calls tbody tr").count() == 1
        page.locator("#tracing-calls th a").click()
        page.wait_for_selector(".tracing-waterfall")
