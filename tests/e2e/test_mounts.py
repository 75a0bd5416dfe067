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
ADMIN = {"traces": "/admin/django_tracing/trace/", "rules": "/admin/django_tracing/samplingrule/"}
PLAIN = {"traces": "/tracing/", "rules": "/tracing/rules/"}

#: What a finger cannot hit: controls of this app's pages that are less than 32 pixels high.
SMALL_TARGETS = """() => Array.from(document.querySelectorAll(
    ".tracing button, .tracing select, .tracing input:not([type=hidden], [type=checkbox]), .tracing-tabs a, .tracing-searches a"
)).filter((target) => { const { height } = target.getBoundingClientRect(); return height > 0 && height < 32; })
  .map((target) => target.outerHTML.slice(0, 100))"""


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


def addresses(mount: dict[str, str], rule: int) -> list[str]:
    first, second = f"{0xAAAA01:032x}", f"{0xAAAA02:032x}"
    admin = mount is ADMIN
    return [
        *(mount["traces"] + below for below in ("", "?min_duration=fast&limit=20", "?trace=what", "routes/", "map/")),
        f"{mount['traces']}map/calls/?caller=service-{LONG}&callee=postgresql {LONG}&kind=database",
        *(
            f"{mount['traces']}{first}/{below}"
            for below in ("", "sql/", f"spans/{2:016x}/", f"compare/?with={second}")
        ),
        *(mount["rules"] + below for below in ("", "add/", f"{rule}/{'change/' if admin else ''}")),
        # The admin's page to delete a rule is Django's own.
        *([] if admin else [f"{mount['rules']}{rule}/delete/"]),
        f"{mount['rules']}preview/?operation=request&path=/x",
        mount["rules"].replace("samplingrule", "processstatus").replace("rules", "status"),
    ]


def test_pages_fit_on_a_phone(page: Any, site: str) -> None:
    rule = SamplingRule.objects.get().pk
    faults: list[str] = []
    page.set_viewport_size({"width": 390, "height": 700})
    for address in (*addresses(ADMIN, rule), *addresses(PLAIN, rule)):
        page.goto(site + address)
        for width in (320, 390):
            page.set_viewport_size({"width": width, "height": 700})
            found = page.evaluate(SMALL_TARGETS)
            shown = page.evaluate("document.scrollingElement.scrollWidth")
            if shown > width:
                found.append(f"{shown} pixels at {width}")
            faults += [f"{address.replace(LONG, 'LONG')}: {fault}" for fault in found]
    assert "\n".join(faults) == ""
    # The search waits in a drawer, and the list has no columns.
    page.goto(f"{site}{PLAIN['traces']}?service=a&operation=b")
    assert not page.is_visible("#id_operation")
    assert page.inner_text(".tracing-drawer > summary").split() == ["Filters", "2"]
    page.click(".tracing-drawer > summary")
    page.fill("#id_operation", "")
    page.select_option("#id_service", "")
    with page.expect_navigation():
        page.click("[value=Search]")
    name, duration = (
        page.locator(f".tracing-list tbody tr >> nth=0 >> {cell}").bounding_box() for cell in ("th", ".tracing-took")
    )
    assert duration["y"] >= name["y"] + name["height"]
    page.set_viewport_size({"width": 1280, "height": 900})
    # A script opens the drawer, when the browser tells it of the width.
    page.wait_for_selector("#id_operation", state="visible")


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
