"""Cache and Redis keys as patterns of low cardinality."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from django_tracing.redaction.names import HUMP
from django_tracing.redaction.patterns import cut, pattern, safely
from django_tracing.redaction.text import JWT

__all__ = ["key_pattern"]

_PATTERN_LENGTH: Final = 100
#: Parts of a key that belong together less than words joined by a hyphen or an underscore do.
_KEY_PART: Final = pattern(r"[^:/.|,;=#&?\s\[\]{}()<>\"']+")
_KEY_WORD: Final = pattern(r"[^_-]+")
#: Where an e-mail may stand, between separators.
_KEY_ADDRESS: Final = pattern(r"[^:/|,;\s]+")
_PLAIN_WORD: Final = pattern(r"[A-Za-z]{1,24}|v\d{1,3}")
_HEXADECIMAL: Final = pattern(r"[0-9a-fA-F]{8,}")
_LETTERS_AND_DIGITS: Final = pattern(r"(?=.*\d)(?=.*[A-Za-z])")
#: What Django's session keys follow without a separator.
_SESSION_PREFIX: Final = pattern(r"(sessions\.(?:cache|cached_db))[a-z0-9]{32}")
#: A uuid is one value, not five; so is a date.
_STARS: Final = pattern(r"\*(?:[-_]\*)+")


def _key_pattern(key: str) -> str:
    session = _SESSION_PREFIX.search(key) if "sessions.cache" in key else None
    if session is not None:
        return cut(f"{_key_pattern(key[: session.end(1)])}*{_key_pattern(key[session.end() :])}", _PATTERN_LENGTH)
    if "@" in key or "%40" in key:
        key = _KEY_ADDRESS.sub(_key_address, key)
    if "eyJ" in key:
        key = JWT.sub("*", key)
    return cut(_STARS.sub("*", _KEY_PART.sub(_key_part, key)), _PATTERN_LENGTH)


def _key_address(match: re.Match[str]) -> str:
    part = match.group()
    # Not at its ends: an e-mail has a name and a domain.
    return "*" if "@" in part[1:-1] or "%40" in part[1:-1] else part


def _key_part(match: re.Match[str]) -> str:
    part = match.group()
    # A token may hold hyphens, and letters between them that could be words.
    if (
        len(part) >= 16
        and not (part.islower() or part.isupper())
        and any(_LETTERS_AND_DIGITS.match(word) or _is_jumbled(word) for word in _KEY_WORD.findall(part))
    ):
        return "*"
    return _KEY_WORD.sub(_key_word, part)


def _key_word(match: re.Match[str]) -> str:
    word = match.group()
    return word if _names_something(word) else "*"


def _names_something(word: str) -> bool:
    """Whether a word of a key is what a programmer wrote, rather than a value."""
    if not _PLAIN_WORD.fullmatch(word) or _HEXADECIMAL.fullmatch(word):
        return False
    if _is_jumbled(word):
        return False
    # Random letters have hardly a vowel.
    return len(word) < 8 or sum(word.lower().count(vowel) for vowel in "aeiouy") * 6 >= len(word)


def _is_jumbled(word: str) -> bool:
    """Whether capitals stand among small letters more often than at the heads of words."""
    return len(word) >= 6 and (len(HUMP.findall(word)) + 1) * 5 > len(word) * 2


_key_pattern_cached: Final = lru_cache(maxsize=2048)(_key_pattern)


@safely(lambda: "*")
def key_pattern(key: str) -> str:
    """A cache key as a pattern of low cardinality: ``blueprint:123`` is ``blueprint:*``.

    Whatever looks like a number, a uuid, a hash, a token, a date or an e-mail is a star; so is what is doubtful.
    At most 100 characters.
    """
    # Longer ones are not kept in the cache, which bounds its memory.
    return _key_pattern_cached(key) if len(key) <= 250 else _key_pattern(key[:1000])
