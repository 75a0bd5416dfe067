"""Bound the time of regular expressions that operators write and that are searched for in untrusted text.

Python has no time limit for a regular expression, and the sender of a request chooses the text. So only so much of
the text is searched as a proven bound on the steps of the expression allows. One without a bound is refused.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from django_tracing.redaction.printable import printable

__all__ = ["LONGEST", "bounded_search", "regex_problem"]

#: The longest part of a text that is searched.
LONGEST: Final = 8192
_LENGTHS: Final = (LONGEST, 4096, 2048, 1024, 512, 200)
#: Of a longer text, only so much is searched as takes this many steps, some hundredths of a second. Expressions that
#: are searched for in the same text share them.
_MOST_STEPS: Final = 6_000_000
#: The most rounds of a repetition whose rounds match in more than one way each: the ways multiply with each round.
_MOST_ROUNDS: Final = 24
#: The deepest nesting of parentheses: parsing a level takes several calls, and the stack may be deep already.
_DEEPEST: Final = 32
#: The longest message, which quotes the expression.
_LONGEST_MESSAGE: Final = 300
#: A repetition of so many rounds has no bound: longer texts are not searched.
_ENDLESS: Final = 1 << 31
#: The parser of ``re``.
_PARSER: Final = "re._parser" if sys.version_info >= (3, 11) else "sre_parse"
_REPEATED: Final = re.compile(r"[*+?{]")
_CATEGORIES: Final = {"CATEGORY_WORD": r"\w", "CATEGORY_DIGIT": r"\d", "CATEGORY_SPACE": r"\s"}


def regex_problem(pattern: str) -> str:
    """Return what is wrong with a regular expression, as a sentence; empty where nothing is."""
    if _depth(pattern) > _DEEPEST:
        return f"This regular expression can't be read: it has more than {_DEEPEST} nested parentheses."
    try:
        re.compile(pattern)
    except re.error as error:
        where = "" if error.pos is None else f" at character {error.pos + 1}"
        return printable(f"This regular expression can't be read: {error.msg}{where}.", _LONGEST_MESSAGE)
    except (OverflowError, RecursionError, ValueError, Warning) as error:
        # A warning, where these are errors: of what a later version of Python may read in another way.
        return printable(f"This regular expression can't be read: {error}.", _LONGEST_MESSAGE)
    if not _longest(pattern):
        return (
            "This regular expression may take too long on a path that is made for it. Write it without a "
            "repetition or an alternative inside another repetition, and with three repetitions at most."
        )
    return ""


def _depth(pattern: str) -> int:
    """Return the deepest nesting of parentheses in ``pattern``. Escaped ones count, too."""
    depth = deepest = 0
    for character in pattern:
        if character == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif character == ")":
            depth -= 1
    return deepest


def bounded_search(pattern: str, sharing: int = 1) -> Callable[[str], re.Match[str] | None]:
    """Return a search for ``pattern``, which :func:`regex_problem` accepted, in as much of a text as is safe.

    ``sharing`` is the number of expressions that are searched for in the same text.
    """
    search, length = re.compile(pattern).search, _longest(pattern, sharing) or _LENGTHS[-1]
    return lambda text: search(text[:length])


@lru_cache(maxsize=512)
def _longest(pattern: str, sharing: int = 1) -> int:
    """Return how many characters of a text are searched for ``pattern``; 0 where no number is safe."""
    try:
        parser = import_module(_PARSER)
    except ImportError:  # it is private, and may move
        return 0 if _REPEATED.search(pattern) else _LENGTHS[0]
    read = parser.parse(pattern)
    return next((length for length in _LENGTHS if _most_steps(read, length) <= _MOST_STEPS / sharing), 0)


def _most_steps(read: Any, length: int) -> float:
    """Return how many steps a search for ``read``, as parsed, takes at most in a text of ``length`` characters."""
    steps = _sequence(read, length, None).steps
    anchored = len(read) > 0 and str(read[0][1]) in ("AT_BEGINNING", "AT_BEGINNING_STRING")
    if not anchored or read.state.flags & re.MULTILINE:
        # It is tried again from each position.
        steps = _product({1: 1.0}, steps)
    return sum(
        math.inf if degree > _HIGHEST else factor * math.comb(length + degree, degree)
        for degree, factor in steps.items()
    )


#: A number that depends on the length n of the text: for each degree, a factor times the binomial coefficient of
#: n + degree over degree. That is the number of ways in which ``degree`` repetitions can share the text.
_Growth = dict[int, float]
_ONE: Final[_Growth] = {0: 1.0}
#: Higher degrees are refused, so they need not be told apart.
_HIGHEST: Final = 6


class _Cost(NamedTuple):
    """The cost of a part of a regular expression, tried at one position of a text."""

    #: The number of ways in which it may match.
    ways: _Growth
    #: The characters read, and the positions returned to, until all ways are tried.
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


def _sequence(items: Any, length: int, after: Any) -> _Cost:
    """Return the cost of ``items`` in a row, which ``after`` follows."""
    ways, steps = _ONE, _ONE
    listed = [*items, after]
    for item, following in zip(listed, listed[1:], strict=False):
        cost = _cost(item, length, following)
        steps = _sum(steps, _product(ways, cost.steps))
        ways = _product(ways, cost.ways)
    return _Cost(ways, steps)


def _cost(item: Any, length: int, following: Any) -> _Cost:
    name, value = str(item[0]), item[1]
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = value
        return _repetition(name == "POSSESSIVE_REPEAT", least, most, body, length, following)
    if name == "SUBPATTERN":
        return _sequence(value[-1], length, following)
    if name == "BRANCH":
        branches = [_sequence(branch, length, following) for branch in value[1]]
        return _Cost(_sum(*(one.ways for one in branches)), _sum(*(one.steps for one in branches)))
    if name == "GROUPREF_EXISTS":
        branches = [_sequence(branch or (), length, None) for branch in value[1:]]
        return _Cost(_sum(*(one.ways for one in branches)), _sum(*(one.steps for one in branches)))
    if name in ("ASSERT", "ASSERT_NOT"):
        return _Cost(_ONE, _sequence(value[1], length, None).steps)
    if name == "ATOMIC_GROUP":
        return _Cost(_ONE, _sequence(value, length, None).steps)
    if name == "GROUPREF":
        # The group's match may be as long as the text.
        return _Cost(_ONE, {1: 1.0})
    return _Cost(_ONE, _ONE)


def _repetition(possessive: bool, least: int, most: int, body: Any, length: int, following: Any) -> _Cost:
    ways, steps = _sequence(body, length, None)
    endless = most >= length
    if not body.getwidth()[0]:
        # A round may match nothing. The required ones are still read, and an endless repetition ends with it.
        rounds: _Growth = {0: most + 1.0} if most < _ENDLESS else {0: least + 1.0, 1: 1.0}
    else:
        rounds = {1: 1.0} if endless else {0: most + 1.0}
    if possessive and least <= 1:
        return _Cost(_ONE, _product(rounds, steps))
    if ways == _ONE:
        steps = _product(rounds, steps)
        if _ends_at(body, following):
            # What follows is tried at each position, and found at one.
            return _Cost(_ONE, _sum(steps, rounds))
        return _Cost(rounds if endless else {0: most - least + 1.0}, steps)
    # Each round may match in several ways, independently of the others: their number grows with each round.
    if most > _MOST_ROUNDS:
        return _Cost({_HIGHEST + 1: 1.0}, {_HIGHEST + 1: 1.0})
    total: _Growth = {}
    cost = power = _ONE
    for count in range(most + 1):
        if count >= least:
            total = _sum(total, power)
        if count < most:
            cost = _sum(cost, _product(power, steps))
            power = _product(power, ways)
    return _Cost(total, cost)


def _ends_at(body: Any, following: Any) -> bool:
    """Return whether a repetition of ``body`` ends only at ``following``, as in ``[^/]+/`` and ``\\d+-``."""
    if len(body) != 1 or following is None or str(following[0]) != "LITERAL":
        return False
    kind, value = body[0]
    code: int = following[1]
    # With flags, letters match in both cases, and digits of other scripts match, too.
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
