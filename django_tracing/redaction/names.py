"""Recognize names (of parameters, headers, attributes) whose values are secret."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

from django_tracing.redaction.patterns import pattern

__all__ = ["HUMP", "LAST_WORDS", "NO_VALUES", "STATES", "STEMS", "VERBS", "SensitiveKeys", "words_of"]

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
    # Without a separator, as Azure's and others' connection strings and APIs write them.
    *("accountkey", "masterkey", "licensekey", "authkey", "appkey", "sharedkey"),
    *("mnemonic", "seedphrase", "recoveryphrase"),
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
    # Codes that are sent to a phone or by email.
    *("verificationcode", "confirmationcode", "securitycode", "activationcode", "accesscode", "logincode"),
    *("onetimecode", "smscode", "2facode", "securityanswer", "seedphrase", "mnemonic", "maidenname"),
    *("accountkey", "masterkey", "sharedkey", "storagekey", "licensekey", "licencekey", "clientkey", "sshkey"),
    # Password, secret and code word in German, French, Spanish, Portuguese, Italian, Dutch, Polish and Turkish.
    # All without accents.
    *("passwort", "kennwort", "geheim", "motdepasse", "contrasena", "senha", "palavrapasse", "parola", "wachtwoord"),
    *("haslo", "hasło", "sifre"),
    # Keys of APIs, private and access keys, sessions and codes in the same languages.
    *("apischlussel", "apischluessel", "privaterschlussel", "privaterschluessel", "zugriffsschlussel"),
    *(
        "zugriffsschluessel",
        "zugangsschlussel",
        "zugangsschluessel",
        "sitzungsid",
        "sesion",
        "sessao",
        "bestatigungscode",
    ),
    *("bestaetigungscode", "sicherheitscode", "cleapi", "cledapi", "clesecrete", "cleprivee", "cledacces"),
    *("codedeverification", "codedesecurite", "claveapi", "clavedeapi", "claveprivada", "clavedeacceso"),
    *("codigodeverificacion", "codigodeseguridad", "chaveapi", "chavedeapi", "chaveprivada"),
    *("chavedeacesso", "codigodeverificacao", "codigodeseguranca", "chiaveapi", "chiaveprivata", "chiavediaccesso"),
    *("chiavesegreta", "codicediverifica", "codicedisicurezza", "apisleutel", "privesleutel", "toegangssleutel"),
    *("sessieid", "verificatiecode", "beveiligingscode", "kluczapi", "kluczprywatny", "kluczdostepu", "tajnyklucz"),
    *(
        "identyfikatorsesji",
        "idsesji",
        "kodweryfikacyjny",
        "apianahtar",
        "gizlianahtar",
        "ozelanahtar",
        "erisimanahtar",
    ),
    *("oturumkimli", "dogrulamakod", "guvenlikkod"),
)
#: Only as a whole word of a name: they stand inside harmless ones.
_SENSITIVE_WORDS: Final = frozenset(
    [
        *("auth", "ssn", "sig", "cvv", "cvc", "pin", "otp", "totp", "pass"),
        *("sid", "pw", "pswd", "hmac", "sesame", "nonce", "iban", "ccnum", "dsn", "mdp", "clave"),
    ]
)
#: Only as the whole name of a URL's parameter: elsewhere they are words like others (``circuit_breaker.state``).
#: OAuth's callbacks, CAS, SAML, links that sign in or invite.
_SENSITIVE_PARAMETERS: Final = frozenset(
    ["code", "state", "ticket", "assertion", "key", "magic", "invite", "invitation", "reset", "mfa", "verifier"]
)
#: Words that end like a key's name but are none.
_NO_KEYS: Final = frozenset(["donkey", "hockey", "hotkey", "jockey", "monkey", "sortkey", "turkey", "whiskey"])
#: Between the parts of a parameter's name: ``oauth[code]``, ``code[]``, ``amp;code``; no dot.
_NOT_OF_A_PARAMETER: Final = pattern(r"[^\w.-]+")
#: A number of a name that ends with one of these counts something.
_COUNTED: Final = frozenset(
    ["age", "attempts", "count", "length", "limit", "ms", "remaining", "seconds", "size", "tokens", "total", "ttl"]
)
#: Every sensitive name contains one of these: free text is searched for them before slower checks.
STEMS: Final = (
    *("sms", "2fa", "seed", "mnemonic", "maiden"),
    *("pass", "secret", "token", "auth", "cookie", "key", "ses", "csrf", "card", "cred", "sig", "jwt"),
    *("bearer", "ssn", "cvv", "cvc", "pin", "otp", "sid", "pw", "pswd", "hmac", "nonce", "iban", "ccnum"),
    *("dsn", "mdp", "saml", "verif", "vérif", "database", "connection", "recovery", "backup", "mfa"),
    *(
        "mnemonic",
        "phrase",
        "confirmation",
        "securi",
        "activation",
        "accesscode",
        "access_code",
        "access-code",
        "access code",
    ),
    *("login", "onetime", "one-time", "one_time", "one time", "kennwort", "geheim", "contrase", "senha"),
    *("parola", "wachtwoord", "haslo", "hasło", "sifre", "şifre", "schl", "sitzung", "statigung", "stätigung"),
    *("staetigung", "sicherheit", "clé", "cle", "clave", "segur", "chave", "chiave", "sicurezza", "sleutel"),
    *("beveiliging", "klucz", "weryfik", "anahtar", "oturum", "doğrulama", "dogrulama", "güvenlik", "guvenlik"),
)
#: In free text a name may end with one of these: ``session id: x`` means the same as ``session: x``.
LAST_WORDS: Final = frozenset(
    [
        *("id", "ids", "key", "keys", "code", "number", "string", "value", "hash", "url", "api", "base", "phrase"),
        # "Incorrect API key provided: x".
        *("provided", "given", "received", "supplied", "entered", "expected"),
        *("schlüssel", "schluessel", "clé", "clave", "chave", "chiave", "sleutel", "klucz", "anahtar", "anahtarı"),
    ]
)
#: Between a name and its value in a sentence, in English and the same languages.
VERBS: Final = "is|was|ist|war|lautet|est|était|es|era|é|è|jest"
#: Words after the verb of a sentence about the value that doesn't contain it.
STATES: Final = frozenset(
    """
    a abgelaufen about absent accepted again al all allowed already also always an and as at ausente available
    bad being bereits blacklisted blank blocked by błędne changed cleared closed closing common completamente
    compromised correct corrupt corrupted created deactivated deleted demasiado denied deprecated destroyed
    different disabled due déjà either empty enabled encrypted ended enforced entered entirely entièrement equal
    errada errata erroné errónea exceeded exhausted expected expirada expired expiré falsch false faux fehlt
    finished flushed for forbidden found fout from full geen generated gesetzt geslaagd getting gewijzigd gleich
    going gone good hashed here hidden ignored igual in incomplete inconnu incorrect incorrecta incorrecto
    incorreta incorreto indeed ingesteld insecure inside inteiramente interamente invalid invalide inválida
    inválido issued just już kein keine kept known komplett krótkie leeg leer less like limited loaded locked
    long longer lost malformed mancante mandatory manquant misconfigured mismatched missing more much muito muy
    needed neither never new nicht nie niepoprawne nieprawidłowe niet no non none not nothing now nul nula null
    nulla nötig obbligatoria obligatoire obligatoria obrigatória obsolete of off ok okay old on one ongeldig
    onjuist only open optional or out outdated over overridden pas passed present provided public puste quoted
    reached read received refreshed rejected removed renewed replaced requerida required requis reset restored
    returned reused revoked rotated safe same saved sbagliata scaduta schon secure sent set short shorter
    similar skipped so stale started stata stato still stored strong supposed suspended taken te terminated that
    the there this to too totalmente trop troppo trouvé true truncated uguale unauthorized unbekannt undefined
    unexpected ungültig unknown unrecognized unset unsigned unsupported untrusted unusable updated used vacía
    valid valida validated vazia verified verlopen verplicht very vide vuota weak what when where whitelisted
    with within without written wrong wygasło wymagane your za zbyt zu ähnlich
    """.split()  # noqa: SIM905
)
#: Written in place of a value, whatever stands before it: MySQL's ``(using password: YES)``.
NO_VALUES: Final = frozenset(["yes", "no", "none", "null", "nil", "true", "false", "undefined"])


class SensitiveKeys:
    """The names whose values never leave the process: the default ones and ``extra``."""

    __slots__ = ("_cache", "_extra", "_parameters", "_parts")

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._extra = tuple(folded for name in extra if (folded := _folded(name)))
        self._parts = (*_SENSITIVE_PARTS, *self._extra)
        self._cache: dict[str, bool] = {}
        self._parameters: dict[str, bool] = {}

    def matches(self, name: str) -> bool:
        """Return whether ``name`` is one of them, in any case, with any separators: ``X-Api-Key``."""
        known = self._cache.get(name)
        if known is None:
            folded = _folded(name)
            known = any(part in folded for part in self._parts) or any(
                word.lower() in _SENSITIVE_WORDS for word in words_of(name)
            )
            if len(self._cache) < 1024 and len(name) <= 200:
                self._cache[name] = known
        return known

    def says_no_secret(self, name: str, value: object) -> bool:
        """Return whether ``value`` is no secret, though ``name`` matches: ``has_password``, ``input_tokens``.

        Never true for the names that the site has listed.
        """
        kind = value.__class__
        if kind is not bool and not (
            (kind is int or kind is float) and (words_of(name) or [""])[-1].lower() in _COUNTED
        ):
            return False
        folded = _folded(name)
        return not any(part in folded for part in self._extra)

    def matches_parameter(self, name: str) -> bool:
        """Return whether ``name`` is one of them, or secret as a URL's parameter: ``code``, ``state``, ``x_key``.

        Frameworks put names in brackets (``oauth[code]``, ``code[]``), and a URL may be escaped twice.
        """
        known = self._parameters.get(name)
        if known is None:
            known = self.matches(name) or _is_parameter(name.lower())
            if len(self._parameters) < 1024 and len(name) <= 200:
                self._parameters[name] = known
        return known


def _is_parameter(lower: str) -> bool:
    parts = [part for part in _NOT_OF_A_PARAMETER.split(lower) if part and not part.isdigit()]
    last = parts[-1] if parts else ""
    return last in _SENSITIVE_PARAMETERS or (last.endswith("key") and last not in _NO_KEYS)


def _folded(name: str) -> str:
    if not name.isascii():
        # Letters without their accents, which are characters of their own then.
        name = unicodedata.normalize("NFKD", name)
    return _NOT_OF_A_WORD.sub("", name).lower()


def words_of(name: str) -> list[str]:
    """Return the words of a name in any notation: ``apiKey`` and ``API-Key`` have the same two."""
    return _WORD.findall(HUMP.sub(" ", name))
