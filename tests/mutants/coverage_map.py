"""Find the tests that run a line of the app."""

from __future__ import annotations

import ast
import difflib
import json
import os
import subprocess
import sys
from collections import defaultdict
from functools import cache, lru_cache
from pathlib import Path
from typing import TypeGuard

import coverage

from tests.mutants.modules import APP, FOLDER, ROOT, SELECTION

CONFIGURATION = Path(__file__).with_name("coverage.cfg")


def measure(tests: list[str], processes: int) -> None:
    """Run ``tests`` (files or folders) once, and store which test runs which line, beside what is known of others."""
    FOLDER.mkdir(exist_ok=True)
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(APP.rglob("*.py"))}
    times, stored = FOLDER / "times.json", FOLDER / "sources.json"
    known: dict[str, float] = {}
    if times.exists():
        known = json.loads(times.read_text())
        _move_lines(json.loads(stored.read_text()), sources)
    stored.write_text(json.dumps(sources))
    environment = {
        **os.environ,
        "MUTANTS_DATA": str(FOLDER),
        "MUTANTS_TEST": "",
        "COVERAGE_PROCESS_START": str(CONFIGURATION),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).with_name('every_process')}",
    }
    parallel = [f"-n{processes}", "--dist=loadfile"] if processes > 1 else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.measuring", *parallel, *SELECTION, *tests]
    subprocess.run(command, cwd=ROOT, env=environment)
    new = FOLDER / "new_times.json"
    if not new.exists():
        raise SystemExit("The tests could not be run.")
    times.write_text(json.dumps(known | json.loads(new.read_text())))
    new.unlink()
    os.environ["MUTANTS_DATA"] = str(FOLDER)
    combined = coverage.Coverage(config_file=str(CONFIGURATION))
    combined.load()
    combined.combine()
    combined.save()


def _move_lines(old: dict[str, str], new: dict[str, str]) -> None:
    """Change what was measured to the lines where the same code is now."""
    data = coverage.CoverageData(str(FOLDER / "coverage"))
    data.read()
    for path in data.measured_files():
        file = str(Path(path).relative_to(ROOT))
        if old.get(file) == new.get(file):
            continue
        places = _lines_now(old.get(file, ""), new.get(file, ""))
        moved: dict[str, list[int]] = defaultdict(list)
        for line, tests in data.contexts_by_lineno(path).items():
            for test in tests:
                if line in places:
                    moved[test].append(places[line])
        data.purge_files([path])
        for test, lines in moved.items():
            data.set_context(test)
            data.add_lines({path: lines})
    data.write()


class CoverageMap:
    """Which test runs which line, and how long it takes. Lines that changed since are found by what is around them."""

    def __init__(self) -> None:
        self._data = coverage.CoverageData(str(FOLDER / "coverage"))
        self._data.read()
        self._files = {str(Path(path).relative_to(ROOT)): path for path in self._data.measured_files()}
        self.times: dict[str, float] = json.loads((FOLDER / "times.json").read_text())
        self._sources: dict[str, str] = json.loads((FOLDER / "sources.json").read_text())
        self._lines = lru_cache(maxsize=None)(self._read_lines)

    def tests(self, file: str, line: int) -> set[str]:
        """Return the tests that run a line; for one that runs at import, those that use what it defines."""
        function = _function(file, line)
        if function is None:
            return self._users(file, line) or self._between(file, 1, 1_000_000)
        first, last = _statement(file, line)
        found = self._between(file, first, last) or self._between(file, *function)
        # Only the first test that calls a cached function runs its lines.
        return found | self._following(file, _cached(file, line))

    def _between(self, file: str, first: int, last: int) -> set[str]:
        found: set[str] = set()
        for line, tests in self._lines(file).items():
            if first <= line <= last:
                found |= tests
        return found

    def _read_lines(self, file: str) -> dict[int, set[str]]:
        if file not in self._files:
            return {}
        measured = self._data.contexts_by_lineno(self._files[file])
        new = _lines_now(self._sources.get(file, ""), (ROOT / file).read_text())
        return {
            new[line]: {test for test in tests if test in self.times}
            for line, tests in measured.items()
            if line in new
        }

    def _users(self, file: str, line: int) -> set[str]:
        """Return the tests that run a function that names what the statement at ``line`` defines."""
        return self._following(file, _defined(file, line))

    def _following(self, defining: str, names: set[str]) -> set[str]:
        """Return the tests that run a function that uses one of ``names``, or what is defined or cached with them."""
        todo = [(defining, name) for name in names]
        seen = set(todo)
        found: set[str] = set()
        while todo:
            defining, name = todo.pop()
            for other in _importers(defining):
                for first, last, mentioned, is_run, defines in _top_level(other):
                    if name not in mentioned:
                        continue
                    if is_run:
                        found |= self._between(other, first, last)
                    for further in defines:
                        if (other, further) not in seen:
                            seen.add((other, further))
                            todo.append((other, further))
        return found


def _lines_now(old: str, new: str) -> dict[int, int]:
    """Map the lines of ``old`` to where they are in ``new``."""
    if old == new:
        return {line: line for line in range(1, new.count("\n") + 2)}
    matched = difflib.SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False)
    return {
        old_line + offset + 1: new_line + offset + 1
        for old_line, new_line, size in matched.get_matching_blocks()
        for offset in range(size)
    }


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text())


@cache
def _functions(file: str) -> list[tuple[int, int]]:
    return [
        (node.body[0].lineno, node.end_lineno or 0)
        for node in ast.walk(_tree(file))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def _function(file: str, line: int) -> tuple[int, int] | None:
    """Return the lines of the innermost function whose body has ``line``."""
    around = [place for place in _functions(file) if place[0] <= line <= place[1]]
    return max(around, default=None)


def _statement(file: str, line: int) -> tuple[int, int]:
    """Return the lines of the innermost simple statement at ``line``, or of the head of a compound one."""
    best = (line, line)
    for node in ast.walk(_tree(file)):
        if not isinstance(node, ast.stmt):
            continue
        body = getattr(node, "body", None)
        end = (body[0].lineno - 1 if body[0].lineno > node.lineno else node.lineno) if body else node.end_lineno or 0
        if node.lineno <= line <= end:
            best = (node.lineno, end)
    return best


def _cached(file: str, line: int) -> set[str]:
    """Return the name of the cached function whose body has ``line``, in a set; an empty one if it is in none."""
    return {
        node.name
        for node in ast.walk(_tree(file))
        if _is_cached(node) and node.body[0].lineno <= line <= (node.end_lineno or 0)
    }


def _is_cached(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and any(
        "cache" in ast.unparse(decorator) for decorator in node.decorator_list
    )


@cache
def _top_level(file: str) -> list[tuple[int, int, frozenset[str], bool, tuple[str, ...]]]:
    """Return (first line, last line, names in it, whether it is a function's body, names that it defines or caches)."""
    parts: list[tuple[int, int, frozenset[str], bool, tuple[str, ...]]] = []

    def add(statements: list[ast.stmt], owner: str | None) -> None:
        for node in statements:
            first, last = node.lineno, node.end_lineno or node.lineno
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                cached = (node.name,) if _is_cached(node) else ()
                parts.append((node.body[0].lineno, last, _mentioned(node), True, cached))
            elif isinstance(node, ast.ClassDef):
                add(node.body, node.name)
            elif not isinstance(node, (ast.Import, ast.ImportFrom)):
                names = _targets(node) | ({owner} if owner else set())
                parts.append((first, last, _mentioned(node), False, tuple(sorted(names))))

    add(_tree(file).body, None)
    return parts


def _mentioned(node: ast.AST) -> frozenset[str]:
    return frozenset(
        child.id if isinstance(child, ast.Name) else child.attr
        for child in ast.walk(node)
        if isinstance(child, (ast.Name, ast.Attribute))
    )


def _targets(node: ast.AST) -> set[str]:
    return {
        child.id
        for child in ast.walk(node)
        if isinstance(child, ast.Name) and isinstance(child.ctx, (ast.Store, ast.Del))
    }


def _defined(file: str, line: int) -> set[str]:
    """Return what the statement at ``line``, which runs at import, defines: names, or a function or class."""
    names: set[str] = set()
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or 0):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            else:
                names |= _targets(node)
        # The line of a decorator is before that of its function.
        for decorator in getattr(node, "decorator_list", ()):
            if decorator.lineno <= line <= decorator.end_lineno:
                names.add(node.name)  # type: ignore[attr-defined]
    return names


@cache
def _importers(file: str) -> list[str]:
    """Return the files of the app that may use what ``file`` defines, itself first."""
    module = Path(file).stem if not file.endswith("__init__.py") else Path(file).parent.name
    others = [
        str(path.relative_to(ROOT))
        for path in sorted(APP.rglob("*.py"))
        if f"{module} import" in (text := path.read_text()) or f"import {module}" in text or f", {module}" in text
    ]
    return [file, *(other for other in others if other != file)]
