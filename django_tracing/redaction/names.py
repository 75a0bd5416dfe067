"""Names (of parameters, headers, attributes) whose values are secret."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from django_tracing.redaction.patterns import pattern

__all__ = ["HUMP", "STEMS", "SensitiveKeys", "words_of"]

_NOT_OF_A_WORD: Final = pattern(r"[\W_]+")
#: Between two words that are written together: ``apiKey``, ``HTTPServer``.
HUMP: Final = pattern(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD: Final = pattern(r"[A-Za-z]+|\d+")
#: Anywhere in a name, its separators and capitals aside.
_SENSITIVE_PARTS: Final = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "session",
    "sessid",
    "csrf",
    "creditcard",
    "cardnumber",
    "privatekey",
    "accesskey",
    "encryptionkey",
    "signingkey",
    "credential",
    "signature",
    "bearer",
    "jwt",
)
#: Only as a whole word of a name: they stand inside harmless ones.
_SENSITIVE_WORDS: Final = frozenset({"auth", "ssn", "sig", "cvv", "cvc", "pin", "otp", "totp", "pass"})
#: One of these is in every sensitive name: what free text is asked before anything dearer.
STEMS: Final = (
    *("pass", "pwd", "secret", "token", "auth", "cookie", "key", "sess", "csrf", "card", "cred", "sig", "jwt"),
    *("bearer", "ssn", "cvv", "cvc", "pin", "otp"),
)


class SensitiveKeys:
    """Names (of parameters, headers, attributes) whose values never leave, the default ones and ``extra``."""

    __slots__ = ("_cache", "_parts")

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._parts = (*_SENSITIVE_PARTS, *(folded for name in extra if (folded := _folded(name))))
        self._cache: dict[str, bool] = {}

    def matches(self, name: str) -> bool:
        """Whether ``name`` is of one, in any case and with any separators: ``X-Api-Key``, ``accessToken``."""
        known = self._cache.get(name)
        if known is None:
            folded = _folded(name)
            known = any(part in folded for part in self._parts) or any(
                word.lower() in _SENSITIVE_WORDS for word in words_of(name)
            )
            if len(self._cache) < 1024 and len(name) <= 200:
                self._cache[name] = known
        return known


def _folded(name: str) -> str:
    return _NOT_OF_A_WORD.sub("", name).lower()


def words_of(name: str) -> list[str]:
    """The words of a name, however they are put together: ``apiKey`` and ``API-Key`` have the same two."""
    return _WORD.findall(HUMP.sub(" ", name))
