"""The page of one trace in a real browser: colors, the width of the names, zoom, and what can be copied."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.e2e.browser import needs_chromium, sign_in, watched_page
from tests.traces.builders import row

pytestmark = [needs_chromium, pytest.mark.django_db(transaction=True)]

TRACE = f"{7:032x}"
STATEMENT = "SELECT *\nFROM items\nWHERE id = %s"


@pytest.fixture(autouse=True)
def trace(store: LocalStore) -> None:
    base = time.time_ns()
    sql = {"db.system": "postgresql", "db.statement": STATEMENT}
    request = {"http.method": "GET", "http.url": "https://x.test/items/7", "http.status_code": 200}
    store.write(
        [
            row(7, 1, 0, "GET /items/<int:pk>", base=base, took=100, kind="server", attributes=request),
            row(7, 2, 1, "db.select.items", base=base, start=10, took=20, kind="client", attributes=sql),
            row(7, 3, 1, "db.select.items", base=base, start=40, took=20, kind="client", attributes=sql),
            row(7, 4, 1, "http.get.billing", base=base, start=70, took=20, kind="client"),
            row(7, 5, 4, "GET /bill", base=base, start=72, took=10, kind="server", service="billing"),
        ]
    )


@pytest.fixture
def page(traces_page: Any, traces_site: str) -> Any:
    traces_page.goto(f"{traces_site}{TRACE}/")
    return traces_page


def fills(page: Any) -> list[str]:
    found: list[str] = page.evaluate(
        "Array.from(document.querySelectorAll('.tracing-bars path:first-child'), (bar) => getComputedStyle(bar).fill)"
    )
    return found


def names_width(page: Any) -> float:
    """The share of the column of names, in percent."""
    return float(
        page.evaluate(
            "100 * document.querySelector('.tracing-resized').getBoundingClientRect().width"
            " / document.querySelector('.tracing-waterfall').getBoundingClientRect().width"
        )
    )


def test_colors_switch_between_services_and_kinds(page: Any) -> None:
    by_service = fills(page)
    assert len(set(by_service)) == 2
    assert len(set(by_service[:4])) == 1
    page.click(".tracing-choice[data-color=kind]")
    by_kind = fills(page)
    assert len(set(by_kind)) == 3
    assert by_kind[1] == by_kind[2]
    assert not set(by_kind) & set(by_service), "the palettes share no color"
    assert page.get_attribute(".tracing-choice[data-color=kind]", "aria-current") == "true"
    assert page.get_attribute(".tracing-choice[data-color=service]", "aria-current") is None
    page.click(".tracing-choice[data-color=service]")
    assert fills(page) == by_service


def test_the_names_are_widened_by_the_mouse_and_stay_so(page: Any, traces_site: str) -> None:
    assert names_width(page) == pytest.approx(40, abs=1)
    handle, table = page.locator("#tracing-handle").bounding_box(), page.locator(".tracing-waterfall").bounding_box()
    page.mouse.move(handle["x"] + 4, handle["y"] + 8)
    page.mouse.down()
    page.mouse.move(table["x"] + table["width"] * 0.5, handle["y"] + 8)
    page.mouse.move(table["x"] + table["width"] * 0.6, handle["y"] + 8)
    page.mouse.up()
    assert names_width(page) == pytest.approx(60, abs=1)
    page.reload()
    assert names_width(page) == pytest.approx(60, abs=1)
    page.dblclick("#tracing-handle")
    assert names_width(page) == pytest.approx(40, abs=1)
    page.reload()
    assert names_width(page) == pytest.approx(40, abs=1)


def test_the_names_are_widened_by_the_keyboard(page: Any) -> None:
    handle = page.get_by_role("separator", name="Width of the names")
    handle.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert names_width(page) == pytest.approx(50, abs=1)
    assert handle.get_attribute("aria-valuenow") == "50"
    page.keyboard.press("ArrowLeft")
    assert names_width(page) == pytest.approx(45, abs=1)
    page.keyboard.press("End")
    assert names_width(page) == pytest.approx(80, abs=1)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Home")
    assert names_width(page) == pytest.approx(15, abs=1)
    page.reload()
    assert names_width(page) == pytest.approx(15, abs=1)


def test_a_width_that_is_no_number_is_not_used(page: Any) -> None:
    page.evaluate("localStorage.setItem('django-tracing-names', 'x')")
    page.reload()
    assert names_width(page) == pytest.approx(40, abs=1)


def test_zoom(page: Any) -> None:
    zoom = page.get_by_role("group", name="Zoom")
    labels = [button.inner_text() for button in zoom.get_by_role("button").all()]
    assert labels == ["−", "+"]
    assert zoom.get_by_role("button", name="Zoom out").is_disabled()
    zoom.get_by_role("button", name="Zoom in").click()
    assert page.inner_text("#tracing-zoomed") == "25.0 ms – 75.0 ms"
    # To move and to go back, once there is something to move.
    zoom.get_by_role("button", name="Move right").click()
    assert page.inner_text("#tracing-zoomed") == "50.0 ms – 100 ms"
    zoom.get_by_role("button", name="Move left").click()
    assert page.inner_text("#tracing-zoomed") == "25.0 ms – 75.0 ms"
    zoom.get_by_role("button", name="Show all").click()
    assert page.inner_text("#tracing-zoomed") == ""
    assert not zoom.get_by_role("button", name="Move left").is_visible()


def copied(page: Any) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_copying_ids_and_statements(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.locator(".tracing-ids .tracing-copy").first
    button.click()
    page.wait_for_function("document.querySelector('.tracing-ids .tracing-copy').textContent === '✓'")
    assert copied(page) == TRACE
    page.locator("tr[data-depth] a", has_text="db.select.items").first.click()
    page.locator(".tracing-detail .tracing-copy").click()
    page.wait_for_function("document.querySelector('.tracing-detail .tracing-copy').textContent === '✓'")
    assert copied(page) == f"{2:016x}"
    with page.expect_navigation():
        page.click(".tracing-views a >> nth=1")
    assert page.locator(".tracing-sql").all_inner_texts() == [STATEMENT]
    assert re.search(r"2\s+duplicate", page.inner_text(".tracing-statements"))
    page.locator(".tracing-statements .tracing-copy").click()
    page.wait_for_function("document.querySelector('.tracing-statements .tracing-copy').textContent === '✓'")
    assert copied(page) == STATEMENT


def test_copying_without_a_clipboard(page: Any) -> None:
    """On plain HTTP, browsers have no navigator.clipboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    page.locator(".tracing-ids .tracing-copy").first.click()
    page.wait_for_function("document.querySelector('.tracing-ids .tracing-copy').textContent === '✓'")
    page.evaluate("delete navigator.clipboard")
    assert copied(page) == TRACE


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("address", ["", "sql/"])
def test_nothing_but_tables_is_wider_than_the_screen(
    browser: Any, traces_site: str, width: int, address: str
) -> None:
    with watched_page(browser, viewport={"width": width, "height": 800}) as page:
        sign_in(page, traces_site.replace("django_tracing/trace/", "login/"), "root", "secret")
        page.goto(f"{traces_site}{TRACE}/{address}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_scripts(browser: Any, traces_site: str) -> None:
    with watched_page(browser, java_script_enabled=False) as page:
        sign_in(page, traces_site.replace("django_tracing/trace/", "login/"), "root", "secret")
        page.goto(f"{traces_site}{TRACE}/")
        for hidden in (".tracing-copy", ".tracing-scripted", "#tracing-handle"):
            assert not page.locator(hidden).first.is_visible(), hidden
        page.click(".tracing-choice[data-color=kind]")
        page.wait_for_url("**?color=kind")
        assert page.get_attribute(".tracing-colored", "data-color") == "kind"
        page.click(".tracing-views a >> nth=1")
        page.wait_for_url("**/sql/")
        assert page.locator(".tracing-sql").count() == 1
