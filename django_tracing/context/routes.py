"""Name the routes of a URLconf: without regular expressions, and no two routes alike."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any, Final, NamedTuple

from django.urls import get_resolver
from django.urls.resolvers import LocalePrefixPattern, RegexPattern, RoutePattern
from django.utils.translation import get_language

from django_tracing.redaction.patterns import pattern

__all__ = ["inexact_routes", "readable_route", "route_name"]

#: A part of a route that varies and has no name.
_VARIABLE: Final = "<var>"
#: More routes are not compared with each other, and deeper ones not read: a URLconf may include itself.
_MOST_ROUTES: Final = 20_000
_DEEPEST: Final = 16
#: What only a regular expression contains. ``path("c++/", ...)`` and ``path("v1.0/", ...)`` are none.
_REGEX: Final = pattern(r"[\^$\\(\[*?|]")
_SLASHES: Final = pattern(r"/{2,}")
_QUANTIFIER: Final = pattern(r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\}|\{,[0-9]+\})[?+]?")
#: Characters that stand for themselves, once.
_PLAIN: Final = pattern(r"[\w/<>:-]+(?![*+?{])")
_CLASS: Final = pattern(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
#: A class of one character, which is written so because it is special elsewhere: ``[.]``.
_ONE: Final = pattern(r"\[\\?([^\w^\\])\]")
_GROUP: Final = pattern(
    r"\((?:\?(?:P?<(?P<name>\w+)>|P=(?P<again>\w+)\)|(?P<hidden>#|<?[=!])|\(\w+\)|[a-zA-Z-]*(?P<end>[:)])|>))?"
)
_ESCAPE: Final = pattern(r"\\(?:x(?P<x>[0-9a-fA-F]{2})|u(?P<u>[0-9a-fA-F]{4})|(?P<char>.))", re.DOTALL)
_ANCHORS: Final = frozenset("AbBzZ")
#: Deeper groups are not read as such. ``re`` fails before.
_MOST_LEVELS: Final = 100


def readable_route(route: str) -> str:
    """Return a route as span names show it: with a leading slash, and without regular expressions.

    ``^users/(?P<pk>[0-9]+)/$`` becomes ``/users/<pk>/``, and ``^files/(.*)$`` becomes ``/files/<var>``. Optional
    parts are shown: ``^late/?$`` becomes ``/late/``. :func:`route_name` keeps two routes apart that this makes alike.
    """
    return _tidy(_read(route, exact=False)[0]) if _REGEX.search(route) else _with_slash(route)


def route_name(route: str, urlconf: Any = None) -> str:
    """Return the name of a resolved route in ``urlconf`` (default: ROOT_URLCONF). Two routes have two names.

    This is :func:`readable_route`, unless another route of the same URLconf reads the same: then the regular
    expressions are part of both names, as in ``/users/<pk:[0-9]+>/``.
    """
    named = _routes(urlconf)
    found = None if named is None else named.names.get(route)
    return _readable(route) if found is None else found


def inexact_routes(urlconf: Any = None) -> frozenset[str] | None:
    """Return the names of those routes of ``urlconf`` that match other paths than their own name.

    None if they are not known: there are too many, or they are translated or start with a language, and differ from
    request to request.
    """
    named = _routes(urlconf)
    return None if named is None else named.inexact


_readable: Final = lru_cache(maxsize=1024)(readable_route)


# ----- one regular expression


class _Group:
    """A group of a regular expression while it is read; the first one is the whole expression."""

    __slots__ = ("alternatives", "kind", "name", "names", "parts", "start")

    def __init__(self, kind: str, start: int, name: str = "") -> None:
        #: ``whole``, ``named``, ``unnamed``, ``plain`` (not captured) or ``hidden`` (matches no text of its own).
        self.kind = kind
        self.name = name
        #: The position of its content.
        self.start = start
        #: Whether it contains named groups: Django ignores unnamed ones then.
        self.names = False
        self.alternatives: list[list[str]] = []
        #: What the present alternative shows.
        self.parts: list[str] = []

    def text(self) -> str:
        alternatives = ["".join(parts) for parts in (*self.alternatives, self.parts)]
        shown = [text for text in dict.fromkeys(alternatives) if text]
        if len(shown) > 1 and self.kind != "whole":
            return f"({'|'.join(shown)})"
        return "|".join(shown)

    def shown(self, content: str, exact: bool) -> str:
        """Return what the whole shows of this group, whose regular expression is ``content``."""
        if self.kind == "hidden":
            return ""
        if self.kind == "named":
            return f"<{self.name}:{content}>" if exact else f"<{self.name}>"
        if self.kind == "unnamed" and not self.names:
            return f"<{content}>" if exact else _VARIABLE
        return self.text()


@lru_cache(maxsize=1024)
def _read(regex: str, exact: bool) -> tuple[str, bool]:
    """Return what to show of a regular expression, and whether it matches that text only.

    With ``exact``, variable parts are shown as they are written. The expression may be the route of a ``path()``, and
    no expression at all. It is read once from left to right.
    """
    groups = [_Group("whole", 0)]
    literal = has_classes = True
    at, length = 0, len(regex)
    while at < length:
        start = at
        group = groups[-1]
        plain = _PLAIN.match(regex, at)
        if plain is not None:
            at = plain.end()
            group.parts.append(plain[0])
            continue
        shown = regex[at]
        at += 1
        variable = False
        if shown in "^$":
            continue
        if shown == "|":
            literal = False
            group.alternatives.append(group.parts)
            group.parts = []
            continue
        if shown == "(" and len(groups) < _MOST_LEVELS:
            literal = False
            opened = _GROUP.match(regex, start)
            assert opened is not None
            at = opened.end()
            if opened["hidden"] == "#":
                at = regex.find(")", at) + 1 or length
                continue
            if not opened["again"]:
                if opened["end"] != ")":  # else it sets flags, and contains nothing
                    kind = "hidden" if opened["hidden"] else "named" if opened["name"] else "plain"
                    groups.append(_Group("unnamed" if at == start + 1 else kind, at, opened["name"] or ""))
                continue
            shown = f"<{opened['again']}>"
        elif shown == ")" and len(groups) > 1:
            groups.pop()
            groups[-1].names = groups[-1].names or group.names or group.kind == "named"
            shown = group.shown(regex[group.start : start] if exact else "", exact)
            group = groups[-1]
        elif shown == "[" and has_classes:
            found = _CLASS.match(regex, start)
            has_classes = found is not None
            if found is not None:
                at = found.end()
                one = _ONE.fullmatch(found[0])
                variable = one is None
                shown = "" if one is None else one[1]
        elif shown == "\\":
            found = _ESCAPE.match(regex, start)
            if found is not None:
                at = found.end()
                code = found["x"] or found["u"]
                shown = chr(int(code, 16)) if code else found["char"]
                if not code and shown in _ANCHORS:
                    continue
                variable = not shown.isprintable() if code else shown.isalnum()
        elif shown == ".":
            literal = False
        quantifier = _QUANTIFIER.match(regex, at)
        if quantifier is not None:
            literal = False
            at = quantifier.end()
            # A dot without a quantifier is meant as a dot, most often.
            variable = variable or regex[start] == "."
        if variable:
            literal = False
            shown = regex[start:at] if exact else "" if group.parts[-1:] == [_VARIABLE] else _VARIABLE
        elif exact and quantifier is not None and shown:
            repeated = f"({shown})" if len(shown) > 1 and shown[0] not in "<(" else shown
            shown = f"{repeated}{quantifier[0]}"
        if shown:
            group.parts.append(shown)
    # A parenthesis that nothing closes is one of a path().
    while len(groups) > 1:
        group = groups.pop()
        groups[-1].parts.append(f"({group.text()}")
    return groups[0].text(), literal


def _tidy(shown: str) -> str:
    """Return what is shown of regular expressions with single slashes, which are joined of two."""
    return _with_slash(_SLASHES.sub("/", shown))


def _with_slash(route: str) -> str:
    return route if route.startswith("/") else f"/{route}"


# ----- all routes of a URLconf


#: The texts of patterns, and whether each is a regular expression.
_Parts = tuple[tuple[str, bool], ...]


class _Route(NamedTuple):
    """A route as ``ResolverMatch.route`` gives it, and what it is joined from."""

    joined: str
    parts: _Parts

    def name(self, exact: bool) -> str:
        shown = "".join(_read(text, exact)[0] if is_regex else text for text, is_regex in self.parts)
        return _tidy(shown) if any(is_regex for _, is_regex in self.parts) else _with_slash(shown)

    @property
    def only_path(self) -> str | None:
        """The one path that it matches; None if there are others."""
        # Django searches a path for an expression, but compares all of it with the last one if that ends in ``$``.
        last, is_regex = self.parts[-1]
        starts = self.parts[:-1] if last.endswith("$") else self.parts
        if (is_regex and not last.endswith(("$", r"\Z", r"\z"))) or not all(
            text.startswith("^") for text, is_regex in starts if is_regex
        ):
            return None
        read = [_read(text, exact=False) if is_regex else (text, "<" not in text) for text, is_regex in self.parts]
        return "/" + "".join(text for text, _ in read) if all(literal for _, literal in read) else None


class _Named(NamedTuple):
    """The routes of a URLconf in one language."""

    #: The names of those routes that :func:`readable_route` does not name by itself.
    names: dict[str, str]
    inexact: frozenset[str] | None


class _Site:
    """The routes of a URLconf, in each language that they were asked for in."""

    def __init__(self, resolver: Any) -> None:
        self.resolver = resolver
        self.translated = False
        #: Whether all routes could be read.
        self.whole = True
        self._named: dict[str | None, _Named] = {}

    def named(self) -> _Named:
        # Django activates the site's languages only: they are few.
        found = self._named.get(get_language() if self.translated else None)
        if found is None:
            routes = self._routes(self.resolver, "", (), 0)
            found = _name_all(islice(routes, _MOST_ROUTES))
            if self.translated or not self.whole or next(routes, None) is not None:
                found = found._replace(inexact=None)
            self._named[get_language() if self.translated else None] = found
        return found

    def _routes(self, resolver: Any, before: str, parts: _Parts, depth: int) -> Iterator[_Route]:
        for found in resolver.url_patterns:
            pattern = found.pattern
            text = str(pattern)
            # A translated pattern, whose text is a lazy one.
            written = getattr(pattern, "_route", getattr(pattern, "_regex", text))
            if isinstance(pattern, LocalePrefixPattern) or not isinstance(written, str):
                self.translated = True
            is_regex = isinstance(pattern, RegexPattern) or (
                not isinstance(pattern, (RoutePattern, LocalePrefixPattern)) and _REGEX.search(text) is not None
            )
            # As Django joins them.
            joined = before + text.removeprefix("^") if before else text
            here = (*parts, (text, is_regex))
            if not hasattr(found, "url_patterns"):
                yield _Route(joined, here)
            elif depth < _DEEPEST:
                yield from self._routes(found, joined, here, depth + 1)
            else:
                self.whole = False


def _name_all(routes: Iterable[_Route]) -> _Named:
    """Name routes: readable if that tells them apart, or else exact, or else as they are joined."""
    by_joined: dict[str, _Route] = {}
    #: A path() and a re_path() may be joined alike, and match different paths.
    only_paths: dict[str, set[str | None]] = defaultdict(set)
    for route in routes:
        by_joined.setdefault(route.joined, route)
        only_paths[route.joined].add(route.only_path)
    names = {joined: route.name(exact=False) for joined, route in by_joined.items()}
    levels: list[Callable[[_Route], str]] = [lambda route: route.name(exact=True), lambda route: f"/{route.joined}"]
    level = dict.fromkeys(names, 0)
    while True:
        sharing = defaultdict(list)
        for joined, name in names.items():
            sharing[name].append(joined)
        alike = [joined for group in sharing.values() if len(group) > 1 for joined in group if level[joined] < 2]
        if not alike:
            break
        for joined in alike:
            names[joined] = levels[level[joined]](by_joined[joined])
            level[joined] += 1
    return _Named(
        {joined: name for joined, name in names.items() if name != _readable(joined)},
        frozenset(name for joined, name in names.items() if only_paths[joined] != {name}),
    )


@lru_cache(maxsize=16)
def _site(resolver: Any) -> _Site:
    # Django makes another resolver when the URLs have changed.
    return _Site(resolver)


def _routes(urlconf: Any) -> _Named | None:
    try:
        return _site(get_resolver(urlconf)).named()
    except Exception:  # an error in the site's URLs: Django reports it
        return None
