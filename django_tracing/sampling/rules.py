"""The rules of sampling: which one a request, a command or a task meets. Pure; knows no Django and no SDK.

``RuleSet.match`` is asked for every trace that begins here, so rules are indexed when they are compiled: a rule is
looked at only when its user, its subscription or the literal beginning of its path are those of the request.
"""

from __future__ import annotations

import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, NamedTuple

__all__ = ["Asked", "Match", "Reason", "Rule", "RuleSet", "compile_rules", "header_key", "pattern_problem"]

_WILDCARDS: Final = re.compile(r"[*?]")
#: The literal beginning of a regular expression that is bound to the start.
_LITERAL: Final = re.compile(r"\^((?:[\w/ -]|\\[./-])*)")
#: Python has no time limit for a regular expression, and whoever asks for a page chooses the text: of longer paths
#: only so much is searched as can be tried in that many steps, some hundredths of a second.
_LENGTHS: Final = (8192, 4096, 2048, 1024, 512, 200)
_MOST_STEPS: Final = 6_000_000
#: Of a repetition whose rounds can be read in more than one way each: two ways to the power of it are too many.
_MOST_ROUNDS: Final = 24
#: What is repeated as often has no bound: longer texts are not read.
_ENDLESS: Final = 1 << 31
#: What reads a regular expression for ``re``.
_PARSER: Final = "re._parser" if sys.version_info >= (3, 11) else "sre_parse"
_REPEATED: Final = re.compile(r"[*+?{]")
_CATEGORIES: Final = {"CATEGORY_WORD": r"\w", "CATEGORY_DIGIT": r"\d", "CATEGORY_SPACE": r"\s"}
#: Headers that WSGI gives without the ``HTTP_`` of all others.
_BARE: Final = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})
#: After these, what stands before them may be missing.
_OPTIONAL: Final = ("?", "*", "{", "|")


class Rule(NamedTuple):
    """One rule, as an operator wrote it. Empty conditions hold for all."""

    id: int
    name: str
    #: ``request``, ``command`` or ``task``.
    operation: str = ""
    method: str = ""
    #: With ``*`` and ``?``; after a ``~`` a regular expression, which is searched for.
    path: str = ""
    service: str = ""
    user_id: str = ""
    subscription: str = ""
    header_name: str = ""
    header_value: str = ""
    #: 0 to 1.
    rate: float = 1.0
    #: Traces a second, at most.
    max_per_second: float | None = None
    keep_errors: bool | None = None
    #: Seconds.
    keep_slower_than: float | None = None
    #: Seconds since the epoch.
    valid_until: float | None = None


class Asked(NamedTuple):
    """What begins: a request, a command or a task."""

    operation: str = "request"
    method: str = ""
    #: The path as it came, or the name of a command or a task.
    path: str = ""
    #: The route, where it is known.
    route: str = ""
    #: A request's ``META``, or another mapping of ``HTTP_...`` names.
    headers: Mapping[str, Any] = {}
    #: None: it is not known yet, and may come to be.
    user_id: str | None = None
    subscription: str | None = None


class Match(NamedTuple):
    """What :meth:`RuleSet.match` found."""

    #: The rule that decides; None when none does.
    rule: Rule | None
    #: Whether one before it would decide if the user turned out to be the one that it is for.
    open: bool


class Reason(NamedTuple):
    """Why a rule did or did not match, for a person."""

    rule: Rule
    matches: bool
    #: The first condition that did not hold (``method``, ``path``, ...), empty when all did.
    failed: str


def header_key(name: str) -> str:
    """The name that a header has in ``request.META``."""
    key = name.strip().upper().replace("-", "_")
    return key if key in _BARE else f"HTTP_{key}"


def pattern_problem(path: str) -> str:
    """What is wrong with a path's pattern, in words for a person; empty when nothing is."""
    if path.startswith("~"):
        try:
            re.compile(path[1:])
        except re.error as error:
            where = "" if error.pos is None else f" at character {error.pos + 1}"
            return f"This regular expression can't be read: {error.msg}{where}."
        except (OverflowError, RecursionError, ValueError) as error:
            return f"This regular expression can't be read: {error}."
        if not _longest(path[1:]):
            return (
                "This regular expression may take forever on a path that was made for it: write it without a "
                "repetition or an alternative inside another repetition, and with three of them at most."
            )
    return ""


@lru_cache(maxsize=512)
def _longest(pattern: str) -> int:
    """How much of a path ``pattern`` is given, in characters; 0 when it can't be given any."""
    try:
        parser = import_module(_PARSER)
    except ImportError:  # it is private: some day it may be elsewhere
        return 0 if _REPEATED.search(pattern) else _LENGTHS[0]
    read = parser.parse(pattern)
    return next((length for length in _LENGTHS if _most_steps(read, length) <= _MOST_STEPS), 0)


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


def _glob(pattern: str) -> re.Pattern[str]:
    """``pattern`` with ``*`` and ``?``, as a regular expression that never looks back: no text takes it long."""
    first, *parts = [
        "".join("." if character == "?" else re.escape(character) for character in part)
        for part in re.split(r"\*+", pattern)
    ]
    if not parts:
        return re.compile(first, re.DOTALL)
    *between, last = parts
    # A lookahead is not tried again; Python has atomic groups from 3.11 on.
    found = "".join(f"(?=(?P<g{n}>.*?{part}))(?P=g{n})" for n, part in enumerate(between))
    return re.compile(f"{first}{found}.*{last}", re.DOTALL)


class _Compiled:
    """A rule, ready to be asked."""

    __slots__ = ("_path", "by_user", "header", "method", "operation", "position", "prefix", "rule", "valid_until")

    def __init__(self, position: int, rule: Rule) -> None:
        self.position = position
        self.rule = rule
        self.operation = rule.operation
        self.method = rule.method.upper()
        self.valid_until = rule.valid_until
        self.by_user = bool(rule.user_id or rule.subscription)
        self.header = header_key(rule.header_name) if rule.header_name else ""
        self._path: Callable[[str], object] | None = None
        #: What a path that matches begins with.
        self.prefix = ""
        path = rule.path
        if path.startswith("~"):
            search, length = re.compile(path[1:]).search, _longest(path[1:])
            self._path = lambda text: search(text[:length])
            self.prefix = _regex_prefix(path[1:])
        elif path:
            wildcard = _WILDCARDS.search(path)
            if wildcard is None:
                self._path = path.__eq__
                self.prefix = path
            else:
                fullmatch = _glob(path).fullmatch
                self._path = lambda text: fullmatch(text[: _LENGTHS[0]])
                self.prefix = path[: wildcard.start()]

    def failed(self, asked: Asked, now: float) -> str:
        """The first condition, the user's aside, that does not hold; empty when all do."""
        if self.valid_until is not None and now >= self.valid_until:
            return "valid_until"
        if self.operation and self.operation != asked.operation:
            return "operation"
        if self.method and self.method != asked.method:
            return "method"
        matches = self._path
        if (
            matches is not None
            and matches(asked.path) in (None, False, NotImplemented)
            and (not asked.route or matches(asked.route) in (None, False, NotImplemented))
        ):
            return "path"
        if self.header:
            value = asked.headers.get(self.header)
            if value is None or (self.rule.header_value and str(value) != self.rule.header_value):
                return "header"
        return ""

    def user_failed(self, asked: Asked) -> str:
        """Which condition on the user does not hold, of one who is known."""
        rule = self.rule
        if rule.user_id and rule.user_id != asked.user_id:
            return "user_id"
        if rule.subscription and rule.subscription != asked.subscription:
            return "subscription"
        return ""


def _regex_prefix(pattern: str) -> str:
    found = _LITERAL.match(pattern)
    if found is None or "|" in pattern:
        return ""
    literal, rest = found[1], pattern[found.end() :]
    if rest.startswith(_OPTIONAL):
        # The last character may be missing.
        literal = literal[:-2] if literal[-2:-1] == "\\" else literal[:-1]
    return literal.replace("\\", "")


class RuleSet:
    """Rules in their order, compiled; made by :func:`compile_rules`."""

    def __init__(self, rules: list[_Compiled], left_out: list[tuple[Rule, str]]) -> None:
        self.compiled = rules
        #: Rules that can't be used, and why.
        self.left_out = left_out
        #: Whether any rule is for a user or a subscription: only then is anything recorded before it is decided.
        self.asks_for_users = any(rule.by_user for rule in rules)
        #: Whether any rule is for a route, which is known only when the URL has been resolved.
        self.asks_for_routes = any("<" in rule.rule.path for rule in rules)
        self._users: dict[str, list[_Compiled]] = defaultdict(list)
        self._subscriptions: dict[str, list[_Compiled]] = defaultdict(list)
        self._prefixes: dict[int, dict[str, list[_Compiled]]] = defaultdict(lambda: defaultdict(list))
        self._headers: dict[str, list[_Compiled]] = defaultdict(list)
        self._others: list[_Compiled] = []
        #: Those for users, by prefix: what may still come to match while nobody knows the user.
        self._open_prefixes: dict[int, dict[str, list[_Compiled]]] = defaultdict(lambda: defaultdict(list))
        for compiled in rules:
            rule = compiled.rule
            if rule.user_id:
                self._users[rule.user_id].append(compiled)
            elif rule.subscription:
                self._subscriptions[rule.subscription].append(compiled)
            elif compiled.prefix:
                self._prefixes[len(compiled.prefix)][compiled.prefix].append(compiled)
            elif compiled.header:
                self._headers[compiled.header].append(compiled)
            else:
                self._others.append(compiled)
            if compiled.by_user:
                self._open_prefixes[len(compiled.prefix)][compiled.prefix].append(compiled)

    def __len__(self) -> int:
        return len(self.compiled)

    def match(self, asked: Asked, now: float) -> Match:
        """The first rule that matches; ``now`` is seconds since the epoch."""
        best: _Compiled | None = None
        for candidates in self._candidates(asked):
            for compiled in candidates:
                if best is not None and compiled.position >= best.position:
                    break
                if not compiled.failed(asked, now) and not compiled.user_failed(asked):
                    best = compiled
                    break
        is_open = False
        if self.asks_for_users and asked.user_id is None:
            before = len(self.compiled) if best is None else best.position
            is_open = self._may_match(asked, now, before)
        return Match(None if best is None else best.rule, is_open)

    def _candidates(self, asked: Asked) -> Iterable[list[_Compiled]]:
        if self._others:
            yield self._others
        if asked.user_id is not None:
            found = self._users.get(asked.user_id)
            if found is not None:
                yield found
            found = None if asked.subscription is None else self._subscriptions.get(asked.subscription)
            if found is not None:
                yield found
        for header, found in self._headers.items():
            if header in asked.headers:
                yield found
        yield from _by_prefix(self._prefixes, asked)

    def _may_match(self, asked: Asked, now: float, before: int) -> bool:
        for candidates in _by_prefix(self._open_prefixes, asked):
            for compiled in candidates:
                if compiled.position >= before:
                    break
                if not compiled.failed(asked, now):
                    return True
        return False

    def explain(self, asked: Asked, now: float) -> list[Reason]:
        """What became of each rule, in their order, up to the one that decides."""
        reasons = []
        for compiled in self.compiled:
            failed = compiled.failed(asked, now) or compiled.user_failed(asked)
            reasons.append(Reason(compiled.rule, not failed, failed))
            if not failed:
                break
        return reasons


def _by_prefix(prefixes: Mapping[int, Mapping[str, list[_Compiled]]], asked: Asked) -> Iterable[list[_Compiled]]:
    path, route = asked.path, asked.route
    for length, by_prefix in prefixes.items():
        found = by_prefix.get(path[:length])
        if found is not None:
            yield found
        if route and route[:length] != path[:length]:
            found = by_prefix.get(route[:length])
            if found is not None:
                yield found


def compile_rules(rules: Iterable[Rule], service: str) -> RuleSet:
    """``rules``, in their order, for the processes of ``service``; those that can't be used are left out."""
    compiled: list[_Compiled] = []
    left_out: list[tuple[Rule, str]] = []
    for rule in rules:
        if rule.service and _glob(rule.service).fullmatch(service) is None:
            continue
        problem = pattern_problem(rule.path)
        if problem:
            left_out.append((rule, problem))
            continue
        compiled.append(_Compiled(len(compiled), rule))
    return RuleSet(compiled, left_out)
