"""Tests of the documentation site, as ``make docs`` builds it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.e2e.browser import chromium, needs_chromium, watched_page

ROOT = Path(__file__).parent.parent
PARTS = ["Tutorial", "How-to guides", "Reference", "Reference: what is traced", "Explanation", "Project"]


class Page(HTMLParser):
    """The ids of a page, and the addresses that it links to or loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if identifier := attributes.get("id"):
            self.ids.add(identifier)
        for name in ("href", "src"):
            if target := attributes.get(name):
                self.targets.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx")
    output = tmp_path_factory.mktemp("site")
    # The command of the Makefile, with another folder.
    [command] = re.findall(
        r"^\t\$\(BIN\)/python (-m sphinx .*) docs docs/_build/html$", (ROOT / "Makefile").read_text(), re.M
    )
    assert "-W" in command.split()
    built = subprocess.run(
        [sys.executable, *command.split(), "-d", str(output / "doctrees"), "docs", str(output / "html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return output / "html"


def test_every_page_of_docs_is_a_page_of_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).exists()


def test_every_link_and_anchor_of_the_site_leads_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 30
    checked = 0
    for path, page in pages.items():
        for target in page.targets:
            address = urlsplit(target)
            if address.scheme or address.netloc:
                continue
            linked = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert linked.exists(), f"{target} of {path.relative_to(site)}"
            if address.fragment and linked in pages:
                assert unquote(address.fragment) in pages[linked].ids, f"{target} of {path.relative_to(site)}"
            checked += 1
    assert checked > 1_000


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not re.findall(
            r"<(?:script|img|iframe)[^>]+src=\"(?:https?:)?//|<link[^>]+stylesheet[^>]+//", path.read_text()
        )


def test_the_four_kinds_of_pages_are_apart(site: Path) -> None:
    captions = re.findall(
        r'<p class="caption"[^>]*><span class="caption-text">(.*?)</span>', (site / "index.html").read_text()
    )
    assert captions == PARTS


def test_a_page_is_found_by_the_words_in_it(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    found = json.loads(index[index.index("(") + 1 : index.rindex(")")])
    names = found["docnames"]
    pages = found["terms"]["select_rel"]
    assert "tutorial" in {names[page] for page in (pages if isinstance(pages, list) else [pages])}
    assert (site / "search.html").exists()


def test_a_picture_has_its_dark_twin(site: Path) -> None:
    page = (site / "traces.html").read_text()
    assert re.search(r'class="only-light" src="_images/list-light\.png"', page)
    assert re.search(r'class="only-dark" src="_images/list-dark\.png"', page)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a web server, as its readers use it."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(site))

        def log_message(self, format: str, *arguments: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@needs_chromium
def test_the_search_finds_a_page(address: str, browser: Any) -> None:
    with watched_page(browser) as page:
        page.goto(f"{address}/index.html")
        page.fill("input[name=q]", "select_related")
        page.press("input[name=q]", "Enter")
        # The sidebar has the link, too.
        page.locator("#search-results").get_by_role("link", name="Find out why a page is slow").wait_for()


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1000, 390])
def test_a_page_fits_the_window_and_shows_its_pictures(address: str, browser: Any, width: int, scheme: str) -> None:
    with watched_page(browser, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        for name in ("index", "tutorial", "settings", "redaction", "traces", "performance", "architecture"):
            page.goto(f"{address}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
            for picture in page.query_selector_all("article img"):
                if picture.is_visible():
                    assert picture.evaluate("image => image.complete && image.naturalWidth > 0"), name
                    assert f"-{'dark' if scheme == 'light' else 'light'}.png" not in picture.get_attribute("src")
