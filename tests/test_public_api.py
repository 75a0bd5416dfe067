"""Test that docs/api.md, ``__all__`` and the importable names agree."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter

import django_tracing
from django_tracing.exceptions import TracingError
from tests.export.builders import make_spans
from tests.test_docs_examples import examples, run

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "django_tracing"
API = (ROOT / "docs" / "api.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if "migrations" not in path.parts
]
#: Private modules with public names: where they are is historical or Django's choice.
PARTLY_PUBLIC = {"django_tracing.conf.values", "django_tracing.provider", "django_tracing.debug_toolbar"}


def public_names() -> dict[str, set[str]]:
    """Module -> its public names, as the table of docs/api.md lists them."""
    table = API.partition("## What is public")[2].partition("\n\nThe following")[0]
    rows = re.findall(r"^\| `(django_tracing[\w.]*)` \| (.+?) \| ", table, re.MULTILINE)
    names = {module: set(re.findall(r"`(\w+)`", text)) for module, text in rows}
    names["django_tracing"] |= set(re.findall(r"^### (\w+)$", API, re.MULTILINE))
    return names


def source_of(module: str) -> ast.Module:
    path = ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text())


def imported(module: str) -> ModuleType:
    return importlib.import_module(module)


@pytest.mark.parametrize("module", MODULES)
def test_every_name_in_all_exists(module: str) -> None:
    home = imported(module)
    names = getattr(home, "__all__", [])
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(home, name), name


@pytest.mark.parametrize("module", MODULES)
def test_all_lists_what_other_modules_may_use(module: str) -> None:
    """Functions and classes without an underscore are in ``__all__``; those with one stay in their module."""
    tree = source_of(module)
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    is_command = ".commands." in module
    assert is_command or defined <= set(getattr(imported(module), "__all__", []))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("django_tracing"):
            private = [each.name for each in node.names if each.name.startswith("_") and each.name != "__version__"]
            assert private == [], f"{node.module} has them for itself"


@pytest.mark.parametrize("module", public_names())
def test_the_page_lists_the_names_of_each_public_module(module: str) -> None:
    home, listed = imported(module), public_names()[module]
    # Only where pytest runs.
    listed -= {"spans"} if module == "django_tracing.testing" else set()
    for name in listed:
        assert hasattr(home, name), name
    if module not in PARTLY_PUBLIC and module != "django_tracing.urls":
        assert listed == set(home.__all__)


def test_the_top_package_s_names_can_be_imported() -> None:
    names: dict[str, Any] = {}
    exec("from django_tracing import *", names)
    assert set(django_tracing.__all__) <= set(names)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = django_tracing.nothing  # type: ignore[attr-defined]


def imports_of_pages() -> Iterator[tuple[str, str, str]]:
    """Page, module and name of every import, and of every dotted path, in the documentation."""
    former = set(re.findall(r"^\| `(django_tracing[\w.]+)` \| `django_tracing", API, re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        where = page.relative_to(ROOT).as_posix()
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("django_tracing"):
                    for each in node.names:
                        yield where, str(node.module), each.name
        for path in set(re.findall(r"`\"?(django_tracing(?:\.\w+)+)(?:\(\))?\"?`", text)) - former:
            parent, _, name = path.rpartition(".")
            # A check's id, or the app's model.
            if re.fullmatch(r"[EW]\d{3}", name) or (parent == "django_tracing" and f"{path}" not in MODULES):
                continue
            yield where, *((path, "") if path in MODULES else (parent, name))


@pytest.mark.parametrize(("page", "module", "name"), sorted(set(imports_of_pages())))
def test_every_import_of_the_documentation_works_and_is_public(page: str, module: str, name: str) -> None:
    home = imported(module)
    if not name:
        return  # a page may name a private module, such as one that changes in any version
    assert hasattr(home, name)
    if page in ("docs/architecture.md", "docs/contributing.md"):
        return  # they describe the private modules
    public = public_names()
    assert name in public.get(module, set()), "list it in docs/api.md"


def test_former_names_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| `(django_tracing[\w.]+)` \| `(django_tracing[\w.]+)` \| ([\d.]+) \|$", API, re.MULTILINE)
    assert rows
    for former, today, version in rows:
        module, _, name = former.rpartition(".")
        with pytest.warns(DeprecationWarning, match=rf"removed in django-tracing-otel {version}\. Use {today}\."):
            found = getattr(imported(module), name)
        home, _, today_name = today.rpartition(".")
        assert found is getattr(imported(home), today_name)
    used = [
        path
        for path in PACKAGE.rglob("*.py")
        if "resolve_former_name(" in path.read_text() and path.name != "deprecation.py"
    ]
    assert len(used) == len({former.rpartition(".")[0] for former, _, _ in rows}), "each is on the page"


def test_every_exception_has_the_base_class() -> None:
    home = imported("django_tracing.exceptions")
    kinds = [getattr(home, name) for name in home.__all__ if name != "ExportReason"]
    assert all(issubclass(kind, TracingError) for kind in kinds)
    defined = [
        f"{module}.{node.name}"
        for module in MODULES
        if module != "django_tracing.exceptions"
        for node in ast.walk(source_of(module))
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    ]
    public = {f"{module}.{name}" for module, names in public_names().items() for name in names}
    assert not set(defined) & public


def test_the_exporter_of_the_page(tmp_path: Path, settings: Any) -> None:
    _, source = examples("docs/api.md")
    exporter_class = run(source)["FileExporter"]
    from django_tracing.conf.loading import load

    loaded = load({"LOCAL_STORE": str(tmp_path / "traces.sqlite3")}, {})
    exporter: SpanExporter = exporter_class(loaded)
    exporter.export(make_spans(2))
    assert len((tmp_path / "traces.jsonl").read_text().splitlines()) == 2


def test_all_modules_of_the_package_are_tested() -> None:
    found = {
        module.name
        for module in pkgutil.walk_packages([str(PACKAGE)], "django_tracing.")
        if ".migrations" not in module.name
    }
    assert found <= set(MODULES)
