"""Replace home folders, which are named after people, in paths: ``/home/ada/shop`` becomes ``~/shop``."""

from __future__ import annotations

import re
from typing import Final

from django_tracing.redaction.patterns import pattern

__all__ = ["without_homes"]

#: Searched for first: most texts contain none of them.
_BASES: Final = ("/home/", "/Users/", "\\Users\\", "\\\\Users\\\\", "Documents and Settings")
_NAME: Final = r"[^/\\\s:'\"<>|,;()\[\]{}]{1,64}(?=[/\\\s:'\"<>|,;()\[\]{}]|$)"
#: In a URL's path, ``/home/`` is a page: there a host stands before it.
_HOME: Final = pattern(
    r"(?<![A-Za-z0-9_.%~/\\-])((?:file|sqlite\w{0,8}):/{0,3}(?=/))?"
    rf"(?:/[\w.-]{{1,32}}){{0,3}}/(?:home|Users)/{_NAME}"
    # Of another machine, and of Windows.
    rf"|(?<![\w:/\\])[/\\]{{2}}[\w.-]{{1,64}}[/\\](?:home|Users)[/\\]{_NAME}"
    r"|(?<!\w)[A-Za-z]:(?:/|\\{1,2})(?:Users|Documents and Settings)(?:/|\\{1,2})"
    # A name of several words goes on to the next separator.
    rf"(?:[^/\\:*?\"<>|\r\n]{{1,64}}(?=[/\\])|{_NAME})"
)


def _redact(match: re.Match[str]) -> str:
    return f"{match[1] or ''}~"


def without_homes(text: str) -> str:
    """Return ``text`` with every home folder replaced by ``~``."""
    return _HOME.sub(_redact, text) if any(base in text for base in _BASES) else text
