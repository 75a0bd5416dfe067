"""Store the site's words that redaction uses: names of secrets, and words that are kept in keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from django_tracing.redaction.key_words import LIBRARIES, STRUCTURAL, SiteWords
from django_tracing.redaction.names import STEMS, SensitiveKeys, words_of

__all__ = ["KeyWords", "Vocabulary", "clear_when_used", "forget_site_words", "in_use", "use_vocabulary"]


class KeyWords(NamedTuple):
    """The words that stay in keys: everywhere, and after the beginnings of libraries' keys."""

    known: frozenset[str]
    libraries: dict[str, frozenset[str]]
    #: At the end of the keys of ``cache_page``.
    languages: frozenset[str]
    zones: frozenset[str]
    heads: frozenset[str]
    prefixes: tuple[str, ...]

    @classmethod
    def of(cls, site: SiteWords) -> KeyWords:
        more = {"conj:": site.columns, "schemes:": site.columns, "throttle_": site.scopes, "rq:": site.queues}
        return cls(
            STRUCTURAL | site.words,
            {literal: words | more.get(literal, frozenset()) for literal, words in LIBRARIES.items()},
            site.languages,
            site.zones,
            site.heads | {""},
            site.prefixes,
        )


class Vocabulary:
    """The words of one site.

    Free text loses the values of ``sensitive`` names (``TRACING["SENSITIVE_KEYS"]``) too. ``read_site_words`` is
    called once, for the first key.
    """

    __slots__ = ("_key_words", "_read_site_words", "sensitive", "stems")

    def __init__(self, sensitive: Iterable[str] = (), read_site_words: Callable[[], SiteWords] = SiteWords) -> None:
        names = tuple(sensitive)
        self.sensitive = SensitiveKeys(names)
        # The first word of a name is in every spelling of it: iban, iban_number, "IBAN number".
        self.stems = (*STEMS, *(words[0].lower() for name in names if (words := words_of(name))))
        self._read_site_words = read_site_words
        self._key_words: KeyWords | None = None

    def key_words(self) -> KeyWords:
        words = self._key_words
        if words is None:
            try:
                site = self._read_site_words()
            except Exception:
                # Only once: the next key would fail in the same way. Without these words, keys have more stars.
                site = SiteWords()
            words = self._key_words = KeyWords.of(site)
        return words

    def forget_site_words(self) -> None:
        """Read the site's words again for the next key."""
        self._key_words = None


class _InUse:
    __slots__ = ("vocabulary",)

    def __init__(self) -> None:
        self.vocabulary = Vocabulary()


#: ``in_use.vocabulary`` is replaced as a whole.
in_use: Final = _InUse()
_clear: Final[list[Callable[[], None]]] = []


def clear_when_used(clear: Callable[[], None]) -> None:
    """Call ``clear``, which empties a cache, each time the vocabulary changes."""
    _clear.append(clear)


def use_vocabulary(vocabulary: Vocabulary) -> Vocabulary:
    """Make ``vocabulary`` the one in use and return the former one."""
    former, in_use.vocabulary = in_use.vocabulary, vocabulary
    _clear_caches()
    return former


def forget_site_words() -> None:
    """Read the site's words again for the next key: its settings have changed."""
    in_use.vocabulary.forget_site_words()
    _clear_caches()


def _clear_caches() -> None:
    for clear in _clear:
        clear()
