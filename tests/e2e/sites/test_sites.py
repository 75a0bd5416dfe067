"""Real sites answer traced as they do untraced, and their spans have names and parents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent.parent

SITES = [
    pytest.param(site, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed"))
    for site, package in (
        ("wagtail_site", "wagtail"),
        ("cms_site", "cms"),
        ("oscar_site", "oscar"),
        ("api_site", "strawberry"),
    )
]


def ask(site: str, how: str) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "DJANGO_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.sites.ask", site, how],
        cwd=ROOT,
        # Wagtail puts sets of class names into its pages.
        env={**environment, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("site", SITES)
def test_a_real_site(site: str) -> None:
    pages = import_module(f"tests.e2e.sites.{site}").PAGES
    traced, untraced = ask(site, "traced"), ask(site, "untraced")
    assert traced["answers"] == untraced["answers"]
    names = []
    for spans in traced["spans"]:
        requests = [span for span in spans if span[1] == "SERVER"]
        names.append(requests[0][0] if requests else None)
        # One trace, in which each span has its parent.
        assert len({span[2] for span in spans}) == len(requests) <= 1
        known = {span[3] for span in spans}
        assert [span[0] for span in spans if span[4] is not None and span[4] not in known] == []
    assert list(zip([page[0] for page in pages], names, strict=True)) == [(page[0], page[2]) for page in pages]
