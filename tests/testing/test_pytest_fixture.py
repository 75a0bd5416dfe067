"""Test the pytest fixture, and the examples of docs/testing.md."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from django.test import (
    Client,
)

from tests.e2e.processes import ROOT, environment
from tests.test_provider import run

client = Client(raise_request_exception=False)

# ----- pytest


def run_pytest(folder: Path, *arguments: str, **files: str) -> str:
    """Return pytest's output for test modules in a new project, with warnings as errors."""
    (folder / "pytest.ini").write_text(
        "[pytest]\nDJANGO_SETTINGS_MODULE = project_settings\nasyncio_mode = auto\n"
        "asyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    (folder / "project_settings.py").write_text('from tests.settings import *\nSTATIC_URL = "static/"\n')
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment(DJANGO_SETTINGS_MODULE="project_settings", TEST_POSTGRES_URL="sqlite:///:memory:"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


PLUGIN = 'pytest_plugins = ["django_tracing.testing"]\n'
TESTS = """
import pytest
from django.test import Client

@pytest.mark.parametrize("path", ["/empty/", "/async/"] * 4)
def test_apart(spans, path):
    Client().get(path)
    assert spans.names == ["GET " + path]

def test_nothing(spans):
    assert not spans

async def test_async(spans):
    from django_tracing.testing import capture_spans
    from django.test import AsyncClient
    async with capture_spans() as inner:
        await AsyncClient().get("/async/")
    assert inner.names == spans.names == ["GET /async/"]

@pytest.mark.django_db
def test_live(live_server, spans):
    from urllib.request import urlopen
    urlopen(live_server.url + "/empty/").close()
    assert "GET /empty/" in spans.names
"""


IMPORT = "from django_tracing.testing import spans\n"


@pytest.mark.parametrize("conftest", [PLUGIN, IMPORT, IMPORT + PLUGIN], ids=["plugin", "import", "both"])
def test_the_fixture(tmp_path: Path, conftest: str) -> None:
    assert "11 passed" in run_pytest(tmp_path, conftest=conftest, test_it=TESTS)


def test_the_fixture_under_xdist(tmp_path: Path) -> None:
    assert "11 passed" in run_pytest(tmp_path, "-n", "2", conftest=PLUGIN, test_it=TESTS)


def test_a_failing_test_shows_the_tree(tmp_path: Path) -> None:
    output = run_pytest(
        tmp_path,
        conftest=PLUGIN,
        test_it="""
        from django.test import Client
        from django_tracing import __version__
        from django_tracing.api.spans import create_span

        def test_count(spans):
            with create_span("checkout"):
                Client().get("/empty/")
            assert len(spans) == 3

        def test_find(spans):
            with create_span("checkout"):
                spans.find("chekout")
        """,
    )
    assert "2 failed" in output
    assert "where 2 = len(<2 spans: checkout [GET /empty/]>)" in output
    assert re.search(r"-- Captured spans teardown -+\ncheckout\n└─ GET /empty/  http\.status_code=200\n", output)
    assert "No span with the name 'chekout' among 0." in output
    assert "testing.py" not in output, "only lines of the test are shown"


def test_a_failing_unittest_shows_only_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import unittest, django\ndjango.setup()\n"
        "from django.test import SimpleTestCase\nfrom django_tracing.testing import CaptureSpansMixin\n"
        "class Tests(CaptureSpansMixin, SimpleTestCase):\n"
        "    def test_it(self):\n        self.client.get('/empty/')\n        self.spans.find('other')\n"
    )
    code = (
        "import sys, unittest\nfrom unittest import main\nmain(module='test_it')\nassert 'pytest' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(DJANGO_SETTINGS_MODULE="tests.settings"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "FAILED (failures=1)" in done.stderr
    assert (
        "AssertionError: No span with the name 'other' among 1.\n\nGET /empty/  http.status_code=200\n" in done.stderr
    )
    assert "testing.py" not in done.stderr


def test_pytest_is_not_needed() -> None:
    assert run(
        "import sys\nimport django_tracing.testing as t\nprint(json.dumps(['pytest' in sys.modules, hasattr(t, 'spans')]))"
    ) == [
        False,
        False,
    ]


def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    files = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page, re.DOTALL))
    assert len(files) == page.count("```python")
    output = run_pytest(tmp_path, **files)
    assert "8 passed" in output, output
