"""Compare the documentation with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import django_tracing
from django_tracing.conf.table import DEFAULT_INSTRUMENTATIONS
from django_tracing.instrumentation import OURS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the fragments that GitHub creates from the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} of {page.name}"
        if fragment:
            assert fragment in anchors(linked), f"{target} of {page.name}"


def test_every_public_name_has_its_heading() -> None:
    names = set(django_tracing.__all__) - {"__version__"}
    assert names <= set(re.findall(r"^### (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))


def test_every_command_has_its_page() -> None:
    commands = {path.stem for path in (ROOT / "django_tracing" / "management" / "commands").glob("[!_]*.py")}
    assert commands == {page.stem for page in PAGES if page.parent.name == "docs"} & commands
    readme = (ROOT / "README.md").read_text()
    assert all(f"docs/{command}.md" in readme for command in commands)


def test_every_instrumentation_of_this_app_is_in_the_index() -> None:
    index = (ROOT / "docs" / "instrumentations" / "index.md").read_text()
    assert set(OURS) == set(re.findall(r"^\| `(\w+)` \| ours", index, re.MULTILINE))


def test_the_default_instrumentations_are_those_of_the_index() -> None:
    index = (ROOT / "docs" / "instrumentations" / "index.md").read_text()
    [listed] = re.findall(r"^```python\n(\[.*?\])\n```$", index, re.MULTILINE | re.DOTALL)
    assert ast.literal_eval(listed) == list(DEFAULT_INSTRUMENTATIONS)


def test_the_architecture_has_every_package_and_module_at_the_top() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    first_cells = " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))
    documented = set(re.findall(r"`([\w/.]+)`", first_cells))
    package = ROOT / "django_tracing"
    found = {f"{path.name}/" for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    found |= {path.name for path in package.glob("*.py") if path.name != "__init__.py"}
    assert documented == found
