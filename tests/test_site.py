"""Tests of the documentation site, as ``make docs`` builds it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

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
