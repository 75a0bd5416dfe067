"""Tests of mutation testing: what it counts, and the list of mutants that no test can kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants import results
from tests.mutants.equivalent import equivalents
from tests.mutants.modules import PARTS, ROOT, files


def test_every_part_has_modules_and_no_module_is_in_two() -> None:
    found = [file for part in PARTS for file in files(part)]
    assert len(found) == len(set(found))
    assert "django_tracing/export/spool.py" in found
    assert all((ROOT / file).is_file() for file in found)


def test_a_name_that_is_no_module_is_refused() -> None:
    with pytest.raises(SystemExit, match="export.spol is no part"):
        files("export.spol")


def test_the_lines_of_equivalent_mutants_are_there() -> None:
    """A line that changed makes another mutant, whose reason has to be thought of anew."""
    texts = {each.file: _joined((ROOT / each.file).read_text()) for each in equivalents()}
    assert [each.name for each in equivalents() if each.before not in texts[each.file]] == []
    assert [each.name for each in equivalents() if len(each.reason) < 20] == []


def _joined(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())


def test_the_table_counts_equivalent_mutants_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"django_tracing/export/spool.py Spool.store\n- a\n+ {number}" for number in range(10)]
    lines = [{"name": name, "status": "survived" if name[-1] in "89" else "killed"} for name in names]
    # The newest result of a mutant counts.
    lines = [{"name": names[0], "status": "survived"}, *lines]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    monkeypatch.setattr(results, "RESULTS", file)
    listed = equivalents("# Words.\n\ndjango_tracing/export/spool.py Spool.store\n- a\n+ 9\nBecause it is\nthe same.")
    assert [each.reason for each in listed] == ["Because it is the same."]
    monkeypatch.setattr(results, "equivalents", lambda: listed)
    assert "| spool | 10 | 8 | 1 | 1 | 89% (56% to 98%) |" in results.table(results.results_so_far())


def test_a_block_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="not a place"):
        equivalents("django_tracing/export/spool.py\n- a\n+ b")


def test_our_operators_do_what_their_examples_show() -> None:
    mutating = pytest.importorskip("cosmic_ray.mutating", reason="cosmic-ray is installed by make mutants")
    from tests.mutants.operators import OURS

    for operator in OURS:
        for example in operator.examples():
            made = mutating.mutate_code(example.pre_mutation_code, operator(), example.occurrence)
            assert made == example.post_mutation_code


def test_what_no_test_can_see_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cosmic_ray.mutating", reason="cosmic-ray is installed by make mutants")
    from tests.mutants import generation

    (tmp_path / "module.py").write_text(
        "from typing import Literal\n"
        "Kind = Literal['a']\n"
        "def f(a: int, *, b: int | None = None) -> bool:\n"
        "    'A docstring.'\n"
        "    return False\n"
    )
    monkeypatch.setattr(generation, "ROOT", tmp_path)
    made = [generation.mutant(site) for site in generation.sites("module.py")]
    assert [each.after for each in made if each] == ["return True"]


def test_what_was_measured_moves_with_the_lines_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that only tests that changed have to be measured again."""
    coverage = pytest.importorskip("coverage", reason="coverage is installed by make mutants")
    from tests.mutants import coverage_map

    monkeypatch.setattr(coverage_map, "FOLDER", tmp_path)
    monkeypatch.setattr(coverage_map, "ROOT", tmp_path)
    files = {name: str(tmp_path / name) for name in ("changed.py", "same.py")}
    data = coverage.CoverageData(str(tmp_path / "coverage"))
    for test, lines in (("one", [1, 2]), ("two", [2, 3])):
        data.set_context(test)
        data.add_lines(dict.fromkeys(files.values(), lines))
    data.write()
    old = {"changed.py": "a = 1\nb = 2\nc = 3\n", "same.py": "a = 1\nb = 2\nc = 3\n"}
    coverage_map._move_lines(old, {**old, "changed.py": "# New.\na = 1\nb = 2\nd = 3\n"})
    moved = coverage.CoverageData(str(tmp_path / "coverage"))
    moved.read()

    def tests_of(name: str) -> dict[int, list[str]]:
        return {line: sorted(tests) for line, tests in moved.contexts_by_lineno(files[name]).items()}

    assert tests_of("same.py") == {1: ["one"], 2: ["one", "two"], 3: ["two"]}
    assert tests_of("changed.py") == {2: ["one"], 3: ["one", "two"]}
