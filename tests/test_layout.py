"""Test the layout of the package: the docstring and the length of modules, and state in globals."""

from __future__ import annotations

import ast
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

from django_tracing import instrumentation
from django_tracing.conf.table import OUR_INSTRUMENTATIONS

ROOT = Path(__file__).parent.parent / "django_tracing"
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if path.read_text().strip()]
#: Longer ones hold two trades: split them.
MOST_LINES = 550
#: State is the runtime's: see ``spans/runtime.py``, whose ``use`` swaps it as a whole.
SWAPS_STATE = {"spans/runtime.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_at_most_550_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", [path for path in MODULES if "migrations" not in path.parts], ids=name_of)
def test_the_first_line_of_a_module_names_its_trade(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring is not None
    first = docstring.splitlines()[0]
    assert first.endswith(".") and len(first) <= 120, first


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_keeps_state_of_its_own_in_globals(path: Path) -> None:
    found = [node.names for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Global)]
    assert name_of(path) in SWAPS_STATE or found == []


@pytest.mark.parametrize("name", OUR_INSTRUMENTATIONS)
def test_each_instrumentation_has_a_module_with_the_three_functions(name: str) -> None:
    module = import_module(instrumentation._MODULES[name])
    assert {"is_available", "install", "uninstall"} <= set(module.__all__)


def test_the_contract_of_pages_names_each_page() -> None:
    setup = ConfigParser()
    setup.read(ROOT.parent / "setup.cfg")
    named = setup["importlinter:contract:pages"]["modules"].split()
    pages = [path for path in (ROOT / "pages").glob("*.py") if "\ndef page(" in path.read_text()]
    # It stands in for a page whose table is missing.
    pages.remove(ROOT / "pages" / "unmigrated.py")
    assert sorted(named) == sorted(f"django_tracing.pages.{path.stem}" for path in pages)
