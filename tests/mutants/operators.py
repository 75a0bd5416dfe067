"""Operators that Cosmic Ray does not have: for numbers, texts, statements, results and named arguments."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

import parso
from cosmic_ray.operators.operator import Example, Operator

Position = tuple[tuple[int, int], tuple[int, int]]
_OPENING = ("(", "[", "{")


def _is(node: Any, kind: str) -> bool:
    return bool(node.type == kind)


def _replaced(node: Any, text: str) -> Any:
    """Return code in the place of ``node``, with the whitespace before it."""
    return parso.parse(node.get_first_leaf().prefix + text)


class _OfOneNode(Operator):  # type: ignore[misc]
    def mutation_positions(self, node: Any) -> Iterable[Position]:
        if self._applies(node):
            yield node.start_pos, node.end_pos

    def _applies(self, node: Any) -> bool:
        raise NotImplementedError


class ChangeText(_OfOneNode):
    """Change a text in its middle: what is compared with it, looked up by it or shown to people differs.

    In its middle, because tests look for a part of a message.
    """

    def _applies(self, node: Any) -> bool:
        return _is(node, "string") or (_is(node, "fstring") and self._longest(node) is not None)

    def mutate(self, node: Any, index: int) -> Any:
        code = node.get_code(include_prefix=False)
        if _is(node, "fstring"):
            part = self._longest(node)
            start = len(node.get_code(include_prefix=False)) - len(self._rest(node, part))
            end = start + len(part.value)
        else:
            opening = re.match(r"\w*(\"\"\"|'''|.)", code)
            assert opening is not None
            start, end = opening.end(), len(code) - len(opening[1])
        middle = (start + end) // 2
        # Not in the middle of an escape sequence.
        while middle > start and re.search(r"\\[\w{]*$", code[start:middle]):
            middle -= 1
        return _replaced(node, f"{code[:middle]}XX{code[middle:]}")

    @staticmethod
    def _longest(node: Any) -> Any:
        texts = [child for child in node.children if _is(child, "fstring_string")]
        return max(texts, key=lambda text: len(text.value), default=None)

    @staticmethod
    def _rest(node: Any, part: Any) -> str:
        """Return the code of an f-string from ``part`` on."""
        place = node.children.index(part)
        return "".join(child.get_code() for child in node.children[place:])

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (
            Example('x = "abcd"', 'x = "abXXcd"'),
            Example('x = ""', 'x = "XX"'),
            Example("x = rb'ab'", "x = rb'aXXb'"),
            Example(r'x = "a\n"', r'x = "aXX\n"'),
            Example('x = f"{a}abcd{b}"', 'x = f"{a}abXXcd{b}"'),
        )


class ChangeNumber(Operator):  # type: ignore[misc]
    """Add and subtract one. A number of 10 or more, or with a fraction, is a limit or a pause: make it 1,000 times that.

    With one more, a limit of 10,000 keeps its promise, and no test should say otherwise; without a limit, one should.
    """

    def mutation_positions(self, node: Any) -> Iterable[Position]:
        for _ in self._values(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return _replaced(node, self._values(node)[index])

    @staticmethod
    def _values(node: Any) -> list[str]:
        if not _is(node, "number"):
            return []
        value = ast.literal_eval(node.value)
        if value and (isinstance(value, float) or value >= 10):
            return [repr(value * 1000)]
        return [repr(value + 1), repr(value - 1)]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("x = 1", "x = 2"), Example("x = 1", "x = 0", occurrence=1), Example("x = 0x10", "x = 16000"))


class DeleteStatement(_OfOneNode):
    """Delete a call whose result is not used, an assignment to an attribute or an item, or a ``raise``."""

    def _applies(self, node: Any) -> bool:
        if node.parent is None or not _is(node.parent, "simple_stmt"):
            return False
        if _is(node, "atom_expr") or _is(node, "await_expr") or _is(node, "raise_stmt"):
            return True
        # Without an assignment to a name, every later use would fail; an augmented one is only missing.
        if not _is(node, "expr_stmt") or _is(node.children[1], "annassign"):
            return False
        return _is(node.children[0], "atom_expr") or node.children[1].get_code().strip() != "="

    def mutate(self, node: Any, index: int) -> Any:
        return _replaced(node, "pass")

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(x)\n", "pass\n"), Example("a.b = 1\n", "pass\n"), Example("a += 1\n", "pass\n"))


class ReturnNone(_OfOneNode):
    """Return None in place of a result.

    But not of False: a condition takes both for false, and the types that mypy checks forbid it.
    """

    def _applies(self, node: Any) -> bool:
        return _is(node, "return_stmt") and node.children[1].get_code().strip() not in ("None", "False")

    def mutate(self, node: Any, index: int) -> Any:
        return _replaced(node, "return None")

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("def f():\n    return 1\n", "def f():\n    return None\n"),)


class RemoveNamedArgument(Operator):  # type: ignore[misc]
    """Leave out a named argument of a call: its default takes its place."""

    def mutation_positions(self, node: Any) -> Iterable[Position]:
        for _, argument in self._arguments(node):
            yield argument.start_pos, argument.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        place, _ = self._arguments(node)[index]
        # With the comma behind it, or the one before it.
        first, last = place, place + 1
        if last < len(node.children) and node.children[last].get_code().strip() == ",":
            last += 1
        elif first > 0 and node.children[first - 1].get_code().strip() == ",":
            first -= 1
        del node.children[first:last]
        return node

    @staticmethod
    def _arguments(node: Any) -> list[tuple[int, Any]]:
        if not (_is(node, "arglist") or (_is(node, "trailer") and node.children[0].get_code().strip() == "(")):
            return []
        return [
            (place, child)
            for place, child in enumerate(node.children)
            if _is(child, "argument") and child.children[1].get_code().strip() == "="
        ]

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("f(a, b=1)", "f(a)"), Example("f(b=1)", "f()"))


#: Those of Cosmic Ray that ask a question of their own. Others, such as ``<`` to ``is``, are answered by the same tests.
OF_COSMIC_RAY = (
    "AddNot",
    "ExceptionReplacer",
    "RemoveDecorator",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_BitAnd_BitOr",
    "ReplaceBinaryOperator_BitOr_BitAnd",
    "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_FloorDiv_Mul",
    "ReplaceBinaryOperator_LShift_RShift",
    "ReplaceBinaryOperator_Mod_Mul",
    "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_RShift_LShift",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_GtE_Lt",
    "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_Gt_LtE",
    "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_LtE_Gt",
    "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_Lt_GtE",
    "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceFalseWithTrue",
    "ReplaceTrueWithFalse",
    "ReplaceUnaryOperator_Delete_Invert",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_USub",
    "ZeroIterationForLoop",
)
OURS = (ChangeNumber, ChangeText, DeleteStatement, RemoveNamedArgument, ReturnNone)
