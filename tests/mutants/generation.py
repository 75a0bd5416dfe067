"""Make the mutants of a module."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

from tests.mutants.modules import ROOT
from tests.mutants.operators import OF_COSMIC_RAY, OURS

Place = tuple[int, int]
OPERATORS: dict[str, Any] = {name: cosmic_ray.plugins.get_operator(f"core/{name}")() for name in OF_COSMIC_RAY} | {
    operator.__name__: operator() for operator in OURS
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: str
    line: int
    operator: str
    #: The function or class that has the line; empty outside of them.
    owner: str
    #: The lines that differ, without indentation.
    before: str
    after: str
    code: str

    @property
    def name(self) -> str:
        """Identify the mutant, also after lines moved. The same change of two equal lines of a function counts once."""
        return f"{f'{self.file} {self.owner}'.strip()}\n- {self.before}\n+ {self.after}"


@dataclass(frozen=True)
class Site:
    """Where an operator can change a file."""

    file: str
    line: int
    operator: str
    occurrence: int


def sites(file: str) -> list[Site]:
    """Return the places of ``file`` that can be changed and that a test can see, in the order of its lines."""
    source = (ROOT / file).read_text()
    unseen = _unseen(source)
    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for name, operator in OPERATORS.items():
        places = ((node, place) for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (node, (start, end)) in enumerate(places):
            # A star between parameters multiplies nothing.
            if node.parent.type == "parameters":
                continue
            if not any(first <= start and end <= last for first, last in unseen):
                found.append(Site(file, start[0], name, occurrence))
    return sorted(found, key=lambda site: (site.line, site.operator, site.occurrence))


def mutant(site: Site) -> Mutant | None:
    """Make the change. Return None if the result is no Python, or the same."""
    source = (ROOT / site.file).read_text()
    try:
        code = mutate_code(source, OPERATORS[site.operator], site.occurrence)
    except AttributeError:
        # Cosmic Ray's ExceptionReplacer knows no exception with a dot in its name.
        return None
    if code is None or not _compiles(code):
        return None
    line, before, after = _difference(source, code)
    if before == after:
        return None
    return Mutant(site.file, line, site.operator, _owner(source, line), before, after, code)


def _compiles(code: str) -> bool:
    try:
        compile(code, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _difference(source: str, code: str) -> tuple[int, str, str]:
    old, new = source.splitlines(), code.splitlines()
    changes = [c for c in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if c[0] != "equal"]
    first, last = changes[0], changes[-1]
    before, after = old[first[1] : last[2]], new[first[3] : last[4]]
    return first[1] + 1, " ".join(map(str.strip, before)), " ".join(map(str.strip, after))


def _owner(source: str, line: int) -> str:
    """Return the qualified name of the innermost function or class with that line."""
    names: list[str] = []
    body: list[ast.stmt] = ast.parse(source).body
    while True:
        around = [node for node in body if node.lineno <= line <= (node.end_lineno or 0)]
        if not around:
            return ".".join(names)
        (node,) = around[:1]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.append(node.name)
        body = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def _unseen(source: str) -> list[tuple[Place, Place]]:
    """Return the places that no test can see: docstrings, types, what is exported, and what narrows a type."""
    return [_place(part) for node in ast.walk(ast.parse(source)) if (part := _unseen_part(node)) is not None]


def _unseen_part(node: ast.AST) -> ast.AST | None:
    match node:
        case ast.FunctionDef(returns=ast.AST() as returned) | ast.AsyncFunctionDef(returns=ast.AST() as returned):
            return returned
        case ast.arg(annotation=ast.AST() as annotation) | ast.AnnAssign(annotation=annotation):
            return annotation
        case ast.Expr(value=ast.Constant()) | ast.Assert():
            return node
        case ast.Assign(targets=[ast.Name(id="__all__" | "__slots__")]):
            return node
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return node
        case ast.Subscript(value=ast.Name(id="Literal")):
            return node
        case ast.Call(func=ast.Name(id="cast" | "TypeVar" | "ParamSpec")):
            return node.args[0]
        case ast.BinOp(op=ast.BitOr()) if "None" in ast.unparse(node):
            # A union of types.
            return node
    return None


def _place(node: ast.AST) -> tuple[Place, Place]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
