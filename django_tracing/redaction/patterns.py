"""Compile regular expressions on first use, and bound every redaction's input and faults."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

from django_tracing.caches import make_room

__all__ = ["LONGEST_KEPT", "MARK", "REDACTED", "Harmless", "Pattern", "cut", "pattern", "safely"]

P = ParamSpec("P")
T = TypeVar("T")

REDACTED: Final = "[redacted]"
#: At the end of a value that was cut.
MARK: Final = "…"

#: Longer texts hardly come again.
LONGEST_KEPT: Final = 200
#: So many of them.
_MOST_KEPT: Final = 2048

#: The methods of patterns that this app calls.
_METHODS: Final = ("findall", "finditer", "fullmatch", "match", "search", "sub")


class Pattern:
    """A regular expression that is compiled on first use.

    There are fifty, which take 10 ms to compile: a third of the budget of the start. A process uses few of them.
    """

    __slots__ = ("flags", "source", *_METHODS)

    def __init__(self, source: str, flags: int) -> None:
        self.source = source
        self.flags = flags

    def __getattr__(self, name: str) -> Any:
        # Reached once: from then on, the slots contain the compiled pattern's methods, which are called directly.
        compiled = re.compile(self.source, self.flags)
        for method in _METHODS:
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


def pattern(source: str, flags: int = 0) -> re.Pattern[str]:
    return cast("re.Pattern[str]", Pattern(source, flags))


class Harmless(dict[str, None]):
    """Remember texts without secrets, since most texts repeat. Texts with secrets are not kept in memory."""

    __slots__ = ()

    def keep(self, text: str) -> None:
        if len(text) <= LONGEST_KEPT:
            make_room(self, _MOST_KEPT)
            self[text] = None


def safely(otherwise: Callable[[], Any]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Wrap a redaction: if it fails, the value is dropped and the request goes on."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def safe(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except Exception:
                return otherwise()  # type: ignore[no-any-return]

        return safe

    return decorate


def cut(value: str, max_length: int) -> str:
    """Cut ``value`` to ``max_length`` characters (one or more); the last one is ``…`` if some were cut."""
    return value if len(value) <= max_length else value[: max(max_length - 1, 0)] + MARK
