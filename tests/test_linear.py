"""Test that every regular expression of the app takes linear time, with the checker and by counting steps."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import django_tracing
from django_tracing.redaction.patterns import Pattern
from tests.linear import EXPONENTIAL, LINEAR, POLYNOMIAL, alphabet, steps, verdict

ROOT = Path(django_tracing.__file__).parent
METHODS = ("search", "match", "fullmatch", "sub", "subn", "findall", "finditer", "split")

#: Calls of ``re`` that no module-level pattern stands for, and why their patterns need no proof here.
ELSEWHERE = {
    ("conf/patterns.py", "compile"): "an operator's: refused or bounded by its steps, tests/sampling/test_rules.py",
    ("sampling/rules.py", "compile"): "an operator's glob: linear by tests/sampling/test_rules.py",
    ("conf/patterns.py", "match"): "one character",
    ("sampling/rules.py", "split"): "an operator's glob, once when rules are compiled",
    ("sampling/rules.py", "escape"): "a literal text",
    ("instrumentation/upstream/registry.py", "escape"): "a literal text",
    ("redaction/patterns.py", "compile"): "compiles the patterns of redaction, each of which is found by itself",
    ("redaction/dialects.py", "pattern"): "the scanners, found in their dict",
}


class Found(NamedTuple):
    where: str
    source: str
    flags: int
    methods: tuple[str, ...]


def _modules() -> Iterator[Any]:
    for info in pkgutil.walk_packages([str(ROOT)], "django_tracing."):
        if "migrations" not in info.name and "management" not in info.name:
            yield import_module(info.name)


def _patterns(name: str, value: object, depth: int = 0) -> Iterator[tuple[str, str, int]]:
    if isinstance(value, re.Pattern):
        yield name, value.pattern, value.flags
    elif isinstance(value, Pattern):
        yield name, value.source, value.flags
    elif depth < 4 and isinstance(value, dict):
        for key, item in value.items():
            yield from _patterns(f"{name}[{key!r}]", item, depth + 1)
    elif depth < 4 and isinstance(value, (tuple, list, set, frozenset)):
        for number, item in enumerate(value):
            yield from _patterns(f"{name}[{number}]", item, depth + 1)
    elif depth < 1 and isinstance(value, type) and value.__module__.startswith("django_tracing"):
        for key, item in vars(value).items():
            yield from _patterns(f"{name}.{key}", item, depth + 1)


@lru_cache(maxsize=1)
def _used() -> dict[str, set[str]]:
    """Return the methods that are called on each name, anywhere in the app."""
    used: dict[str, set[str]] = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in METHODS
                and isinstance(node.value, (ast.Name, ast.Attribute))
            ):
                used[node.value.id if isinstance(node.value, ast.Name) else node.value.attr].add(node.attr)
    return used


@lru_cache(maxsize=1)
def found() -> tuple[Found, ...]:
    by_source: dict[tuple[str, int], Found] = {}
    for module in _modules():
        for constant, value in vars(module).items():
            for name, source, flags in _patterns(constant, value):
                # A pattern in a container or an argument may be used for a search, which is the hardest case.
                methods = tuple(sorted(_used()[constant])) if name == constant else ()
                by_source.setdefault(
                    (source, flags), Found(f"{module.__name__}.{name}", source, flags, methods or ("search",))
                )
    return tuple(by_source.values())


def test_patterns_are_found() -> None:
    assert len(found()) > 50
    assert any("_SCANNERS" in pattern.where for pattern in found())


@pytest.mark.parametrize("pattern", found(), ids=lambda pattern: pattern.where.removeprefix("django_tracing."))
def test_every_pattern_is_linear(pattern: Found) -> None:
    for method in pattern.methods:
        decision = verdict(pattern.source, pattern.flags, method)
        assert decision.kind == LINEAR, (
            f"{pattern.where}.{method} takes {decision.kind} time on {decision.prefix!r} and many times {decision.word!r}"
        )


@pytest.mark.parametrize("pattern", found(), ids=lambda pattern: pattern.where.removeprefix("django_tracing."))
def test_the_steps_of_every_pattern_are_linear(pattern: Found) -> None:
    random = Random(pattern.source)
    kinds = alphabet(pattern.source, pattern.flags)
    words = [*kinds, *("".join(random.choices(kinds, k=random.randint(2, 5))) for _ in range(10))]
    for method in pattern.methods:
        for word in words:
            begin, end = random.choice(kinds), random.choice(kinds)
            few = steps(pattern.source, pattern.flags, method, begin + word * 60 + end)
            many = steps(pattern.source, pattern.flags, method, begin + word * 240 + end)
            # The look of a bounded repetition costs up to its bound at each place.
            assert many <= 5 * few + 500, f"{pattern.where}.{method} on {begin!r}, {word!r} repeated, {end!r}"


def test_no_pattern_escapes_the_proof() -> None:
    """Each call of ``re``, or of redaction's ``pattern``, is the value of a module's constant, or is in the table."""
    seen = set()
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        constants = {
            id(node)
            for statement in tree.body
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None
            for node in ast.walk(statement.value)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            if (
                isinstance(function, ast.Attribute)
                and isinstance(function.value, ast.Name)
                and function.value.id == "re"
            ):
                name = function.attr
            elif isinstance(function, ast.Name) and function.id == "pattern":
                name = "pattern"
            else:
                continue
            where = str(path.relative_to(ROOT)), name
            if id(node) not in constants:
                assert where in ELSEWHERE, f"{where}: make it a module's constant, so that it is proven to be linear"
                seen.add(where)
            elif name not in ("compile", "pattern"):
                raise AssertionError(f"{where}: compile it as a constant")
    assert seen == set(ELSEWHERE)


# ----- The checker


@pytest.mark.parametrize(
    ("source", "method", "kind"),
    [
        (r"(a+)+$", "match", EXPONENTIAL),
        (r"(a|a)*b", "match", EXPONENTIAL),
        (r"(a*)*b", "match", EXPONENTIAL),
        (r"(?:a|b|ab)*c", "match", EXPONENTIAL),
        (r"^(\w+\s?)*$", "match", EXPONENTIAL),
        (r"(?i)(?:ka|\u212aa)*!", "match", EXPONENTIAL),
        (r"(?:a?b?)*c", "match", EXPONENTIAL),
        (r"(?:a?b)*c", "match", LINEAR),
        (r"(?:/(?:[a-z]{0,15}\d{0,4}|\d{1,12}))*", "fullmatch", EXPONENTIAL),
        (r"(?:/(?:[a-z]{1,15}\d{0,4}|\d{0,12}))*", "fullmatch", LINEAR),
        (r"(.*a){12}", "match", POLYNOMIAL),
        (r"\d+\d+$", "match", POLYNOMIAL),
        (r"\s*([0-9]*[.,]?[0-9]+)\s*ms", "fullmatch", POLYNOMIAL),
        (r"\s+$", "search", POLYNOMIAL),
        (r"\s+$", "match", LINEAR),
        (r"\w+@", "search", POLYNOMIAL),
        (r"(?<!\w)\w+@", "search", LINEAR),
        (r"\b\w+@", "search", LINEAR),
        (r"a.*b", "search", POLYNOMIAL),
        (r"a[^ab]*b", "search", LINEAR),
        (r"[\W_]+", "sub", LINEAR),
        (r"(?:a|ab)*c", "match", LINEAR),
        (r"'[^']*(?:''[^']*)*(?:'|\Z)", "finditer", LINEAR),
        (r"(?=.*\d)x", "search", POLYNOMIAL),
        (r"(?=.*\d)(?=.*[a-z])x", "match", LINEAR),
        (r"(\w)\1+b", "search", POLYNOMIAL),
        (r"SELECT (?:(?! FROM ).){24,}? (?=FROM )", "search", POLYNOMIAL),
    ],
)
def test_the_checker_knows(source: str, method: str, kind: str) -> None:
    decision = verdict(source, 0, method)
    assert decision.kind == kind
    if kind == LINEAR:
        return
    # Its proof grows: four times the text takes more than six times the steps.
    for short, long in ((4, 16), (10, 40), (40, 160)):
        few = steps(source, 0, method, decision.prefix + decision.word * short + "\0\0", 300_000)
        many = steps(source, 0, method, decision.prefix + decision.word * long + "\0\0", 300_000)
        if many > 6 * few or many > 300_000:
            return
    raise AssertionError(f"{decision} does not grow")


ATOMS = st.sampled_from(["a", "b", "[ab]", "c", r"\b", "."])


def _longer(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2,3}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        inner.map(lambda part: f"(?={part})"),
    )


@settings(max_examples=150, derandomize=True)
@given(st.recursive(ATOMS, _longer, max_leaves=6), st.sampled_from(["match", "search", "fullmatch"]), st.data())
def test_patterns_that_the_checker_accepts_are_linear(source: str, method: str, data: st.DataObject) -> None:
    if verdict(source, 0, method).kind != LINEAR:
        return
    word = data.draw(st.text("abc", min_size=1, max_size=4))
    begin, end = data.draw(st.text("abc", max_size=2)), data.draw(st.text("abc!", max_size=2))
    few = steps(source, 0, method, begin + word * 16 + end, 200_000)
    many = steps(source, 0, method, begin + word * 64 + end, 200_000)
    assert many <= 6 * few + 200
