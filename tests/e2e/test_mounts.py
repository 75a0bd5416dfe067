"""The pages in a real browser, in the admin and without it: on a phone, and through every tab and the rules' forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from django_tracing.models import SamplingRule
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.e2e.browser import needs_chromium, sign_in, watched_page
from tests.traces.builders import row

pytestmark = [needs_chromium, pytest.mark.django_db(transaction=True)]

LABELS = ["Traces", "Routes", "Service map", "Sampling rules", "Status"]
#: Longer than a phone is wide, and without a place to break.
LONG = "x" * 120


@pytest.fixture
def site(traces_site: str, store: LocalStore) -> str:
    wide = {
        "service": f"service-{LONG}",
        "attributes": {LONG: LONG, "user.id": LONG, "db.statement": f"SELECT {LONG}"},
    }
    failed = {"name": "exception", "time": 0, "attributes": {"exception.type": LONG, "exception.stacktrace": LONG}}
    for trace in (0xAAAA01, 0xAAAA02):
        store.write(
            [
                row(trace, 1, 0, f"GET /{LONG}", kind="server", took=90, **wide),
                row(trace, 2, 1, f"db.select.{LONG}", kind="client", status="error", events=[failed], **wide),
                row(trace, 3, 1, kind="client", took=20, attributes={"db.system": "postgresql", "db.name": LONG}),
            ]
        )
    SamplingRule.objects.create(name="a" * 100, path=f"/{LONG}/*", method="POST", max_per_second=3, keep_errors=True)
    return traces_site.partition("/admin/")[0]


@pytest.fixture
def page(browser: Any, site: str) -> Iterator[Any]:
    with watched_page(browser) as page:
        sign_in(page, f"{site}/admin/login/?next=/tracing/", "root", "secret")
        yield page


def test_the_pages_without_the_admin(page: Any, site: str) -> None:
    for label in [*LABELS, *reversed(LABELS)]:
        with page.expect_navigation():
            page.locator(".tracing-tabs").get_by_text(label, exact=True).click()
        assert page.locator(".tracing-tabs a").all_inner_texts() == LABELS
        assert page.locator(".tracing-tabs [aria-current=page]").all_inner_texts() == [label]
        assert "/tracing/" in page.url

    page.click("text=Sampling rules")
    page.click("text=Add sampling rule")
    page.fill("#id_name", "second")
    page.fill("#id_valid_until", "2040-01-31T13:45")
    with page.expect_navigation():
        page.click("[value=Save]")
    assert "The rule “second” was saved." in page.inner_text("main")
    rows = page.locator("#result_list tbody tr")
    with page.expect_navigation():
        rows.nth(1).drag_to(rows.nth(0), source_position={"x": 5, "y": 8}, target_position={"x": 5, "y": 2})
    assert rows.first.locator("th").inner_text() == "second"
    rows.first.locator("th a").click()
    page.click("text=Delete")
    with page.expect_navigation():
        page.click("[value=Delete]")
    assert rows.count() == 1

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        text, background = page.evaluate(
            "['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name].match(/[0-9]+/g)[0])"
        )
        assert (int(text) < int(background)) == (scheme == "light")
