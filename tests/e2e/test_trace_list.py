"""The list of traces in a real browser: a span of time, the box for an id, and bars that can be compared."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.e2e.browser import needs_chromium, sign_in, watched_page
from tests.traces.builders import row

pytestmark = [needs_chromium, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def minutes(store: LocalStore) -> None:
    # A trace a minute, half an hour ago: 10 traces.
    start = (time.time_ns() // 10**9 - 1800) * 10**9
    store.write(
        [row(0x100 + each, 1, 0, f"GET /{each}", base=start + each * 60 * 10**9, took=2**each) for each in range(10)]
    )


def shown(page: Any) -> list[str]:
    return [text.removeprefix("GET /") for text in page.locator(".tracing-list tbody th a").all_inner_texts()]


def drag(page: Any, begin: float, end: float) -> None:
    """Drag over the plot, from and to a part of the time that it shows."""
    box = page.locator(".tracing-plot").bounding_box()

    def x(part: float) -> float:
        # The view box is 1000 wide, and the time goes from 60 to 990.
        return float(box["x"] + box["width"] * (60 + 930 * part) / 1000)

    middle = box["y"] + box["height"] / 2
    page.mouse.move(x(begin), middle)
    page.mouse.down()
    page.mouse.move(x((begin + end) / 2), middle)
    page.mouse.move(x(end), middle)


def test_dragging_over_the_plot_shows_this_span_of_time(traces_page: Any, traces_site: str) -> None:
    assert shown(traces_page) == list("9876543210")
    drag(traces_page, 2.5 / 9, 5.5 / 9)
    assert traces_page.locator(".tracing-brush").count() == 1
    with traces_page.expect_navigation():
        traces_page.mouse.up()
    assert shown(traces_page) == list("543")
    query = parse_qs(urlsplit(traces_page.url).query)
    assert set(query) == {"start", "end"}
    # The fields have the same time, and can be sent by the keyboard.
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})?", traces_page.input_value("#id_start"))
    with traces_page.expect_navigation():
        traces_page.press("#id_end", "Enter")
    again = parse_qs(urlsplit(traces_page.url).query)
    assert (again["start"], again["end"]) == (query["start"], query["end"])
    # Backward, and within the span that is shown.
    drag(traces_page, 1.0, 0.4)
    with traces_page.expect_navigation():
        traces_page.mouse.up()
    assert shown(traces_page) == list("54")
    with traces_page.expect_navigation():
        traces_page.click("text=Show all times")
    assert shown(traces_page) == list("9876543210")


def test_a_drag_that_is_given_up_changes_nothing(traces_page: Any, traces_site: str) -> None:
    drag(traces_page, 0.2, 0.6)
    traces_page.keyboard.press("Escape")
    assert traces_page.locator(".tracing-brush").count() == 0
    traces_page.mouse.up()
    assert traces_page.url == traces_site


def test_a_click_on_a_dot_still_opens_its_trace(traces_page: Any) -> None:
    with traces_page.expect_navigation():
        traces_page.locator(".tracing-dot").nth(3).click()
    traces_page.wait_for_selector(".tracing-waterfall")


def test_a_drag_that_begins_and_ends_on_dots_opens_no_trace(traces_page: Any) -> None:
    first, last = (traces_page.locator(".tracing-dot").nth(number).bounding_box() for number in (7, 3))
    traces_page.mouse.move(first["x"] + 3, first["y"] + 3)
    traces_page.mouse.down()
    traces_page.mouse.move(last["x"] - 20, last["y"] + 3)
    traces_page.mouse.move(last["x"] + 3, last["y"] + 3)
    with traces_page.expect_navigation():
        traces_page.mouse.up()
    assert "start=" in traces_page.url
    assert set("345") <= set(shown(traces_page)) <= set("234567")


def test_bars_begin_at_one_edge(traces_page: Any) -> None:
    edges = traces_page.evaluate(
        "Array.from(document.querySelectorAll('.tracing-mini'), (bar) => bar.getBoundingClientRect().left)"
    )
    assert len(edges) == 10
    assert max(edges) - min(edges) < 0.5


def test_pasting_an_id(traces_page: Any) -> None:
    traces_page.fill("#tracing-trace-id", f" trace={0x103:032x}")
    with traces_page.expect_navigation():
        traces_page.press("#tracing-trace-id", "Enter")
    traces_page.wait_for_selector(".tracing-waterfall")
    assert "GET /3" in traces_page.inner_text("h1")


def test_ages_grow_while_the_page_is_open(traces_page: Any) -> None:
    traces_page.clock.install()
    traces_page.reload()
    shown = traces_page.locator("time[data-age]").first
    before = int(shown.inner_text().split()[0])
    traces_page.clock.fast_forward("03:00")
    assert before + 3 <= int(shown.inner_text().split()[0]) <= before + 5


def test_times_are_fields_without_scripts(browser: Any, traces_site: str) -> None:
    with watched_page(browser, java_script_enabled=False) as page:
        sign_in(
            page,
            f"{traces_site.partition('/admin/')[0]}/admin/login/?next=/admin/django_tracing/trace/",
            "root",
            "secret",
        )
        # Without a time zone of the browser, times are the server's.
        moment = page.locator(".tracing-list time.tracing-sub").nth(4).inner_text()
        page.fill("#id_start", moment)
        page.press("#id_start", "Enter")
        page.wait_for_url("**start=**")
        assert shown(page) == list("98765")
        assert not page.locator(".tracing-hint").is_visible()
