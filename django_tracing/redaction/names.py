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
    "sesskey",
    "samlresponse",
    "samlrequest",
    "oauthverifier",
    "codeverifier",
    "databaseurl",
    "connectionstring",
    "recoverycode",
    "backupcode",
    "mfacode",
    # Password, secret and code word in German, French, Spanish, Portuguese, Italian, Dutch, Polish and Turkish.
    *("passwort", "kennwort", "geheim", "motdepasse", "contrasena", "contraseña", "senha", "parola", "wachtwoord"),
    *("haslo", "hasło", "sifre", "şifre"),
)
#: Only as a whole word of a name: they stand inside harmless ones.
_SENSITIVE_WORDS: Final = frozenset(
    [
        *("auth", "ssn", "sig", "cvv", "cvc", "pin", "otp", "totp", "pass"),
        *("sid", "pw", "pswd", "hmac", "sesame", "nonce", "iban", "ccnum", "dsn", "mdp"),
    ]
)
#: Only as the whole name of a URL's parameter: elsewhere they are words like others (``circuit_breaker.state``).
#: OAuth's callbacks, CAS, SAML, links that sign in or invite.
_SENSITIVE_PARAMETERS: Final = frozenset(
    ["code", "state", "ticket", "assertion", "key", "magic", "invite", "invitation", "reset", "mfa", "verifier"]
)
#: One of these is in every sensitive name: what free text is asked before anything dearer.
STEMS: Final = (
    *("pass", "pwd", "secret", "token", "auth", "cookie", "key", "sess", "csrf", "card", "cred", "sig", "jwt"),
    *("bearer", "ssn", "cvv", "cvc", "pin", "otp", "sid", "pw", "pswd", "hmac", "sesame", "nonce", "iban", "ccnum"),
    *("dsn", "mdp", "saml", "verifier", "database", "connection", "recovery", "backup", "mfa"),
    *("kennwort", "geheim", "motdepasse", "mot_de", "mot-de", "mot de", "contrase", "senha", "parola", "wachtwoord"),
    *("haslo", "hasło", "sifre", "şifre"),
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

    def matches_parameter(self, name: str) -> bool:
        """Whether ``name`` is of one, or of a parameter that is secret in URLs: ``code``, ``state``, ``x_key``."""
        lower = name.lower()
        return lower in _SENSITIVE_PARAMETERS or lower.endswith(("_key", "-key")) or self.matches(name)


def _folded(name: str) -> str:
    return _NOT_OF_A_WORD.sub("", name).lower()


def words_of(name: str) -> list[str]:
    """The words of a name, however they are put together: ``apiKey`` and ``API-Key`` have the same two."""
    return _WORD.findall(HUMP.sub(" ", name))
