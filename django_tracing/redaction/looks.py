"""Recognize and redact secrets by their shape, whatever their name and place.

Four kinds are recognized: tokens with the prefix of their issuer (``ghp_``), random words, PEM blocks, and addresses
of webhooks, whose path is the secret.

A word is random if its pairs of neighboring characters are those of random tokens rather than those of names, titles
and slugs: each pair has a weight, and the sum decides. ``python -m benchmarks.redaction`` prints how often that is
wrong; ``python -m benchmarks.letters`` fits the weights again.
"""

from __future__ import annotations

import re
import string
from functools import cache
from operator import add
from typing import Final

from django_tracing.redaction.patterns import REDACTED, Harmless, pattern

__all__ = [
    *("case", "is_long_number", "is_plain", "is_secret", "kind_of", "redact_known_beginnings", "redact_looks"),
    *("redact_pem", "redact_webhooks", "symbol", "without_known", "written"),
]

#: Shorter text is too short to judge: every name has a few unusual letters.
SHORTEST: Final = 13

# ----- well-known beginnings

#: With what follows them at least: less, where nothing else begins like that.
_BEGINNINGS: Final = (
    # Code hosting: GitHub, GitLab, Bitbucket; package registries, container registries.
    *(r"gh[oprsu]_\w{8}", r"github_pat_\w{8}", r"gl(?:pat|ptt|dt|rt|ft|cbt|imt|oas|soat|agent|ffct)-[\w-]{8}"),
    *(r"GR1348941[\w-]{8}", r"ATBB\w{20}", r"npm_[A-Za-z0-9]{20}", r"pypi-Ag[\w-]{10}"),
    *(r"rubygems_[0-9a-f]{12}", r"CLOJARS_\w{12}", r"dckr_[op]at_[\w-]{8}", r"oy2[a-z0-9]{43}"),
    # Clouds: AWS, Google, Azure, DigitalOcean, Heroku, Fly, Alibaba, Yandex, and what runs on them.
    *(r"AKIA[A-Z0-9]{9}", r"A(?:3T[A-Z0-9]|SIA|BIA|CCA)[A-Z2-7]{16}\b", r"ABSK[A-Za-z0-9+]{20}"),
    *(r"bedrock-api-key-\w{8}", r"AIza[\w-]{9}", r"ya29\.[\w-]{8}", r"GOCSPX-[\w-]{8}"),
    *(r"[\w~.]{3}\dQ~[\w~.-]{20}", r"do[opr]_v1_[0-9a-f]{8}", r"HRKU-[\w-]{12}", r"fo1_[\w-]{20}"),
    *(r"fm[12][ar]?_[A-Za-z0-9+]{20}", r"LTAI[A-Za-z0-9]{12}", r"AQVN[\w-]{20}", r"t1\.[\w-]{8,}=*\.[\w-]{20}"),
    *(r"pul-[0-9a-f]{12}", r"dp\.\w\w\.\w{12}", r"hv[bsr]\.[\w-]{8}", r"s\.[A-Za-z0-9]{24}\b"),
    *(r"[a-z0-9]{14}\.atlasv1\.\w", r"tskey-[a-z]+-\w{8}", r"sha256~[\w-]{12}", r"dapi[0-9a-f]{12}"),
    *(r"pscale_(?:tkn|oauth|pw)_[\w.=-]{8}", r"tk-us-[\w-]{20}"),
    # Payments and shops.
    *(r"[rs]k_(?:live|test|prod)_\w{8}", r"whsec_\w{12}", r"sq0(?:atp|csp)-[\w-]{8}", r"EAA[A-Za-z0-9]{20}"),
    *(r"EAAA[\w-]{20}", r"shp(?:at|ca|pa|ss)_\w{8}", r"FLW(?:SEC|PUB)K_TEST-\w{8}", r"EZ[AT]K\w{20}"),
    *(r"shippo_(?:live|test)_\w{8}", r"duffel_(?:live|test)_[\w-]{8}"),
    r"access-(?:sandbox|development|production)-\w{8}",
    # Chats and mail.
    *(r"xox[a-z][-.][\w.-]{8}", r"xapp-\d-[\w-]{8}", r"SG\.[\w-]{8}", r"xkeysib-\w{8}", r"xsmtpsib-\w{8}"),
    r"key-\w{32}\b",
    # Models: OpenAI, Anthropic, Hugging Face and others.
    *(r"sk-(?:ant|proj|svcacct|admin|or)-[\w-]{8}", r"sk-[A-Za-z0-9]{20}", r"hf_[A-Za-z]{20}"),
    *(r"api_org_[A-Za-z]{20}", r"pplx-\w{20}", r"gsk_\w{20}", r"xai-\w{20}", r"r8_\w{20}", r"nvapi-[\w-]{20}"),
    r"lsv2_[a-z]{2}_\w{8}",
    # Watching and building.
    *(r"glc_[A-Za-z0-9+]{12}", r"glsa_\w{12}", r"sntry[su]_\w{8}", r"NR(?:AK|II|JS)-[\w-]{8}"),
    *(r"dt0[a-z]\d\d\.\w{12}", r"sgp_\w{16}", r"sq[aup]_[0-9a-z]{20}", r"lin_(?:api|oauth)_\w{8}"),
    *(r"PMAK-\w{8}", r"pnu_\w{20}", r"rdme_\w{12}", r"ico-\w{20}", r"fio-u-[\w-]{12}", r"ntn_\d{8}"),
    *(r"tfp_[\w.-]{20}", r"sm_[aps]at_\w{8}", r"API-[A-Z0-9]{24}", r"AKCp\w{20}", r"cmVmd\w{20}"),
    *(r"AT(?:ATT|CTT)3[\w-]{12}", r"dnkey-[\w-]{12}", r"[ps]at\.[\w-]{22}\.\w{12}"),
    # Keys: age, 1Password.
    *(r"AGE-SECRET-KEY-1\w{4}", r"A3-[A-Z0-9]{6}-[A-Z0-9-]{8}", r"ops_eyJ\w", r"p8e-\w{12}"),
)
#: No beginning consists of these.
_DIGITS: Final = frozenset("0123456789abcdef-")
_KNOWN_BEGINNING: Final = pattern(rf"(?<![A-Za-z0-9])(?:{'|'.join(_BEGINNINGS)})", re.ASCII)

# ----- random words

#: The classes of characters in pairs: letters in either case, digits, and others.
SYMBOLS: Final = "abcdefghijklmnopqrstuvwxyz0-"
_LEVELS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
#: How much rather than in a name the second symbol follows the first in a random token; a line for each first one.
_PAIRS: Final = (
    "UPOPfURbWTTMNKeOeJKKWWUUSbXX",
    "RVXcMgecTQeUbfNZuUUXRmjoNiXa",
    "OZWQRafIPcOSXaPViRSPSbfaTPUU",
    "OVaRJObYSXRbacTdnWQbXfchXUWX",
    "WWTQTRTdXZWQQLaWcHLNdXYQUWWU",
    "VacbWOWgPdjWdgTlhVaTWkadaeTY",
    "VdZZIdYRTkiZdZSXmQOZVfbgeeWZ",
    "OcbcObbZPpeYYcRfiXZMQfgrWgZa",
    "STQMJWPeiNWOQGQTgSKMdabUdRYV",
    "OkcaQZjfccTkZXUeaoNdcobirdcY",
    "QbZWOXWfUVWUhWScuYRVXcbtciXU",
    "MbcTJbZdKZXPWcMVkeNTQYjkXkXa",
    "NYZaNdchRkdUPdRPafVbWciWQmaX",
    "PhVNNTNcLfZcgYNWkgPNXUgeTdZS",
    "WQUPVTScZZVNRHROkIPPPZIVeVaV",
    "RbdWPZdRTmUQdiQVdQVUWZjhIeYQ",
    "onnkgjihilrQYoqcOUebJaaXirgY",
    "KZYUIaYdNkVbUbJYlZSQTYdjPSdX",
    "YbTTNWaWTiUXWfWUbdRKZZfhUUWU",
    "SfYbMWfOPZcXWcOXnSTRUbcZQgWS",
    "YQWTRTXkSPZQNNiUoMMPbZZYeXZf",
    "PaYaKadiQhgdehWejdcgcSZfdbSa",
    "NfacKefaPradlTSdpYVhZjZYRcea",
    "daUeWaghVnmZSdiZridQcdeSTfOQ",
    "ZUWbccbdgWbaSWcPjdMWdeWhWSgT",
    "PfZaMkaXTecfXUWedjgZUcYpOVdd",
    "VWUSaUdfeWYbVYhWidUZeahWghTX",
    "STUSWUSUYYXXRSYPaWOUaUTTeVXV",
)
#: The same for small letters, capitals, digits and all else.
_CASES: Final = (0.18, 1.97, 1.04, 0.25, 0.39, 0.73, 0.55, -0.15, 1.85, 1.49, -0.24, 0.25, -0.80, -0.79, 0.27, -0.05)
#: The weights of a single character and of the whole word, by :func:`kind_of`.
_A_CHARACTER: Final = (0.312, -0.079, 0.086, -0.032, -0.183, -0.118, -0.228, -0.139)
_A_WORD: Final = (-2.16, -0.01, 1.51, 0.79, 0.23, 0.88, 1.76, 1.95)

#: What looks random and is none: uuids, addresses in memory, numbers, times, and what Django names static files by.
_KNOWN: Final = pattern(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|(?<![A-Za-z0-9])(?:0x[0-9a-fA-F]{1,16}|\d{1,20}e[+-]\d{1,3}|\d{4}-?\d\d-?\d\d[Tt_-]\d\d(?:-?\d\d){0,2}[Zz]?)"
    r"(?![A-Za-z0-9])"
    r"|(?<=\.)[0-9a-f]{12}\.(?:css|m?js|map|json|png|jpe?g|gif|svg|webp|ico|woff2?|ttf)(?![A-Za-z0-9.])",
)
_HEXADECIMAL: Final = pattern(r"(?<![A-Za-z0-9])(?:[0-9a-f]{16,}|[0-9A-F]{16,})(?![A-Za-z0-9])")
_CHUNK: Final = pattern(r"[A-Za-z0-9]{13,}")
_NO_NUMBER: Final = pattern(r"[^\d_.~+-]")


def symbol(character: str) -> int:
    """Return the index of ``character`` in ``SYMBOLS``."""
    return SYMBOLS.index(character.lower()) if character.isalpha() else 26 if character.isdigit() else 27


def case(character: str) -> int:
    return 0 if character.islower() else 1 if character.isupper() else 2 if character.isdigit() else 3


def kind_of(word: str) -> int:
    """Return a bit mask: letters of both cases (4), digits (2), other characters (1)."""
    mixed = not word.islower() and not word.isupper()
    return mixed * 4 + any(map(str.isdigit, word)) * 2 + (not word.isalnum())


def written(weight: float) -> str:
    """Return ``weight`` as the table encodes it."""
    return _LEVELS[max(0, min(61, round(weight / 0.15) + 31))]


@cache
def _weights() -> dict[str, float]:
    """Return the weight of each pair of characters."""
    characters = [
        (character, symbol(character), case(character) * 4)
        for character in f"{string.ascii_letters}{string.digits}_-+~.%=/:|"
    ]
    levels = {level: (number - 31) * 0.15 for number, level in enumerate(_LEVELS)}
    return {
        first + second: levels[row[to]] + _CASES[before + after // 4]
        for first, of, before in characters
        for row in [_PAIRS[of]]
        for second, to, after in characters
    }


def without_known(word: str) -> str:
    return _KNOWN.sub("", word)


def is_long_number(word: str) -> bool:
    """Return whether a part of ``word`` is a hash, or another long number with letters in it."""
    return any(not part.isdigit() and not part.isalpha() for part in _HEXADECIMAL.findall(word)) or any(
        len(part) >= 16 and len(part) / 2 <= sum(map(str.isdigit, part)) < len(part) for part in _CHUNK.findall(word)
    )


def _is_random(word: str) -> bool:
    """Return whether ``word``, of 13 characters or more, is random."""
    kind = kind_of(word)
    # Few names are shouted, and base32 is.
    shouted = kind == 0 and word.isupper()
    if kind < 4:
        word = word.lower()
    weights = _weights()
    total = sum(map(weights.__getitem__, map(add, f"-{word}", word)))
    # A random token has many different characters; a line of dashes doesn't.
    return total + _A_CHARACTER[kind] * len(word) + _A_WORD[kind] + shouted > 0 and len(set(word)) > 5


def _is_token(word: str) -> bool:
    """Return whether a word without spaces and slashes is a token."""
    if len(word) < SHORTEST:
        return False
    if _KNOWN_BEGINNING.search(word):
        return True
    word = without_known(word)
    if len(word) < SHORTEST or not _NO_NUMBER.search(word):
        return False
    return (
        is_long_number(word)
        or _is_random(word)
        # A token may stand at the end of words, an extension at the end of a token.
        or ("." in word and any(len(part) >= SHORTEST and _is_random(part) for part in word.split(".")))
        or any(len(chunk) < len(word) and _is_random(chunk) for chunk in _CHUNK.findall(word))
    )


# ----- where they stand

#: A word, or several with slashes and equals signs between them: as long as one that is judged.
_RUN: Final = pattern(r"[A-Za-z0-9_+~./=-]{13,}")
_SEPARATOR: Final = r"[_+~./=-]"
_PLAIN_WORD: Final = r"(?:[A-Z]?[a-z]{1,12}\d{0,2}|[A-Z]{1,12}|\d{1,12})"
#: What most of them are: words of a dozen letters, and short numbers. Hardly a token is made of these.
_PLAIN: Final = pattern(rf"{_SEPARATOR}*(?:{_PLAIN_WORD}(?:{_SEPARATOR}+{_PLAIN_WORD})*{_SEPARATOR}*)?")
#: A name before an equals sign: ``sha256=``.
_NAME: Final = pattern(r"[A-Za-z_-]{1,24}\d{0,4}")
_BETWEEN: Final = pattern(r"[^/=]+|[/=]+")
#: ``telemetry.sdk.name`` of every process. If it were judged, each start would compile the expressions of tokens.
_harmless_words: Final = Harmless({"opentelemetry": None})
_harmless_values: Final = Harmless()


def redact_looks(text: str) -> str:
    """Return ``text`` without the words that look like secrets."""
    return _RUN.sub(_redacted_run, text)


def redact_known_beginnings(text: str) -> str:
    """Return ``text`` without the tokens that have an issuer's prefix. Other random words stay."""
    return _RUN.sub(_redacted_beginning, text)


def _redacted_beginning(match: re.Match[str]) -> str:
    run = match.group()
    # Each process has a uuid, ``service.instance.id``: to compile the expression takes milliseconds of the start.
    return run if _DIGITS.issuperset(run) or not _KNOWN_BEGINNING.search(run) else REDACTED


def _redacted_run(match: re.Match[str]) -> str:
    run, start = match.group(), match.start()
    # Two of the first are of what is encoded before it: ``%20Word``.
    return run[:2] + _redacted_word(run[2:]) if start and match.string[start - 1] == "%" else _redacted_word(run)


def _redacted_word(run: str) -> str:
    if run in _harmless_words or is_plain(run):
        return run
    parts = _BETWEEN.findall(run)
    # The name of a host is no secret, and may well be random: ``://0A1B2C.eks.amazonaws.com/``.
    first = 2 if run.startswith("//") else 0
    found = [number >= first and _looks_secret(part) for number, part in enumerate(parts)]
    # One equals sign stands between a name and a value, several do in a token.
    if True not in found and sum(part[0] == "=" for part in parts[1:-1]) > 1 and _is_random(without_known(run)):
        return REDACTED
    if True not in found:
        _harmless_words.keep(run)
        return run
    return _joined(parts, _with_neighbors(parts, found, first))


def _with_neighbors(parts: list[str], found: list[bool], first: int) -> list[bool]:
    """Extend ``found`` to the whole token: a slash may cut it into parts that are too short to be recognized."""
    padded = parts[-1][0] == "="
    for place in range(first + 1, len(parts)):
        if found[place - 1] and not found[place]:
            # No name stands behind a value.
            of_it = parts[place][0] in "/=" or padded or parts[place - 1][0] == "="
            found[place] = of_it or not is_plain(parts[place])
    for place in range(len(parts) - 2, first - 1, -1):
        if found[place + 1] and not found[place]:
            named = parts[place + 1][0] == "=" and _NAME.fullmatch(parts[place]) is not None
            found[place] = parts[place][0] in "/=" or not (named or is_plain(parts[place]))
    return found


def _joined(parts: list[str], found: list[bool]) -> str:
    """Join ``parts`` with one mark for each run of secrets. A slash or an equals sign at its ends stays."""
    joined: list[str] = []
    last = len(parts) - 1
    for place, part in enumerate(parts):
        if part[0] == "=" and place == last and found[place - 1]:
            # Padding.
            continue
        within = 0 < place < last and found[place - 1] and found[place + 1]
        if not found[place] or (part[0] in "/=" and not within):
            joined.append(part)
        elif not joined or joined[-1] != REDACTED:
            joined.append(REDACTED)
    return "".join(joined)


def is_plain(word: str) -> bool:
    """Return whether ``word`` seems to be made of words and short numbers."""
    # Slack's may have digits only.
    return _PLAIN.fullmatch(word) is not None and "xox" not in word


def _looks_secret(part: str) -> bool:
    if len(part) < SHORTEST or part in _harmless_words or is_plain(part):
        return False
    if _is_token(part):
        return True
    _harmless_words.keep(part)
    return False


#: A value that is one word: separators in a token may leave parts that are too short to be judged.
_ONE_WORD: Final = pattern(r"[A-Za-z0-9_+~./=:|%-]{13,}")
_SLASHES: Final = pattern(r"[/:|]+")
_HEXADECIMAL_PAIR: Final = pattern(r"[0-9a-f]{8,}(?::[0-9a-f]{8,})+")


def is_secret(value: str) -> bool:
    """Return whether ``value``, of a parameter or a segment of a path, as a whole looks like a secret.

    Names of classes, and pairs of a name and a value, are recognized less readily than in a text.
    """
    if len(value) < SHORTEST or value in _harmless_values or not _ONE_WORD.fullmatch(value):
        return False
    if _is_secret(value):
        return True
    _harmless_values.keep(value)
    return False


def _is_secret(value: str) -> bool:
    if value.startswith("/") or "://" in value or (len(value) > 24 and is_plain(value)):
        return False
    if any(map(_looks_secret, _SLASHES.split(value))) or _HEXADECIMAL_PAIR.fullmatch(value):
        return True
    if any(len(part) >= 16 and _is_of_all_kinds(part) for part in _CHUNK.findall(value)):
        return True
    word = without_known(value)
    return len(word) >= SHORTEST and _NO_NUMBER.search(word) is not None and _is_random(word)


def _is_of_all_kinds(word: str) -> bool:
    """Return whether ``word`` has digits, small letters and capitals."""
    return not (word.islower() or word.isupper() or word.isalpha() or word.isdigit())


_PEM_END: Final = pattern(r"-----END[ A-Z0-9]{1,60}(?:-----)?")
#: Base64, and line breaks, which may be written ``\\n``: before an end whose beginning was cut off.
_PEM_BODY: Final = string.ascii_letters + string.digits + "+/=\r\n\\"


def redact_pem(text: str) -> str:
    """Remove PEM blocks, whole or cut, from ``text``, which contains ``-----``."""
    parts: list[str] = []
    position = 0
    begin = text.find("-----BEGIN ")
    while True:
        # Where there is none, it is not searched for again.
        if 0 <= begin < position:
            begin = text.find("-----BEGIN ", position)
        end = _PEM_END.search(text, position)
        if end is not None and (begin < 0 or end.start() < begin):
            parts += (text[position : end.start()].rstrip(_PEM_BODY), REDACTED)
            position = end.end()
        elif begin >= 0:
            parts += (text[position:begin], REDACTED)
            if end is None:
                return "".join(parts)
            position = end.end()
        else:
            return "".join((*parts, text[position:]))


#: Slack's, Zapier's, Make's: anyone who knows the path may write there.
_HOOKS_HOST: Final = pattern(
    r"(?<![\w.-])((?:web)?hooks?\.[a-z0-9.-]{1,100}/)(?=[^\s\"'<>?#]{4})[^\s\"'<>?#]+", re.IGNORECASE
)
#: Discord's, Teams', Mattermost's, Feishu's, and one's own.
_HOOKS_PATH: Final = pattern(r"(/(?:webhooks?|webhookb2|hooks?)/)([^\s\"'<>?#]{8,})", re.IGNORECASE)
_BOT: Final = pattern(r"(?<![A-Za-z0-9])(bot)\d{5,16}:[\w-]{8,}", re.ASCII)
_IN_HOOKS: Final = pattern(r"(?=[^0-9/]*[0-9])[^/]{8,}")


def redact_webhooks(text: str) -> str:
    """Remove the secret parts of webhooks' addresses from ``text``, which contains ``hook`` or ``bot``."""
    text = _HOOKS_HOST.sub(rf"\1{REDACTED}", text)
    text = _HOOKS_PATH.sub(_redacted_hook, text)
    return _BOT.sub(rf"\1{REDACTED}", text)


def _redacted_hook(match: re.Match[str]) -> str:
    return match[1] + "/".join(REDACTED if _IN_HOOKS.fullmatch(part) else part for part in match[2].split("/"))
