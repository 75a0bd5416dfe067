"""Tests of how the templates are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted((ROOT / "django_tracing" / "templates").rglob("*.html"))
TAG = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}")
ELEMENT = re.compile(r"<[a-z]")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_line_has_at_most_one_element(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert len(ELEMENT.findall(TAG.sub("", line))) <= 1, f"{path.name}:{number}: {line}"


def test_a_row_of_the_waterfall_has_no_indentation() -> None:
    # A trace has up to 10,000 rows, and each space of a row is sent with each of them.
    page = (ROOT / "django_tracing/templates/django_tracing/trace/trace.html").read_text()
    assert not re.findall(r"^[ \t]", page, re.MULTILINE)
