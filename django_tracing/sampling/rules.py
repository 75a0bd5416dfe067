"""Match requests, commands and tasks with sampling rules. Knows neither Django nor the SDK.

``RuleSet.match`` is called for every trace that starts here, so compiling the rules builds an index: a rule is
compared only if its user, its subscription or the literal prefix of its path is that of the request.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from django_tracing.caches import make_room
from django_tracing.conf.patterns import LONGEST, bounded_search, regex_problem

__all__ = [
    *("Match", "Reason", "Rule", "RuleSet", "TraceStart", "compile_rules", "header_key", "pattern_problem"),
    "start_of_work",
]

_WILDCARDS: Final = re.compile(r"[*?]")
#: The literal prefix of a regular expression that matches at the start only.
_LITERAL: Final = re.compile(r"\^((?:[\w/ -]|\\[./-])*)")
#: Headers that have no ``HTTP_`` prefix in WSGI.
_BARE: Final = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})
#: These make the character before them optional.
_OPTIONAL: Final = ("?", "*", "{")
#: More pairs of a pattern and a route are not compared in advance.
_MOST_COMPARED: Final = 10_000
_MOST_URLCONFS: Final = 16


class Rule(NamedTuple):
    """A rule as an operator wrote it. An empty condition is always true."""

    id: int
    name: str
    #: ``request``, ``command`` or ``task``.
    operation: str = ""
    method: str = ""
    #: May have the wildcards ``*`` and ``?``. After a ``~``, a regular expression that is searched for.
    path: str = ""
    service: str = ""
    user_id: str = ""
    subscription: str = ""
    header_name: str = ""
    header_value: str = ""
    #: 0 to 1.
    rate: float = 1.0
    #: The maximum of traces a second.
    max_per_second: float | None = None
    keep_errors: bool | None = None
    #: Seconds.
    keep_slower_than: float | None = None
    #: Seconds since the epoch.
    valid_until: float | None = None


class TraceStart(NamedTuple):
    """What starts a trace: a request, a command or a task."""

    operation: str = "request"
    method: str = ""
    #: The path of the request, or the name of a command or a task.
    path: str = ""
    #: The route, if it is known.
    route: str = ""
    #: The request's ``META``, or another mapping with ``HTTP_...`` names.
    headers: Mapping[str, Any] = {}
    #: None if it is not known yet.
    user_id: str | None = None
    subscription: str | None = None


def start_of_work(name: str) -> TraceStart:
    """Return the start of a trace without a request, by the name of its first span."""
    for operation, prefix in (("command", "command."), ("task", "task.run.")):
        if name.startswith(prefix):
            return TraceStart(operation, "", name[len(prefix) :])
    return TraceStart("", "", name)


class Match(NamedTuple):
    """The result of :meth:`RuleSet.match`."""

    #: The rule that decides; None if no rule does.
    rule: Rule | None
    #: Whether an earlier rule would decide, depending on who the user is.
    open: bool


class Reason(NamedTuple):
    """Why a rule did or did not match, for the admin."""

    rule: Rule
    matches: bool
    #: The first condition that was false (``method``, ``path``, ...); empty if all were true.
    failed: str


def header_key(name: str) -> str:
    """Return the name of a header in ``request.META``."""
    key = name.strip().upper().replace("-", "_")
    return key if key in _BARE else f"HTTP_{key}"


def pattern_problem(path: str) -> str:
    """Return what is wrong with a path's pattern, as text for the admin; empty if it is right."""
    return regex_problem(path[1:]) if path.startswith("~") else ""


def _glob(pattern: str) -> re.Pattern[str]:
    """Convert a pattern with ``*`` and ``?`` to a regular expression that never backtracks: no text takes long."""
    first, *parts = [
        "".join("." if character == "?" else re.escape(character) for character in part)
        for part in re.split(r"\*+", pattern)
    ]
    if not parts:
        return re.compile(first, re.DOTALL)
    *between, last = parts
    # A lookahead is not retried. Python has atomic groups only since 3.11.
    found = "".join(f"(?=(?P<g{n}>.*?{part}))(?P=g{n})" for n, part in enumerate(between))
    return re.compile(f"{first}{found}.*{last}", re.DOTALL)


class _Compiled:
    """A rule that is ready for matching."""

    __slots__ = (
        *("_path", "by_user", "header", "is_literal", "method", "operation", "position", "prefix", "rule"),
        "valid_until",
    )

    def __init__(self, position: int, rule: Rule, sharing: int = 1) -> None:
        self.position = position
        self.rule = rule
        self.operation = rule.operation
        self.method = rule.method.upper()
        self.valid_until = rule.valid_until
        self.by_user = bool(rule.user_id or rule.subscription)
        self.header = header_key(rule.header_name) if rule.header_name else ""
        self._path: Callable[[str], object] | None = None
        #: Whether the path has no wildcards.
        self.is_literal = False
        #: The prefix of every path that matches.
        self.prefix = ""
        path = rule.path
        if path.startswith("~"):
            self._path = bounded_search(path[1:], sharing)
            self.prefix = _regex_prefix(path[1:])
        elif path:
            wildcard = _WILDCARDS.search(path)
            if wildcard is None:
                self._path = path.__eq__
                self.is_literal = True
                self.prefix = path
            else:
                fullmatch = _glob(path).fullmatch
                self._path = lambda text: fullmatch(text[:LONGEST])
                self.prefix = path[: wildcard.start()]

    def failed(self, start: TraceStart, now: float) -> str:
        """Return the first condition, except those on the user, that is false; empty if all are true."""
        if self.valid_until is not None and now >= self.valid_until:
            return "valid_until"
        if self.operation and self.operation != start.operation:
            return "operation"
        if self.method and self.method != start.method:
            return "method"
        if (
            self._path is not None
            and not self.matches_path(start.path)
            and not (start.route and self.matches_path(start.route))
        ):
            return "path"
        if self.header:
            value = start.headers.get(self.header)
            if value is None or (self.rule.header_value and str(value) != self.rule.header_value):
                return "header"
        return ""

    def matches_path(self, path: str) -> bool:
        """Return whether the rule's path, if it has one, matches a path or a route."""
        return self._path is None or self._path(path) not in (None, False, NotImplemented)

    def user_failed(self, start: TraceStart) -> str:
        """Return the first condition on a known user that is false; empty if all are true."""
        rule = self.rule
        if rule.user_id and rule.user_id != start.user_id:
            return "user_id"
        if rule.subscription and rule.subscription != start.subscription:
            return "subscription"
        return ""


def _regex_prefix(pattern: str) -> str:
    found = _LITERAL.match(pattern)
    if found is None or "|" in pattern:
        return ""
    literal, rest = found[1], pattern[found.end() :]
    if rest.startswith(_OPTIONAL):
        # The last character is optional. A backslash before it goes with the others.
        literal = literal[:-1]
    return literal.replace("\\", "")


class RuleSet:
    """Compiled rules, in their order. Created by :func:`compile_rules`."""

    def __init__(self, rules: list[_Compiled], left_out: list[tuple[Rule, str]]) -> None:
        self.compiled = rules
        #: Rules that can't be used, and the reason.
        self.left_out = left_out
        #: Whether a rule is for a user or a subscription. Only then are traces recorded before they are decided on.
        self.uses_users = any(rule.by_user for rule in rules)
        #: The rules that have a path, which may be a route. A route is known only after the URL is resolved.
        self._with_paths = [rule for rule in rules if rule.rule.path]
        self._for_routes: dict[frozenset[str], bool] = {}
        self._users: dict[str, list[_Compiled]] = defaultdict(list)
        self._subscriptions: dict[str, list[_Compiled]] = defaultdict(list)
        self._prefixes: dict[int, dict[str, list[_Compiled]]] = defaultdict(lambda: defaultdict(list))
        self._headers: dict[str, list[_Compiled]] = defaultdict(list)
        self._others: list[_Compiled] = []
        #: Rules for users, by prefix. They may match once the user is known.
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

    @property
    def has_paths(self) -> bool:
        """Return True if a rule has a path."""
        return bool(self._with_paths)

    def uses_routes(self, routes: frozenset[str] | None) -> bool:
        """Return whether a rule matches one of ``routes``, the site's that match other paths than their own name.

        If it does not, no rule needs to know the route of a request. None: the routes are not known.
        """
        if routes is None:
            return self.has_paths
        asks = self._for_routes.get(routes)
        if asks is None:
            make_room(self._for_routes, _MOST_URLCONFS)
            asks = self._for_routes[routes] = self._match_any(routes)
        return asks

    def _match_any(self, routes: frozenset[str]) -> bool:
        patterns = [rule for rule in self._with_paths if not rule.is_literal]
        if any(rule.rule.path in routes for rule in self._with_paths if rule.is_literal):
            return True
        return len(patterns) * len(routes) > _MOST_COMPARED or any(
            rule.matches_path(route) for rule in patterns for route in routes
        )

    def match(self, start: TraceStart, now: float) -> Match:
        """Return the first rule that matches. ``now`` is in seconds since the epoch."""
        best: _Compiled | None = None
        for candidates in self._candidates(start):
            for compiled in candidates:
                if best is not None and compiled.position >= best.position:
                    break
                if not compiled.failed(start, now) and not compiled.user_failed(start):
                    best = compiled
                    break
        is_open = False
        if self.uses_users and start.user_id is None:
            before = len(self.compiled) if best is None else best.position
            is_open = self._may_match(start, now, before)
        return Match(None if best is None else best.rule, is_open)

    def _candidates(self, start: TraceStart) -> Iterable[list[_Compiled]]:
        if self._others:
            yield self._others
        if start.user_id is not None:
            found = self._users.get(start.user_id)
            if found is not None:
                yield found
            found = None if start.subscription is None else self._subscriptions.get(start.subscription)
            if found is not None:
                yield found
        for header, found in self._headers.items():
            if header in start.headers:
                yield found
        yield from _by_prefix(self._prefixes, start)

    def _may_match(self, start: TraceStart, now: float, before: int) -> bool:
        for candidates in _by_prefix(self._open_prefixes, start):
            for compiled in candidates:
                if compiled.position >= before:
                    break
                if not compiled.failed(start, now):
                    return True
        return False

    def explain(self, start: TraceStart, now: float) -> list[Reason]:
        """Return why each rule matches or not, in their order, up to the one that decides."""
        reasons = []
        for compiled in self.compiled:
            failed = compiled.failed(start, now) or compiled.user_failed(start)
            reasons.append(Reason(compiled.rule, not failed, failed))
            if not failed:
                break
        return reasons


def _by_prefix(prefixes: Mapping[int, Mapping[str, list[_Compiled]]], start: TraceStart) -> Iterable[list[_Compiled]]:
    path, route = start.path, start.route
    for length, by_prefix in prefixes.items():
        found = by_prefix.get(path[:length])
        if found is not None:
            yield found
        if route and route[:length] != path[:length]:
            found = by_prefix.get(route[:length])
            if found is not None:
                yield found


def compile_rules(rules: Iterable[Rule], service: str) -> RuleSet:
    """Compile ``rules``, in their order, for ``service``. Rules that can't be used are left out."""
    rules = list(rules)
    # All regular expressions together may take as long as one.
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
