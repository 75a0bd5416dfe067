"""Test the pages of traces in a real browser, with traces of real requests to the demo and in its admin."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.servers import free_port
from tests.e2e.browser import needs_chromium, sign_in, watched_page
from tests.e2e.processes import Process
from tests.jaegers import wait_until
from tests.traces.builders import row

pytestmark = needs_chromium

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
#: The number of spans of the longest trace that a page must show.
LONGEST = 10_000


class Site:
    """The demo, its store and the address of its admin."""

    def __init__(self, demo: Any, store: Path) -> None:
        self.demo = demo
        self.store = store
        self.traces = demo.start_admin()
        self.login = self.traces.replace("django_tracing/trace/", "login/")

    def write(self, rows: list[dict[str, Any]]) -> None:
        store = LocalStore(self.store)
        store.write(rows)
        store.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from example_project.demo import FLOWS, Demo

    store = tmp_path_factory.mktemp("store") / "traces.sqlite3"
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", os.environ["TEST_POSTGRES_URL"])
        patch.setenv("REDIS_URL", os.environ["TEST_REDIS_URL"])
        variables = {"DJANGO_SETTINGS_MODULE": "example_project.settings", "DEMO_LOCAL_STORE": str(store)}
        demo = Demo(stack, server="gunicorn", port=free_port(), environment=variables, write=lambda line: None)
        demo.start()
        demo.load(20)
        for flow in FLOWS:
            demo.send(flow)
        reader = LocalStore(store)
        wait_until(lambda: len(reader.search(limit=100)) >= 20 + len(FLOWS), "the demo's traces")
        wait_until(lambda: reader.search(operation="GET /internal/statistics"), "the last trace to be complete")
        yield Site(demo, store)


@contextlib.contextmanager
def signed_in(browser: Any, login: str, **context: Any) -> Iterator[Any]:
    """Yield a page with the list of traces for a user who may view it."""
    with watched_page(browser, **context) as page:
        sign_in(page, f"{login}?next=/admin/django_tracing/trace/", "demo", "demo")
        yield page


@pytest.fixture
def page(site: Site, browser: Any) -> Iterator[Any]:
    with signed_in(browser, site.login) as page:
        yield page


def follow(page: Any, what: Any) -> None:
    """Click on a link or a button, and wait until the next page and its script are loaded."""
    with page.expect_navigation():
        (page.locator(what).first if isinstance(what, str) else what).click()


def enter(page: Any, field: str) -> None:
    """Submit a form with the keyboard, and wait like ``follow``."""
    with page.expect_navigation():
        page.press(field, "Enter")


def open_trace(page: Any, site: Site, operation: str) -> None:
    page.goto(f"{site.traces}?service=api-gateway&operation={operation}")
    follow(page, page.locator(".tracing-list th a").first)
    page.wait_for_selector(".tracing-waterfall")


def focused(page: Any) -> str:
    """Return the name of the span whose row has the focus."""
    name = page.evaluate("document.activeElement.querySelector('.tracing-name a, .tracing-name strong').textContent")
    return str(name)


# ----- The list


def test_from_the_list_to_a_trace(page: Any, site: Site) -> None:
    assert page.locator(".tracing-list tbody tr").count() >= 30
    follow(page, "text=Errors >> nth=0")
    assert (
        page.locator(".tracing-list tbody tr.tracing-bad").count() == page.locator(".tracing-list tbody tr").count()
    )
    follow(page, "text=Circuit breakers")
    assert {text.rsplit("/", 1)[1] for text in page.locator(".tracing-list tbody th a").all_inner_texts()} == {
        "generate",
        "validate",
    }
    assert set(page.locator(".tracing-route").all_inner_texts()) == {"/api/blueprints/<int:blueprint_id>/validate"}
    # With a dot of the plot.
    follow(page, page.locator(".tracing-dot-failed").first)
    page.wait_for_selector(".tracing-waterfall")
    assert page.locator("h1").inner_text().startswith("POST /api/iac/generate")
    assert page.locator(".tracing-name", has_text="circuit_breaker.iac-generator").count() == 1


def test_searching_with_the_form(page: Any, site: Site) -> None:
    page.select_option("#id_service", "blueprint-service")
    follow(page, "[value=Search]")
    # Empty fields are not in the address.
    assert page.url.endswith("?service=blueprint-service")
    page.fill("#id_operation", "GET /internal/statistics")
    enter(page, "#id_operation")
    assert set(page.locator(".tracing-list tbody th a").all_inner_texts()) == {"GET /api/reports"}
    page.click("summary:has-text('More')")
    page.fill("#id_max_duration", "fast")
    enter(page, "#id_max_duration")
    assert "Enter a duration with its unit" in page.inner_text(".tracing-field-max_duration")


def test_new_traces_are_added_automatically(page: Any, site: Site) -> None:
    from example_project.demo import FLOWS

    boom = next(flow for flow in FLOWS if flow.path == "/api/boom")
    page.goto(f"{site.traces}?operation=GET /api/boom")
    before = page.locator(".tracing-list tbody tr").count()
    page.check("#tracing-live")
    page.locator(".tracing-list tbody th a").last.focus()
    site.demo.send(boom)
    page.locator(".tracing-list tbody tr").nth(before).wait_for()
    assert page.inner_text("#tracing-live-status") == "New traces were added."
    # The focused row keeps the focus, and the rest of the page doesn't move.
    assert page.evaluate("document.activeElement.innerText") == "GET /api/boom"
    assert page.is_checked("#tracing-live")


def test_times_are_in_the_users_time_zone(site: Site, browser: Any) -> None:
    with signed_in(browser, site.login, timezone_id="Asia/Tokyo") as page:
        shown = page.locator(".tracing-list tbody time.tracing-sub").first
        moment = datetime.fromisoformat(shown.get_attribute("datetime"))
        assert shown.inner_text() == moment.astimezone(timezone(timedelta(hours=9))).strftime("%Y-%m-%d %H:%M:%S")
        assert page.locator(".tracing-plot text").last.text_content() == shown.inner_text()
        # Searches use the same time zone.
        page.fill("#id_start", shown.inner_text())
        enter(page, "#id_start")
        assert re.search(r"start=\d{4}-\d\d-\d\dT\d\d%3A\d\d%3A\d\d", page.url)
        assert page.locator(".tracing-list tbody time.tracing-sub").first.inner_text() >= shown.inner_text()
        page.goto(f"{site.traces}?end={(moment - timedelta(hours=3)).strftime('%Y-%m-%dT%H:%M:%SZ')}")
        assert "No traces match this search." in page.inner_text("#tracing-results")


# ----- One trace


def test_a_waterfall_with_the_keyboard(page: Any, site: Site) -> None:
    open_trace(page, site, "GET /api/blueprints/owners")
    assert "N+1: the same query 12 times" in page.inner_text(".tracing-warning")
    # The line of code is shown because the demo enables CODE_LOCATIONS.
    assert "example_project/blueprints/views.py:" in page.inner_text(".tracing-warning")
    assert "in blueprint_owners" in page.inner_text(".tracing-warning")

    rows = page.locator(".tracing-waterfall tbody tr:visible")
    folded = rows.count()
    page.locator("#r0").focus()
    for key in ("ArrowDown", "ArrowUp", "End", "ArrowUp"):
        page.keyboard.press(key)
    assert focused(page) == "12 × db.select.customers"
    page.keyboard.press("ArrowRight")
    assert rows.count() == folded + 12
    page.keyboard.press("ArrowRight")
    assert focused(page) == "db.select.customers"
    page.keyboard.press("Enter")
    page.wait_for_selector(".tracing-detail")
    assert "db.operation" in page.inner_text(".tracing-detail")
    page.keyboard.press("Enter")
    assert page.locator(".tracing-detail").count() == 0
    page.keyboard.press("ArrowLeft")
    assert focused(page) == "12 × db.select.customers"
    page.keyboard.press("ArrowLeft")
    assert rows.count() == folded
    # Only one row at a time is in the tab order.
    assert page.locator(".tracing-waterfall tbody [tabindex='0']").count() == 1


def test_a_waterfall_with_the_mouse(page: Any, site: Site) -> None:
    open_trace(page, site, "GET /api/reports")
    rows = page.locator(".tracing-waterfall tbody tr:visible")
    everything = rows.count()
    assert everything >= 15
    page.click("text=Collapse all")
    assert rows.count() < everything
    page.click("text=Expand all")
    assert rows.count() == everything
    page.locator("#r0 .tracing-toggle").click()
    assert rows.count() == 1
    page.locator("#r0 .tracing-toggle").click()

    ticks = page.locator(".tracing-ticks span")
    whole = ticks.all_inner_texts()
    assert whole[0] == "0 ms"
    box = page.locator("#r0 .tracing-time").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 3 / 4, box["y"] + 5)
    page.mouse.up()
    assert ticks.all_inner_texts()[0] == whole[2], "the view must start at half of the trace"
    assert page.locator("#r0 .tracing-bars").get_attribute("viewBox").split()[2].startswith("25")
    page.click("text=Show all")
    assert ticks.all_inner_texts() == whole

    page.locator("text=http.get.blueprint-service").click()
    page.wait_for_selector(".tracing-detail")
    follow(page, page.locator(".tracing-detail dd a", has_text="blueprint-service").first)
    page.wait_for_selector(".tracing-list")
    assert page.input_value("#id_attributes") == "peer.service=blueprint-service"
    assert page.locator(".tracing-list tbody tr").count() > 1


def test_an_error_with_its_stack_trace(page: Any, site: Site) -> None:
    open_trace(page, site, "GET /api/boom")
    # The span in which it was raised: of those that failed, the innermost.
    page.locator("tr.tracing-bad .tracing-name a").last.click()
    page.wait_for_selector(".tracing-stack")
    stack = page.inner_text(".tracing-stack")
    assert "in boom" in stack
    assert "g***@example.com" in stack, "addresses are masked"


def test_downloads(page: Any, site: Site) -> None:
    open_trace(page, site, "GET /api/reports")
    for kind, key in (("OTLP", "resourceSpans"), ("Jaeger", "data")):
        with page.expect_download() as started:
            page.click(f"text=Download as {kind} JSON")
        assert key in json.loads(Path(started.value.path()).read_text())
        assert started.value.suggested_filename.endswith(f"-{kind.lower()}.json")


def test_comparing_two_traces(page: Any, site: Site) -> None:
    open_trace(page, site, "GET /api/reports")
    follow(page, "[value=Compare]")
    assert page.locator(".tracing-sides section").count() == 2
    left, right = (page.locator(".tracing-sides section").nth(side).bounding_box() for side in (0, 1))
    assert left["y"] == right["y"]
    assert right["x"] > left["x"] + 100
    assert "GET /internal/statistics" in page.inner_text("#tracing-differences")


def test_routes_and_the_map(page: Any, site: Site) -> None:
    follow(page, "text=Routes")
    follow(page, "#tracing-routes thead >> text=p95")
    slowest = page.locator("#tracing-routes tbody th").first.inner_text()
    follow(page, "#tracing-routes thead >> text=p95")
    assert page.locator("#tracing-routes tbody th").first.inner_text() != slowest
    follow(page, page.locator("#tracing-routes tbody a", has_text="GET /api/reports"))
    assert page.input_value("#id_operation") == "GET /api/reports"
    follow(page, "text=Service map")
    recorded = page.inner_text("#tracing-dependencies")
    assert re.search(r"api-gateway\s+iac-generator\s+circuit breaker: open\s+\d+\s+100 %", recorded)
    assert re.search(r"api-gateway\s+blueprint-service\s+service", recorded)
    assert page.locator(".tracing-map .tracing-box").count() >= 5
    assert page.locator(".tracing-mark.tracing-state-open").count() == 1
    page.get_by_role("link", name="circuit breaker iac-generator (open)").focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.locator("#tracing-calls tbody tr").count() >= 1
    page.go_back()
    page.locator(".tracing-map a:has(.tracing-box)").first.click()
    page.wait_for_selector(".tracing-list")


def test_a_trace_of_ten_thousand_spans(page: Any, site: Site) -> None:
    now = time.time_ns()
    site.write(
        [
            row(0x10000, 1, 0, "GET /long", base=now, took=LONGEST, kind="server"),
            *(row(0x10000, each, max(1, each // 20), f"step.{each}", base=now, start=each, took=2.5)
              for each in range(2, LONGEST + 1)),
        ]
    )  # fmt: skip
    page.goto(f"{site.traces}{0x10000:032x}/")
    rows = page.locator(".tracing-waterfall tbody tr")
    assert rows.count() == LONGEST
    assert page.evaluate("document.querySelectorAll('.tracing-waterfall tbody tr:not([hidden])').length") <= 500
    page.click("text=Expand all")
    assert page.evaluate("document.querySelectorAll('.tracing-waterfall tbody tr[hidden]').length") == 0
    page.locator("#r0").focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.wait_for_selector(".tracing-detail")


def test_content_of_requests_is_never_executed(page: Any, site: Site) -> None:
    """Anyone who sends requests or spans can set names, attributes and other fields."""
    evil = {
        "service": SCRIPT,
        "status": "error",
        "status_message": SCRIPT,
        "scope": SCRIPT,
        "attributes": {SCRIPT: SCRIPT, "db.system": SCRIPT, "db.statement": SCRIPT, "user.id": SCRIPT},
        "resource": {SCRIPT: SCRIPT},
        "events": [{"name": SCRIPT, "time": time.time_ns(), "attributes": {"exception.stacktrace": SCRIPT}}],
        "links": [{"trace_id": "ab" * 16, "span_id": "cd" * 8, "attributes": {SCRIPT: SCRIPT}}],
    }
    now = time.time_ns()
    site.write(
        [row(0xE000 + each, 1, 0, SCRIPT, base=now, kind="server", took=5, **evil) for each in range(2)]
        + [row(0xE000, 2 + each, 1, SCRIPT, base=now, start=each, kind="client", **evil) for each in range(6)]
    )
    trace = f"{site.traces}{0xE000:032x}/"
    for address in (
        *(
            site.traces,
            f"{site.traces}?service={SCRIPT}&operation={SCRIPT}&attributes={SCRIPT}",
            f"{site.traces}map/",
        ),
        *(
            f"{site.traces}routes/",
            f"{trace}spans/{1:016x}/",
            f"{trace}compare/?with={0xE001:032x}",
            f"{trace}sql/",
            trace,
        ),
    ):
        page.goto(address)
        assert "alert(1)" in page.inner_text("#content-main") or "?" in address
    page.locator("#r0 .tracing-name a").click()
    page.wait_for_selector(".tracing-detail")
    page.goto(site.traces)
    with page.expect_response(lambda answer: "part=results" in answer.url):
        page.check("#tracing-live")
    assert page.evaluate("document.querySelectorAll('#content-main script, #content-main img').length") == 0
    store = LocalStore(site.store)
    assert store.services()[0] == SCRIPT, "the script must be in the store"
    store.close()


# ----- Accessibility


def addresses(site: Site) -> list[str]:
    store = LocalStore(site.store)
    reports = store.search(service="api-gateway", operation="GET /api/reports", limit=2)
    owners = store.search(service="api-gateway", operation="GET /api/blueprints/owners", limit=1)
    boom = store.search(operation="GET /api/boom", limit=1)
    store.close()
    root = store_root = boom[0].trace_id
    trace = store_span(site, store_root)
    return [
        site.traces,
        f"{site.traces}?min_duration=fast&limit=20",
        f"{site.traces}{owners[0].trace_id}/",
        f"{site.traces}{owners[0].trace_id}/sql/",
        f"{site.traces}{root}/spans/{trace}/",
        f"{site.traces}{reports[0].trace_id}/compare/?with={reports[1].trace_id}",
        f"{site.traces}routes/",
        f"{site.traces}map/",
        f"{site.traces}map/calls/?caller=api-gateway&callee=blueprint-service&kind=service",
        site.traces.replace("/trace/", "/samplingrule/"),
        site.traces.replace("/trace/", "/samplingrule/preview/"),
        site.traces.replace("/trace/", "/processstatus/"),
    ]


def store_span(site: Site, trace_id: str) -> str:
    store = LocalStore(site.store)
    trace = store.trace(trace_id)
    store.close()
    assert trace is not None
    return trace.root.span_id


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(site: Site, browser: Any, scheme: str) -> None:
    """Check this app's part of the page with https://github.com/dequelabs/axe-core; the rest is Django's admin."""
    package = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    axe = (Path(package.__file__).parent / "axe.min.js").read_text()
    with signed_in(browser, site.login, color_scheme=scheme) as page:
        for address in addresses(site):
            page.goto(address)
            page.evaluate(axe)
            found = page.evaluate("axe.run('.tracing, .tracing-tabs, #content-main')")
            assert found["passes"], "it did look"
            serious = [
                f"{fault['id']}: {fault['help']}: {[node['html'][:160] for node in fault['nodes'][:3]]}"
                for fault in found["violations"]
                if fault["impact"] in ("serious", "critical")
            ]
            assert serious == [], address


def test_a_narrow_screen(site: Site, browser: Any) -> None:
    with signed_in(browser, site.login, viewport={"width": 390, "height": 800}) as page:
        for address in addresses(site):
            page.goto(address)
            # Wide content scrolls, not the page.
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, address


def test_without_scripts(site: Site, browser: Any) -> None:
    with signed_in(browser, site.login, java_script_enabled=False) as page:
        open_trace(page, site, "GET /api/reports")
        follow(page, page.locator(".tracing-name a").first)
        assert page.locator("dt", has_text="correlation.id").count() == 1
        page.goto(addresses(site)[2])
        visible = page.locator(".tracing-waterfall tbody tr:visible").count()
        page.click("text=Show folded rows")
        assert page.locator(".tracing-waterfall tbody tr:visible").count() == visible + 12


def test_under_unfold(site: Site, browser: Any, tmp_path: Path) -> None:
    """With a popular theme of the admin, the pages are complete, and dark in its dark mode."""
    pytest.importorskip("unfold", reason="needs django-unfold")
    variables = {
        "DJANGO_SETTINGS_MODULE": "tests.e2e.unfold_settings",
        "SERVICE_NAME": "admin",
        "DATABASE_URL": os.environ["TEST_POSTGRES_URL"],
        "REDIS_URL": os.environ["TEST_REDIS_URL"],
        "DEMO_LOCAL_STORE": str(site.store),
    }
    command = [sys.executable, "-m", "django", "runserver", "127.0.0.1:{port}", "--noreload", "--insecure"]
    with (
        Process(command, ready="/health", **variables) as server,
        signed_in(browser, f"{server.url}/admin/login/", color_scheme="dark") as page,
    ):
        assert "unfold" in page.content()
        assert page.locator(".tracing-list tbody tr").count() >= 30
        for address in addresses(site):
            page.goto(address.replace(site.traces, f"{server.url}/admin/django_tracing/trace/"))
            assert page.locator("#content-main").is_visible()
        page.goto(addresses(site)[2].replace(site.traces, f"{server.url}/admin/django_tracing/trace/"))
        bar = page.locator("#r0 .tracing-bars path").first
        assert (
            page.evaluate("element => getComputedStyle(element).fill", bar.element_handle()) == "rgb(220, 191, 253)"
        )


def test_the_response_headers_for_browser_tools(site: Site) -> None:
    """The demo's gateway sends the headers of RESPONSE_HEADERS."""
    request = urllib.request.Request(
        f"{site.demo.gateway}/api/reports", headers={"Authorization": "Bearer demo-token-of-grace"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        timing, context = answer.headers["Server-Timing"], answer.headers["traceresponse"]
    assert re.search(r"total;dur=[\d.]+", timing)
    assert "sql;dur=" in timing
    trace_id = context.split("-")[1]
    store = LocalStore(site.store)
    wait_until(lambda: store.trace(trace_id), "the trace that the header names")
    store.close()
