"""The rules of sampling: which one a request, a command or a task meets. Pure; knows no Django and no SDK.

``RuleSet.match`` is asked for every trace that begins here, so rules are indexed when they are compiled: a rule is
looked at only when its user, its subscription or the literal beginning of its path are those of the request.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from django_tracing.conf.patterns import LONGEST, bounded_search, regex_problem

__all__ = ["Asked", "Match", "Reason", "Rule", "RuleSet", "compile_rules", "header_key", "pattern_problem"]

_WILDCARDS: Final = re.compile(r"[*?]")
#: The literal beginning of a regular expression that is bound to the start.
_LITERAL: Final = re.compile(r"\^((?:[\w/ -]|\\[./-])*)")
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
    return regex_problem(path[1:]) if path.startswith("~") else ""


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

    def __init__(self, position: int, rule: Rule, sharing: int = 1) -> None:
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
            self._path = bounded_search(path[1:], sharing)
            self.prefix = _regex_prefix(path[1:])
        elif path:
            wildcard = _WILDCARDS.search(path)
            if wildcard is None:
                self._path = path.__eq__
                self.prefix = path
            else:
                fullmatch = _glob(path).fullmatch
                self._path = lambda text: fullmatch(text[:LONGEST])
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
    rules = list(rules)
    # All regular expressions together take no longer than one may.
    sharing = max(sum(rule.path.startswith("~") for rule in rules), 1)
    compiled: list[_Compiled] = []
    left_out: list[tuple[Rule, str]] = []
    for rule in rules:
        if rule.service and _glob(rule.service).fullmatch(service) is None:
            continue
        problem = pattern_problem(rule.path)
        if problem:
            left_out.append((rule, problem))
            continue
        compiled.append(_Compiled(len(compiled), rule, sharing))
    return RuleSet(compiled, left_out)
