"""Test that only one module uses the SDK's private names, and what happens when a release of the SDK changes one."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import opentelemetry.context
import opentelemetry.sdk
import pytest
from opentelemetry.sdk.trace import SpanProcessor

from django_tracing.recording.sdk import ON_ENDING
from tests.e2e.processes import environment

PACKAGE = Path(__file__).parents[2] / "django_tracing"
SDK = PACKAGE / "recording" / "sdk.py"
SECRET = "correct-horse-9Q7z"


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[a-zA-Z][a-zA-Z0-9_]*", name) is not None


@cache
def names_of_opentelemetry() -> frozenset[str]:
    """Return all private names in the source of the API, the SDK and the base of the instrumentations."""
    root = Path(opentelemetry.context.__file__).parents[1]
    sources = [
        source
        for folder in ("attributes", "baggage", "context", "propagate", "propagators", "sdk", "trace", "util")
        for source in (root / folder).rglob("*.py")
    ]
    sources += (root / "instrumentation").glob("*.py")
    return frozenset(
        name
        for source in sources
        for name in re.findall(r"(?<!\w)_[a-zA-Z]\w*", source.read_text())
        if is_private(name)
    )


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


#: Django's private name of a URL pattern, which an object of OpenTelemetry's has, too.
OF_DJANGO = frozenset({"_regex"})
#: Modules that handle spans and providers of the SDK: their private names must differ from those of the SDK.
STRICT = ("provider.py", "recording/", "instrumentation/upstream/", "export/", "spans/", "testing/")


def used_in(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Yield the line and name of attributes, imports, methods and similar strings, and if it is an attribute of ``self``."""
    for found in ast.walk(tree):
        if isinstance(found, ast.Attribute):
            yield found.lineno, found.attr, is_self(found.value)
        elif isinstance(found, ast.Constant) and isinstance(found.value, str) and found.value.islower():
            yield found.lineno, found.value, False
        elif isinstance(found, ast.ImportFrom) and (found.module or "").startswith("opentelemetry"):
            for alias in found.names:
                for part in f"{found.module}.{alias.name}".split("."):
                    yield found.lineno, part, False
        elif isinstance(found, ast.ClassDef):
            for statement in found.body:
                if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield statement.lineno, statement.name, False


def own_names(tree: ast.AST) -> frozenset[str]:
    """Return the names of functions, classes, variables and attributes that a module defines."""
    own: set[str] = set()
    for found in ast.walk(tree):
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(found.name)
        elif isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store):
            own.add(found.id)
        elif isinstance(found, ast.Attribute) and isinstance(found.ctx, ast.Store) and is_self(found.value):
            own.add(found.attr)
    return frozenset(own)


@cache
def names_in_sdk() -> frozenset[str]:
    """Return the private names of OpenTelemetry that recording/sdk.py uses."""
    used = {name for _, name, _ in used_in(ast.parse(SDK.read_text())) if is_private(name)}
    return frozenset(used & names_of_opentelemetry())


def test_no_other_module_contains_a_private_name_of_opentelemetry() -> None:
    """A module may define the same name, unless it handles the SDK's objects."""
    found = []
    for module in sorted(PACKAGE.rglob("*.py")):
        place = module.relative_to(PACKAGE).as_posix()
        tree = ast.parse(module.read_text())
        own = own_names(tree)
        for line, name, of_self in used_in(tree) if module != SDK else ():
            strict = place.startswith(STRICT) and not of_self and name in names_in_sdk()
            if name in names_of_opentelemetry() - OF_DJANGO and (strict or name not in own):
                found.append(f"{place}:{line}: {name}")
    assert found == []


def test_no_other_module_imports_a_private_module_or_name_of_opentelemetry() -> None:
    found = [
        f"{module.relative_to(PACKAGE.parent)}:{node.lineno}"
        for module in sorted(PACKAGE.rglob("*.py"))
        if module != SDK
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [f"{getattr(node, 'module', '') or ''}.{alias.name}" for alias in node.names]
        if "opentelemetry" in name and any(map(is_private, name.split(".")))
    ]
    assert found == []


def traced_with(*names: str) -> Iterator[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("renamed_sdk.py")), SECRET, *names],
        env={key: value for key, value in environment().items() if key != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    yield from map(json.loads, done.stdout.splitlines())


@pytest.fixture(scope="module")
def renamed() -> list[dict[str, Any]]:
    """Return what a site sends when each of the private names is replaced, and when none is."""
    names = sorted(names_in_sdk())
    # The site's own provider, which has a processor before this app's, creates spans in the same way.
    foreign = ["", "_on_ending", "_attributes", "_immutable", "_events", "_span_processors", "_active_span_processor"]
    return list(traced_with("", *names, *(f"foreign:{name}" for name in foreign)))


def test_if_any_name_is_replaced_requests_are_traced_and_nothing_leaks(renamed: list[dict[str, Any]]) -> None:
    assert {"_attributes", "_events", "_span_processors"} < {one["name"] for one in renamed}
    for one in renamed:
        assert one.get("error") is None, one
        assert one["leaks"] == [], one
        assert (one["status"], one["flushed"], one["request"], one["other tracers"]) == (500, True, True, True), one


def test_replaced_names_have_the_expected_effect(renamed: list[dict[str, Any]]) -> None:
    by_name = {one["name"]: one for one in renamed}
    # Old SDKs don't call processors before a span ends.
    in_place = hasattr(SpanProcessor, ON_ENDING)
    works = {"own_spans": True, "redaction_in_place": in_place, "redaction_of_copies": True}
    assert by_name[""]["abilities"] == works
    for name in ("_on_ending", "_attributes", "_immutable", "_events", "_links", "_name", "_status", "_context"):
        abilities = by_name.get(name, {}).get("abilities", works)
        assert abilities["redaction_in_place"] is False or not in_place, name
        assert abilities["redaction_of_copies"] is True, name
    for name in ("_span_processors", "_span_limits", "_instrumentation_scope", "_lock", "_links"):
        assert by_name[name]["abilities"]["own_spans"] is False, name
        (line,) = [line for line in by_name[name]["log"] if "opentelemetry-sdk" in line]
        assert "requests are traced with the SDK's own spans" in line
    for name in ("", "_on_ending", "_immutable"):
        assert not any("opentelemetry-sdk" in line for line in by_name.get(name, works).get("log", ())), name
