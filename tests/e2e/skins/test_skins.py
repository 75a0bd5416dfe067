"""Themes of the admin show each page: complete, readable in light and dark, and not wider than the screen."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.e2e.browser import chromium, needs_chromium, sign_in, watched_page
from tests.e2e.processes import ROOT, Process, environment
from tests.pages.helpers import repeated
from tests.traces.builders import blueprint_trace, row

pytest.importorskip("grappelli", reason="needs make skins")

pytestmark = needs_chromium

TRACES = "/admin/django_tracing/trace/"
RULES = "/admin/django_tracing/samplingrule/"
TRACE, OTHER = f"{5:032x}", f"{6:032x}"
#: The pages whose whole content is this app's, and those around a form or a list of Django's.
OWN = [
    *(f"{TRACES}{below}" for below in ("", "?min_duration=fast&limit=20", "routes/", "map/")),
    f"{TRACES}map/calls/?caller=shop&callee=postgresql&kind=database",
    *(f"{TRACES}{TRACE}/{below}" for below in ("", "sql/", f"spans/{4:016x}/", f"compare/?with={OTHER}")),
    f"{RULES}preview/?operation=request&path=/x",
    "/admin/django_tracing/processstatus/",
]
AROUND = [RULES, f"{RULES}add/", f"{RULES}1/change/"]

#: The least contrast of each text, and of each field's border or background with what is around it, by WCAG's formula.
LEAST = """([texts, fields]) => {
  const parse = (color) => {
    const context = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return Array.from(context.getImageData(0, 0, 1, 1).data);
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, a] = parse(getComputedStyle(each).backgroundColor);
      if (a > 250) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const light = (color) => color.slice(0, 3).map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
  const contrast = (one, other) => {
    const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const seen = (element) => element.getBoundingClientRect().height > 4;
  const name = (element) => `${element.outerHTML.slice(0, 90)} on ${behind(element)}`;
  const faults = [];
  document.querySelectorAll(`${texts} :is(p, td, th, dt, dd, a, button, label, h1, h2, summary, span, code, pre)`).forEach((element) => {
    const text = Array.from(element.childNodes).some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !seen(element) || element.disabled) return;
    const found = contrast(parse(getComputedStyle(element).color), behind(element));
    if (found < 3) faults.push(`text of contrast ${found.toFixed(1)}: ${name(element)}`);
  });
  document.querySelectorAll(`${fields} :is(select, textarea, input:not([type=hidden], [type=submit], [type=button], [type=checkbox]))`).forEach((field) => {
    if (!seen(field) || field.disabled) return;
    const style = getComputedStyle(field);
    const around = behind(field.parentElement);
    const border = parseFloat(style.borderTopWidth) > 0 ? contrast(parse(style.borderTopColor), around) : 1;
    const found = Math.max(border, contrast(behind(field), around));
    if (found < 1.2) faults.push(`field of contrast ${found.toFixed(2)}: ${name(field)}`);
    if (contrast(parse(style.color), behind(field)) < 3) faults.push(`text of a field: ${name(field)}`);
  });
  return faults;
}"""


class Site(NamedTuple):
    skin: str
    url: str


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module", params=["django", "unfold", "grappelli", "jazzmin"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    variables = {
        "DJANGO_SETTINGS_MODULE": "tests.e2e.skins.site",
        "SKIN": request.param,
        "SITE_DATABASE": str(folder / "site.sqlite3"),
        "SITE_STORE": str(folder / "traces.sqlite3"),
        "DJANGO_SUPERUSER_PASSWORD": "secret",
    }
    for command in (["migrate", "-v0"], ["createsuperuser", "--noinput", "--username=root", "--email=a@b.example"]):
        subprocess.run(
            [sys.executable, "-m", "django", *command],
            env=environment(**variables),
            cwd=ROOT,
            check=True,
            timeout=120,
        )
    with contextlib.closing(sqlite3.connect(folder / "site.sqlite3")) as database, database:
        columns = "method, service, user_id, subscription, header_name, header_value, operation"
        database.execute(
            f'INSERT INTO django_tracing_samplingrule (name, "order", enabled, path, rate, updated, {columns})'  # noqa: S608
            "VALUES ('Checkout', 10, 1, '/checkout/*', 5, '2026-01-01', '', '', '', '', '', '', '')"
        )
    fill(folder / "traces.sqlite3")
    server = [sys.executable, "-m", "django", "runserver", "127.0.0.1:{port}", "--noreload", "--insecure"]
    with Process(server, ready=None, **variables) as process:
        process.wait_for_port()
        yield Site(request.param, process.url)


def fill(path: Path) -> None:
    failed = {"exception.type": "ValueError", "exception.message": "no", "exception.stacktrace": "Traceback"}
    event = {"name": "exception", "time": 10**18, "attributes": failed}
    store = LocalStore(path)
    store.write(blueprint_trace())
    for trace in (TRACE, OTHER):
        spans = repeated(12)
        spans.append(row(5, 4, 1, "view.x", status="error", events=[event], attributes={"user.id": "7"}))
        store.write([{**span, "trace_id": trace} for span in spans])
    store.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_page_is_complete_and_readable(site: Site, browser: Any, scheme: str) -> None:
    faults = []
    with watched_page(browser, color_scheme=scheme) as page:
        sign_in(page, f"{site.url}/admin/login/?next={TRACES}", "root", "secret")
        for address in (*OWN, *AROUND):
            page.goto(site.url + address)
            own = address in OWN
            assert page.locator(".tracing-tabs").first.is_visible(), address
            assert not own or page.locator("h1.tracing-title").is_visible(), address
            # Colors may still change from one to the other.
            page.wait_for_function("document.getAnimations().every((each) => each.playState !== 'running')")
            found = page.evaluate(
                LEAST, ["#content-main.tracing"] * 2 if own else [".tracing-kept-now", ".tracing-admin"]
            )
            faults += [f"{address}: {fault}" for fault in found]
    assert "\n".join(faults) == ""


def test_no_page_is_wider_than_a_phone(site: Site, browser: Any) -> None:
    faults = []
    with watched_page(browser, viewport={"width": 390, "height": 800}) as page:
        sign_in(page, f"{site.url}/admin/login/?next={TRACES}", "root", "secret")
        for address in (*OWN, *AROUND):
            page.goto(site.url + address)
            for width in (320, 390):
                page.set_viewport_size({"width": width, "height": 800})
                shown = page.evaluate("document.scrollingElement.scrollWidth")
                if shown > width:
                    faults.append(f"{address}: {shown} pixels at {width}")
    assert "\n".join(faults) == ""


def test_controls_work(site: Site, browser: Any) -> None:
    with watched_page(browser) as page:
        sign_in(page, f"{site.url}/admin/login/?next={TRACES}{TRACE}/", "root", "secret")
        rows = page.locator(".tracing-waterfall tbody tr:visible")
        before = rows.count()
        page.click("text=Expand all")
        assert rows.count() == before + 12
        copy = page.locator(".tracing-copy").first.bounding_box()
        assert copy["width"] > 30, "its word must fit"
        page.click("text=view.x >> nth=0")
        page.wait_for_selector("text=ValueError")
        page.goto(f"{site.url}{RULES}1/change/")
        page.fill("[name=name]", "Checkout and cart")
        with page.expect_navigation():
            page.click("[name=_save] >> visible=true")
        assert "Checkout and cart" in page.inner_text("#result_list")
