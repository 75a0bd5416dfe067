"""Turn cache and Redis keys into patterns of low cardinality, without personal data."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from django_tracing.redaction.key_words import LIBRARIES
from django_tracing.redaction.names import HUMP
from django_tracing.redaction.patterns import cut, pattern, safely
from django_tracing.redaction.text import JWT
from django_tracing.redaction.vocabulary import KeyWords, clear_when_used, in_use

__all__ = ["key_pattern"]

_PATTERN_LENGTH: Final = 100
#: Parts of a key that belong together less than words joined by a hyphen or an underscore do.
_KEY_PART: Final = pattern(r"[^:/.|,;=#&?\s\[\]{}()<>\"']+")
_KEY_WORD: Final = pattern(r"[^_-]+")
#: Words that are read together: ``purchase_order_line_item`` may be one model.
_MOST_TOGETHER: Final = 4
#: Separators that free text and names hardly have, and the ends of a key.
_STRONG: Final = frozenset(["", *":/|=&;?#"])
_SEGMENT: Final = pattern(r"[^:/|=&;?#]+")
_SPACE: Final = pattern(r"[\s\x00-\x1f\x7f]")
#: Where an e-mail may stand, between separators.
_KEY_ADDRESS: Final = pattern(r"[^:/|,;\s]+")
_PLAIN_WORD: Final = pattern(r"[A-Za-z]{1,24}|v\d{1,3}")
_VERSION: Final = pattern(r"v\d{1,3}")
_HEXADECIMAL: Final = pattern(r"[0-9a-fA-F]{8,}")
_LETTERS_AND_DIGITS: Final = pattern(r"(?=.*\d)(?=.*[A-Za-z])")
#: One value, though what is between its separators could be words or numbers of their own: a uuid (a group of four
#: may be ``face``), an address of IPv6, a MAC address, an address of IPv4.
_ONE_VALUE: Final = pattern(
    r"[0-9a-fA-F]{8}(?:[-_][0-9a-fA-F]{4}){3}[-_][0-9a-fA-F]{12}"
    r"|(?<![0-9A-Za-z])(?:"
    r"[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,6}::(?:[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,6}(?:\.\d{1,3}){0,3})?"
    r"|::[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){0,6}(?:\.\d{1,3}){0,3}"
    r"|[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){7}"
    r"|[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){6}(?:\.\d{1,3}){3}"
    r"|[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}(?:(?:[:-][0-9a-fA-F]{2}){2})?"
    r"|[0-9a-fA-F]{4}(?:\.[0-9a-fA-F]{4}){2}"
    r"|\d{1,3}(?:\.\d{1,3}){3}"
    r")(?![0-9A-Za-z])"
)
#: The text that Django adds before a key: its KEY_PREFIX and the version.
_HEAD: Final = pattern(r"([^:]{0,64}):\d{1,9}:")
_FRAGMENT: Final = pattern(r"([^:/|\s]{1,200})\.[0-9a-f]{32}")
#: How the keys of Django's cached pages begin, and the hashes in them.
_PAGES: Final = frozenset(["views.decorators.cache.cache_page.", "views.decorators.cache.cache_header."])
_DIGEST: Final = pattern(r"\.[0-9a-f]{32}(?=\.|$)")
#: cacheops' keys of functions, and of what stands in for one that runs; the value of a column in another.
_CACHEOPS: Final = pattern(r"(asp?):[0-9a-f]{32}")
_CONDITION: Final = pattern(r"=[^&]+")
#: How keys of libraries begin.
_LIBRARY: Final = pattern("|".join(sorted(LIBRARIES, key=len, reverse=True)).replace(".", r"\."))
#: A date is one value, not three.
_STARS: Final = pattern(r"\*(?:[-_]\*)+")
#: ``jane.m.doe`` or ``(1, 2)``, which could be of any length.
_LOOSE_STARS: Final = pattern(r"\*(?:[-_.,\[\]{}()<>\"']{1,4}\*)+")
#: A path, or a text of many words: the number of words doesn't change the pattern.
_MANY_STARS: Final = pattern(r"\*(?:[:/.|,;=#&?\[\]{}()<>\"']{1,3}\*){3,}")
_NOTHING: Final[frozenset[str]] = frozenset()


def _key_pattern(key: str) -> str:
    vocabulary = in_use.vocabulary.key_words()
    shown = _under_prefix(key, vocabulary.prefixes)
    if shown is None:
        head = _HEAD.match(key)
        if head is None or head[1] not in vocabulary.heads:
            shown = _judged(key, vocabulary)
        else:
            # The prefix from the site's settings, and a number.
            key = key[head.end() :]
            shown = f"{head[1]}:*:{_under_prefix(key, vocabulary.prefixes) or _judged(key, vocabulary)}"
    return cut(shown, _PATTERN_LENGTH)


def _under_prefix(key: str, prefixes: tuple[str, ...]) -> str | None:
    """Return the pattern of a key that starts with one of ``prefixes``, whose words stay; None for other keys."""
    for prefix in prefixes:
        rest = key[len(prefix) :]
        # "user" is no prefix of "username:jane".
        if key.startswith(prefix) and not (prefix[-1].isalnum() and rest[:1].isalnum()):
            return prefix + _STARS.sub("*", _KEY_PART.sub(_key_part, _without_values(rest)))
    return None


def _judged(key: str, vocabulary: KeyWords) -> str:
    if key == "celery":
        # Its queue. Elsewhere it is a word like others.
        return key
    cacheops = _CACHEOPS.fullmatch(key)
    if cacheops is not None:
        return f"{cacheops[1]}:*"
    key = _without_values(key)
    library = _LIBRARY.search(key)
    if library is not None:
        library = next((found for found in _LIBRARY.finditer(key) if _begins_there(found)), None)
    if library is None:
        return _MANY_STARS.sub("*", _LOOSE_STARS.sub("*", _strictly(key, vocabulary.known, _NOTHING)))
    before, literal, rest = key[: library.start()], library[0], key[library.end() :]
    fragment = _FRAGMENT.fullmatch(rest) if literal == "template.cache." else None
    if fragment is not None:
        # A fragment's name stands in a template, where it cannot be a variable.
        rest = f"{_KEY_PART.sub(_key_part, fragment[1])}.*"
    elif literal in _PAGES:
        rest = _of_a_page(rest, vocabulary)
    else:
        if literal == "conj:":
            # A value may be equal to the name of a column: a person's name may be "Name".
            rest = _CONDITION.sub("=*", rest)
        rest = _strictly(rest, vocabulary.known, vocabulary.libraries[literal])
    return _MANY_STARS.sub("*", _STARS.sub("*", f"{_strictly(before, vocabulary.known, _NOTHING)}{literal}{rest}"))


def _of_a_page(rest: str, vocabulary: KeyWords) -> str:
    """Return the pattern of the rest of a key of ``cache_page``: ``PREFIX.METHOD.HASH.HASH.LANGUAGE.ZONE``."""
    digests = list(_DIGEST.finditer(rest))
    if not digests:
        return _strictly(rest, vocabulary.known, _NOTHING)
    prefix, method = rest[: digests[0].start()], ""
    for verb in (".GET", ".HEAD"):
        if prefix.endswith(verb):
            prefix, method = prefix.removesuffix(verb), verb
    dot, tail = rest[digests[-1].end() :][:1], rest[digests[-1].end() + 1 :]
    language, between, zone = tail.partition(".")
    # One of them is left out where the site is not translated, or has no time zones.
    language = language if language in vocabulary.zones else _strictly(language, vocabulary.languages, _NOTHING)
    zone = zone if zone in vocabulary.zones else _strictly(zone, _NOTHING, _NOTHING)
    prefix = _strictly(prefix, vocabulary.known, _NOTHING)
    return f"{prefix}{method}{'.*' * len(digests)}{dot}{language}{between}{zone}"


def _begins_there(literal: re.Match[str]) -> bool:
    """Return True if the text before is not part of the same word, as in ``taxes-``."""
    start = literal.start()
    return start == 0 or not (literal.string[start - 1].isalnum() and literal.string[start].isalnum())


def _without_values(key: str) -> str:
    """Replace each value that contains separators by a star."""
    if "@" in key or "%40" in key:
        key = _KEY_ADDRESS.sub(_key_address, key)
    if "eyJ" in key:
        key = JWT.sub("*", key)
    # Most keys have too few separators for any of them.
    count = key.count
    if count("-") > 3 or count("_") > 3 or count(":") > 4 or count(".") > 1 or "::" in key:
        key = _ONE_VALUE.sub("*", key)
    return key


def _key_address(match: re.Match[str]) -> str:
    part = match.group()
    # Not at its ends: an e-mail has a name and a domain.
    return "*" if "@" in part[1:-1] or "%40" in part[1:-1] else part


# ----- by the words that are known


def _strictly(key: str, known: frozenset[str], also: frozenset[str]) -> str:
    """Replace everything by a star except words in ``known`` or ``also``."""
    if _SPACE.search(key) is not None:
        # Programs write no spaces into keys; people do, into what they search for.
        key = _SEGMENT.sub(_spaced_segment, key)

    def judge(match: re.Match[str]) -> str:
        part = match.group()
        if part.lower() in known or _is_letter(match):
            return part
        return "*" if part.isdecimal() else _known_words(part, known, also)

    return _KEY_PART.sub(judge, key)


def _is_letter(part: re.Match[str]) -> bool:
    """Return whether a part is a single letter, as in ``u:42``. In ``j.doe`` it is a person's initial."""
    if len(part.group()) != 1 or not "a" <= part.group().lower() <= "z":
        return False
    key, start, end = part.string, part.start(), part.end()
    return key[max(start - 1, 0) : start] in _STRONG and key[end : end + 1] in _STRONG


def _spaced_segment(match: re.Match[str]) -> str:
    segment = match.group()
    return segment if _SPACE.search(segment) is None else "*"


def _known_words(part: str, known: frozenset[str], also: frozenset[str]) -> str:
    """Return the words of ``part`` up to the first unknown one: the rest may be text that a person entered.

    ``list-of-clinics`` would be another pattern than ``list-of-doctors-by-date`` if later words could stay.
    """
    if "-" not in part and "_" not in part:
        return part if _is_known(part, known, also) else "*"
    words = list(_KEY_WORD.finditer(part))
    shown = []
    shown_to = at = 0
    while at < len(words):
        word = words[at].group()
        together = _known_together(words[at : at + _MOST_TOGETHER], known, also)
        end = words[at + max(together, 1) - 1].end()
        gap = part[shown_to : words[at].start()]
        if together:
            shown += [gap, part[words[at].start() : end]]
        else:
            shown += [gap, "*"]
            if any(character.isalpha() for character in word) and not _is_digest(word):
                return "".join(shown)
        shown_to = end
        at += max(together, 1)
    return "".join([*shown, part[shown_to:]])


def _known_together(words: list[re.Match[str]], known: frozenset[str], also: frozenset[str]) -> int:
    """Return how many of ``words``, from the first on, together make a known word; 0 for none."""
    texts = [word.group().lower() for word in words]
    for number in range(len(texts), 1, -1):
        text = "".join(texts[:number])
        if text in known or text in also:
            return number
    return 1 if _is_known(words[0].group(), known, also) else 0


def _is_known(word: str, known: frozenset[str], also: frozenset[str]) -> bool:
    text = word.lower()
    if text in known or text in also or _VERSION.fullmatch(word):
        return True
    if text == word or len(word) > 64:
        return False
    # isActive, ListView
    pieces = HUMP.sub(" ", word).lower().split(" ")
    return len(pieces) > 1 and all(piece in known or piece in also for piece in pieces)


def _is_digest(word: str) -> bool:
    return _HEXADECIMAL.fullmatch(word) is not None and any(character.isdigit() for character in word)


# ----- by shape, where the site lets words stay


def _looks_random(part: str) -> bool:
    """Return whether ``part`` is a random token, which may contain hyphens with letters between them."""
    return (
        len(part) >= 16
        and not (part.islower() or part.isupper())
        and any(_LETTERS_AND_DIGITS.match(word) or _is_jumbled(word) for word in _KEY_WORD.findall(part))
    )


def _key_part(match: re.Match[str]) -> str:
    part = match.group()
    return "*" if _looks_random(part) else _KEY_WORD.sub(_key_word, part)


def _key_word(match: re.Match[str]) -> str:
    word = match.group()
    return word if _names_something(word) else "*"


def _names_something(word: str) -> bool:
    """Return whether a word of a key was written by a programmer, rather than being a value."""
    if not _PLAIN_WORD.fullmatch(word) or _HEXADECIMAL.fullmatch(word):
        return False
    if _is_jumbled(word):
        return False
    # Random letters have hardly a vowel.
    return len(word) < 8 or sum(word.lower().count(vowel) for vowel in "aeiouy") * 6 >= len(word)


def _is_jumbled(word: str) -> bool:
    """Return whether there are more capitals among small letters than words could start with."""
    return len(word) >= 6 and (len(HUMP.findall(word)) + 1) * 5 > len(word) * 2


_key_pattern_cached: Final = lru_cache(maxsize=2048)(_key_pattern)
clear_when_used(_key_pattern_cached.cache_clear)


@safely(lambda: "*")
def key_pattern(key: str) -> str:
    """Return the pattern of a cache key, of low cardinality: ``blueprint:123`` becomes ``blueprint:*``.

    A word stays if programs use it in keys, if an app, a model or a cache of the site has this name, if it is in a
    place where a well-known library puts its own words, or after one of ``TRACING["CACHE_KEY_PREFIXES"]``. Everything
    else becomes a star. At most 100 characters.
    """
    # Longer ones are not kept in the cache, which bounds its memory.
    return _key_pattern_cached(key) if len(key) <= 250 else _key_pattern(key[:1000])
