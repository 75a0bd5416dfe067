"""Regular expressions of operators, searched for in texts of strangers: how much of a text one may be given.

Python has no time limit for a regular expression, and whoever asks for a page chooses the text. So an expression is
given as much of it as a proven bound on its steps allows, and one without a bound is refused. Pure.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, NamedTuple

__all__ = ["LONGEST", "bounded_search", "regex_problem"]

#: How much is read of any text.
LONGEST: Final = 8192
_LENGTHS: Final = (LONGEST, 4096, 2048, 1024, 512, 200)
#: Of a longer text only so much is searched as can be tried in that many steps, some hundredths of a second: all
#: expressions that share them together.
_MOST_STEPS: Final = 6_000_000
#: Of a repetition whose rounds can be read in more than one way each: two ways to the power of it are too many.
_MOST_ROUNDS: Final = 24
#: Parentheses within each other: reading them takes several calls each, wherever in the stack it is done.
_DEEPEST: Final = 32
#: What is repeated as often has no bound: longer texts are not read.
_ENDLESS: Final = 1 << 31
#: What reads a regular expression for ``re``.
_PARSER: Final = "re._parser" if sys.version_info >= (3, 11) else "sre_parse"
_REPEATED: Final = re.compile(r"[*+?{]")
_CATEGORIES: Final = {"CATEGORY_WORD": r"\w", "CATEGORY_DIGIT": r"\d", "CATEGORY_SPACE": r"\s"}


def regex_problem(pattern: str) -> str:
    """What is wrong with a regular expression, in words for a person; empty when nothing is."""
    if _depth(pattern) > _DEEPEST:
        return f"This regular expression can't be read: it has more than {_DEEPEST} parentheses within each other."
    try:
        re.compile(pattern)
    except re.error as error:
        where = "" if error.pos is None else f" at character {error.pos + 1}"
        return f"This regular expression can't be read: {error.msg}{where}."
    except (OverflowError, RecursionError, ValueError) as error:
        return f"This regular expression can't be read: {error}."
    if not _longest(pattern):
        return (
            "This regular expression may take forever on a path that was made for it: write it without a "
            "repetition or an alternative inside another repetition, and with three of them at most."
        )
    return ""


def _depth(pattern: str) -> int:
    """How many parentheses of ``pattern`` stand within each other, or seem to."""
    depth = deepest = 0
    for character in pattern:
        if character == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif character == ")":
            depth -= 1
    return deepest


def bounded_search(pattern: str, sharing: int = 1) -> Callable[[str], re.Match[str] | None]:
    """A search for ``pattern``, which :func:`regex_problem` found nothing wrong with, in as much as is safe.

    ``sharing`` is how many expressions are tried on the same text.
    """
    search, length = re.compile(pattern).search, _longest(pattern, sharing) or _LENGTHS[-1]
    return lambda text: search(text[:length])


@lru_cache(maxsize=512)
def _longest(pattern: str, sharing: int = 1) -> int:
    """How much of a path ``pattern`` is given, in characters; 0 when it can't be given any."""
    try:
        parser = import_module(_PARSER)
    except ImportError:  # it is private: some day it may be elsewhere
        return 0 if _REPEATED.search(pattern) else _LENGTHS[0]
    read = parser.parse(pattern)
    return next((length for length in _LENGTHS if _most_steps(read, length) <= _MOST_STEPS / sharing), 0)


def _most_steps(read: Any, length: int) -> float:
    """How many steps a search of ``read``, which the parser gave, can take in a text of ``length`` characters."""
    steps = _sequence(read, length, None).steps
    anchored = len(read) > 0 and str(read[0][1]) in ("AT_BEGINNING", "AT_BEGINNING_STRING")
    if not anchored or read.state.flags & re.MULTILINE:
        # It is tried again from each place on.
        steps = _product({1: 1.0}, steps)
    return sum(
        math.inf if degree > _HIGHEST else factor * math.comb(length + degree, degree)
        for degree, factor in steps.items()
    )


#: A number that depends on the length n of the text: factor times "n + degree over degree", in how many places
#: ``degree`` repetitions that share the text can end, summed over all degrees.
_Growth = dict[int, float]
_ONE: Final[_Growth] = {0: 1.0}
#: No more are allowed, so nobody need know how many.
_HIGHEST: Final = 6


class _Effort(NamedTuple):
    """What a part of a regular expression takes, tried at one place of a text."""

    #: In how many ways it may match.
    ways: _Growth
    #: Characters looked at, and places come back to, until all of them have been tried.
    steps: _Growth


def _sum(*numbers: _Growth) -> _Growth:
    total: _Growth = {}
    for number in numbers:
        for degree, factor in number.items():
            total[degree] = total.get(degree, 0.0) + factor
    return total


def _product(one: _Growth, other: _Growth) -> _Growth:
    total: _Growth = {}
    for degree, factor in one.items():
        for more, times in other.items():
            at = min(degree + more, _HIGHEST + 1)
            total[at] = total.get(at, 0.0) + factor * times
    return total


def _sequence(items: Any, length: int, after: Any) -> _Effort:
    """The effort of ``items``, one after the other; ``after`` stands behind them."""
    ways, steps = _ONE, _ONE
    listed = [*items, after]
    for item, following in zip(listed, listed[1:], strict=False):
        effort = _effort(item, length, following)
        steps = _sum(steps, _product(ways, effort.steps))
        ways = _product(ways, effort.ways)
    return _Effort(ways, steps)


def _effort(item: Any, length: int, following: Any) -> _Effort:
    name, value = str(item[0]), item[1]
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = value
        return _repetition(name == "POSSESSIVE_REPEAT", least, most, body, length, following)
    if name == "SUBPATTERN":
        return _sequence(value[-1], length, following)
    if name == "BRANCH":
        branches = [_sequence(branch, length, following) for branch in value[1]]
        return _Effort(_sum(*(one.ways for one in branches)), _sum(*(one.steps for one in branches)))
    if name == "GROUPREF_EXISTS":
        branches = [_sequence(branch or (), length, None) for branch in value[1:]]
        return _Effort(_sum(*(one.ways for one in branches)), _sum(*(one.steps for one in branches)))
    if name in ("ASSERT", "ASSERT_NOT"):
        return _Effort(_ONE, _sequence(value[1], length, None).steps)
    if name == "ATOMIC_GROUP":
        return _Effort(_ONE, _sequence(value, length, None).steps)
    if name == "GROUPREF":
        # What the group holds may be as long as the text.
        return _Effort(_ONE, {1: 1.0})
    return _Effort(_ONE, _ONE)


def _repetition(possessive: bool, least: int, most: int, body: Any, length: int, following: Any) -> _Effort:
    ways, steps = _sequence(body, length, None)
    endless = most >= length
    if not body.getwidth()[0]:
        # A round may read nothing: those that have to be are read all the same, an endless repetition ends with it.
        rounds: _Growth = {0: most + 1.0} if most < _ENDLESS else {0: least + 1.0, 1: 1.0}
    else:
        rounds = {1: 1.0} if endless else {0: most + 1.0}
    if possessive and least <= 1:
        return _Effort(_ONE, _product(rounds, steps))
    if ways == _ONE:
        steps = _product(rounds, steps)
        if _ends_at(body, following):
            # What follows is looked for at each place, and found at one.
            return _Effort(_ONE, _sum(steps, rounds))
        return _Effort(rounds if endless else {0: most - least + 1.0}, steps)
    # Each round may be read in several ways, whatever the others were: without a bound there is no end to it.
    if most > _MOST_ROUNDS:
        return _Effort({_HIGHEST + 1: 1.0}, {_HIGHEST + 1: 1.0})
    total: _Growth = {}
    effort = power = _ONE
    for count in range(most + 1):
        if count >= least:
            total = _sum(total, power)
        if count < most:
            effort = _sum(effort, _product(power, steps))
            power = _product(power, ways)
    return _Effort(total, effort)


def _ends_at(body: Any, following: Any) -> bool:
    """Whether a repetition of ``body`` can only end where ``following`` stands, as of ``[^/]+/`` and ``\\d+-``."""
    if len(body) != 1 or following is None or str(following[0]) != "LITERAL":
        return False
    kind, value = body[0]
    code: int = following[1]
    # Letters may be another's where case does not count, and digits of other scripts are some where flags say so.
    if code > 127 or chr(code).isalpha():
        return False
    if str(kind) == "LITERAL":
        return bool(value != code)
    if str(kind) == "NOT_LITERAL":
        return bool(value == code)
    if str(kind) != "IN":
        return False
    negated = str(value[0][0]) == "NEGATE"
    holds = False
    for part, what in value[1:] if negated else value:
        if str(part) == "LITERAL":
            holds = holds or what == code
        elif str(part) == "RANGE":
            holds = holds or what[0] <= code <= what[1]
        else:
            pattern = _CATEGORIES.get(str(what))
            if pattern is None:
                return False
            holds = holds or re.match(pattern, chr(code)) is not None
    return holds is negated
