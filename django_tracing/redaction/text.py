"""Redact free text: e-mail addresses, tokens, card numbers, credentials and the values of sensitive names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal
from urllib.parse import quote, unquote_plus

from django_tracing.redaction.bare_values import without_passwords_of_sql
from django_tracing.redaction.homes import without_homes
from django_tracing.redaction.looks import (
    SHORTEST,
    is_secret,
    redact_known_beginnings,
    redact_looks,
    redact_pem,
    redact_webhooks,
)
from django_tracing.redaction.names import LAST_WORDS, NO_VALUES, STATES, VERBS
from django_tracing.redaction.patterns import LONGEST_KEPT, REDACTED, Harmless, pattern, safely
from django_tracing.redaction.vocabulary import clear_when_used, in_use

__all__ = ["JWT", "TEXT_INPUT", "USERINFO", "mask_email", "redact_text", "redact_words"]

TEXT_INPUT: Final = 20_000


_unchanged: Final = Harmless()
clear_when_used(_unchanged.clear)

_EMAIL: Final = pattern(r"(?<![\w.+%!#$*^~-])([\w.+%!#$*^~-]+)(@|%40)((?:[\w-]{1,63}\.)*[\w-]{2,63})")
#: Whom programs log in as, or are called: ``celery@host`` (Celery's processes), ``git@host:path``. None is a person.
_PROGRAM: Final = pattern(r"celery|gen\d{1,9}|git|hg", re.ASCII)
#: ``eyJ`` is how ``{"`` begins in base64: the parts of a JWT, and any other token that is JSON.
JWT: Final = pattern(r"(?<![A-Za-z0-9])eyJ[\w-]{5,}(?:\.[\w-]*){0,4}")
#: "Basic usage" is no credential: after all but Bearer, what follows must look like one.
_SCHEME: Final = pattern(
    r"\b((?i:Bearer)\s+(?=[^\s,;\"']{4})|(?i:Basic|Token|Digest|Negotiate)\s+(?=[^\s,;\"']{6})"
    r"(?=[^\s,;\"']*(?:[0-9=]|[a-z][A-Z])|[^\s,;\"']{20}))[^\s,;\"']+"
)
_SCHEMES: Final = ("bearer", "basic", "token", "digest", "negotiate")
#: Of these headers, the whole line is the value.
_HEADER: Final = pattern(r"((?:authorization|cookie)\s{0,3}[:=]\s{0,3})(?![\"'])[^\r\n]+", re.IGNORECASE)
USERINFO: Final = pattern(
    r"://(?:[^\s/?#\"'<>]*@"
    # A password with a slash or the like in it: what follows the colon is no port.
    r"|[^\s:/?#@\"'<>\[]{0,100}:(?!\d{1,5}(?:[/?#,\s\"']|$))[^\s\"'<>]{1,300}@)"
)
#: What makes a name of the word before it, in whatever language the text was printed by.
_NAME: Final = pattern(
    r"""(?<![\w-])([\w-]{2,})(?:(?:\\{0,4}["'])?\]?\s*(?:=>|->|[=:\uff1d\uff1a]{1,3})\s*|>|["'],\s*(?=[bu]?["'])"""
    # A call in a line of source, or its repr().
    r"""|\((?=[bu]?["'])"""
    # A sentence.
    rf"""|\s+((?i:{VERBS}))(?:\s*[:=]\s*|\s+)(?=\S))"""
)
#: One of these, or of the marks of :func:`_may_name`, stands in every one of those.
_VERBS: Final = tuple(f" {verb}" for verb in VERBS.split("|"))
#: The words before a name that may belong to it: ``secret access key``.
_MOST_WORDS_BEFORE: Final = 2
#: An option and its value, as words of a command: ``--password x``, ``['--password', 'x']`` is a pair like others.
_OPTION: Final = pattern(r"(?<![\w-])(--?[A-Za-z][\w-]+)[ \t]{1,8}(?=[^\s-])", re.ASCII)
#: One of these is in every text that has one, or it begins with one.
_BEFORE_OPTIONS: Final = (" -", "--", "'-", '"-', "\n-", "\t-")
#: ``curl --user ada:x``.
_USER_OPTIONS: Final = ("--user", "--proxy-user")
#: Options of one letter mean a secret to some programs only.
_SHORT_OPTION: Final = pattern(r"(?<![\w-])-([pawu])(['\",]{0,3}[ \t]{0,8}['\"]?)(?=[^\s'\",-])[^\s'\",]+")
_PROGRAMS: Final = {
    "p": ("mysql", "mariadb", "sshpass", "mongo", " login", "'login'", '"login"'),
    "a": ("redis-cli", "valkey-cli"),
    "w": ("ldap",),
    "u": ("curl",),
}
#: Of a list, the words among which a program's name is looked for.
_MOST_PROGRAMS: Final = 20
#: A parameter of a URL, of which there may be no more than its path and query.
#: Or of a form, whose first one has nothing before it.
_PARAMETER: Final = pattern(
    r"((?:[?&#;]|&amp;|(?<![^\s\"'(])(?=[\w.%-]{1,60}=[^&#\s\"'<>`]{0,200}&))([\w.\[\]%~$-]{1,100})=)"
    r"([^&#;\s\"'<>`]+)"
)
_VALUE: Final = pattern(
    r"""
      [bBuUrRfF]{0,2}(?:"[^"\\]*(?:\\[\s\S][^"\\]*)*["\\]?|'[^'\\]*(?:\\[\s\S][^'\\]*)*['\\]?)
    | \\+(?:"[^"]*"?|'[^']*'?)
    | [\[({](?:"[^"\\]*(?:\\[\s\S][^"\\]*)*["\\]?|'[^'\\]*(?:\\[\s\S][^'\\]*)*['\\]?|[^\])}"'])*[\])}]?
    | [^\s,;&]+
    """,
    re.VERBOSE,
)
#: What is made of several words by its nature, quotes or not.
_PHRASES: Final = ("phrase", "mnemonic")
_PHRASE: Final = pattern(r"[^\s\"'\\\[({,;&][^\r\n\"'<>,;&]*")
#: An element of XML that has attributes, as the messages of SOAP: the value stands behind all of them.
_ELEMENT: Final = pattern(r"(<(?:[\w.-]{1,60}:)?([\w.-]{2,60})\s[^<>]*>)([^<>]+)")
#: What may hold something percent-encoded.
_WORD: Final = pattern(r"[^\s\"'<>`&=?#;]{4,}")
_ESCAPE: Final = pattern(r"%[0-9A-Fa-f]{2}")
#: How often a URL in a URL in a text is decoded: each time costs another look at all of it.
_MOST_DECODED: Final = 3
#: The look back stands after the digit: so the search for a first digit is quick.
_CARD: Final = pattern(r"\d(?<!\d\d)(?:[ -]?\d){12,}(?!\d)")
_CARD_GROUP: Final = pattern(r"\d+")


def _mask_match(match: re.Match[str]) -> str:
    if _PROGRAM.fullmatch(match[1]):
        return match.group()
    return f"{match[1][:1]}***{match[2]}{match[3]}"


def _redact_cards(match: re.Match[str]) -> str:
    """Redact every part of a run of digits that looks like a card number, perhaps with an expiry date."""
    text = match.group()
    groups = [group.span() for group in _CARD_GROUP.finditer(text)]
    parts: list[str] = []
    position = index = 0
    while index < len(groups):
        start = groups[index][0]
        digits, redacted = "", 0
        for last in range(index, min(index + 7, len(groups))):
            left, right = groups[last]
            if last > index and right - left < 3:
                break
            digits += text[left:right]
            if len(digits) > 19:
                break
            if len(digits) >= 13 and _is_card(digits):
                redacted = last + 1
        if redacted:
            parts += (text[position:start], REDACTED)
            index = redacted
            position = groups[index - 1][1]
        else:
            index += 1
    parts.append(text[position:])
    return "".join(parts)


def _is_card(digits: str) -> bool:
    # Cards begin with 2 to 6 or 8; times and many identifiers, as long as cards, with 1.
    if digits[0] not in "234568":
        return False
    values = [int(digit) for digit in digits]
    return (sum(sum(divmod(value * 2, 10)) for value in values[-2::-2]) + sum(values[-1::-2])) % 10 == 0


def _redact_values(text: str) -> str:
    """Redact values of sensitive names: ``name=value``, ``"name": "value"``, ``<name>value``, ``name is value``.

    Not by one substitution: the value of a harmless name may contain a sensitive name (``next=/?token=x``).
    """
    parts: list[str] = []
    kept = position = 0
    closing = text.rfind("</")
    while (name := _NAME.search(text, position)) is not None:
        position = name.end()
        if not _is_sensitive(text, name) or name[1].endswith(("Error", "Exception", "Warning")):
            continue
        if text[position - 1] == ">" and text.startswith("/", position) and closing < position:
            # A parameter of a route, no element: <token>/.
            continue
        phrase = name[1].lower().endswith(_PHRASES) and not name[2]
        value = (_PHRASE.match(text, position) if phrase else None) or _VALUE.match(text, position)
        if value is None or value.group().startswith(REDACTED):
            continue
        bare = value.group().rstrip(".!?:)]}'\"").lower()
        if bare in NO_VALUES or (name[2] and bare in STATES):
            continue
        edge = value.group()[0] if value.group()[0] in "\"'" else ""
        parts += (text[kept:position], edge, REDACTED, edge)
        kept = position = value.end()
    return "".join((*parts, text[kept:])) if parts else text


def _may_name(text: str) -> bool:
    """Return whether there may be a name and a value in ``text``, which is in lower case."""
    return (
        "=" in text
        or ":" in text
        or ">" in text
        or "('" in text
        or '("' in text
        or "\uff1a" in text
        or "\uff1d" in text
        or "'," in text
        or '",' in text
        or "\n" in text
        or any(map(text.__contains__, _VERBS))
    )


def _is_sensitive(text: str, name: re.Match[str]) -> bool:
    """Return whether a name is sensitive, alone or with the words before it: ``API key``, ``session id``."""
    last = name[1]
    matches = in_use.vocabulary.sensitive.matches
    if matches(last):
        return True
    start = name.start(1)
    if not start or not text[start - 1].isspace():
        return False
    joined = ""
    # The first may be cut.
    before = text[max(0, start - 60) : start].split()[1 if start > 60 else 0 :]
    for word in reversed(before[-_MOST_WORDS_BEFORE:]):
        bare = word.lstrip("\"'([{<*")
        if not bare.replace("-", "").replace("'", "").replace("_", "").isalnum():
            return False
        joined = f"{bare} {joined}" if joined else bare
        # All of it makes the name, not a word in front: "token error: x" is no token.
        if matches(f"{joined} {last}") and (last.lower() in LAST_WORDS or not matches(joined)):
            return True
        if bare != word:
            return False
    return False


def _redact_options(text: str) -> str:
    """Redact values of command options: ``--password x``, ``mysql -p x``, ``curl -u ada:x``."""
    parts: list[str] = []
    kept = position = 0
    while (option := _OPTION.search(text, position)) is not None:
        position = option.end()
        of_user = option[1] in _USER_OPTIONS
        if not of_user and not in_use.vocabulary.sensitive.matches(option[1]):
            continue
        value = _VALUE.match(text, position)
        if value is None or value.group().startswith(REDACTED):
            continue
        user, colon, said = value.group().partition(":")
        if of_user and (not colon or (user + said).isdigit()):
            # A name only; or a user's and a group's numbers.
            continue
        parts += (text[kept:position], f"{user}:{REDACTED}" if of_user else REDACTED)
        kept = position = value.end()
    text = "".join((*parts, text[kept:])) if parts else text
    return _SHORT_OPTION.sub(_redact_short_option, text)


def redact_words(words: Sequence[Any]) -> list[Any]:
    """Redact the words of a command, or of another list of texts, in which an option's value is a separate text.

    Only such values are redacted: redact each text by itself, too.
    """
    matches = in_use.vocabulary.sensitive.matches
    kept = list(words)
    programs = ""
    option = ""
    for place, word in enumerate(kept):
        if not isinstance(word, str):
            option = ""
            continue
        if word[:1] == "-":
            letter = word[1:2]
            known = _PROGRAMS.get(letter, ()) if programs and word[:2] != "--" else ()
            known = known if any(program.strip(" '\"") in programs for program in known) else ()
            if known and len(word) > 2:
                kept[place] = f"{word[:2]}{REDACTED}"
                option = ""
            else:
                option = word if known or ("=" not in word and matches(word[:100])) else ""
        elif option:
            kept[place] = REDACTED if option != "-u" or ":" in word else word
            option = ""
        else:
            programs += f" {word[:50].lower()}" if place < _MOST_PROGRAMS else ""
    return kept


def _redact_short_option(match: re.Match[str]) -> str:
    option, between = match.groups()
    # The program stands before it, in the same line.
    before = match.string[max(0, match.start() - 300) : match.start()].rpartition("\n")[2].lower()
    if not any(program in before for program in _PROGRAMS[option]):
        return match.group()
    user = f"{value.partition(':')[0]}:" if ":" in (value := match.group()[2 + len(between) :]) else ""
    if option == "u" and not user:
        return match.group()
    return f"-{option}{between}{user if option == 'u' else ''}{REDACTED}"


def _redact_parameter(match: re.Match[str]) -> str:
    begin, name, value = match.groups()
    if value.startswith(REDACTED):
        return match.group()
    if "%" in name or "+" in name:
        name = unquote_plus(name)
    if in_use.vocabulary.sensitive.matches_parameter(name):
        return f"{begin}{REDACTED}"
    decoded = unquote_plus(value) if "%" in value or "+" in value else value
    if is_secret(decoded):
        return f"{begin}{REDACTED}"
    if "?" in value:
        return f"{begin}{_of_inner_url(value)}"
    if "+" not in value:
        # What is encoded in it is read with all else that is.
        return match.group()
    redacted = _redacted_text(decoded, True, _MOST_DECODED)
    return match.group() if redacted == decoded else f"{begin}{quote(redacted, safe='[]*@/:')}"


def _of_inner_url(value: str) -> str:
    """Redact ``value``, which is or contains an unencoded URL: ``next=/login?code=x``."""
    shown: list[str] = []
    for place, part in enumerate(value.split("?")):
        name, equals, said = part.partition("=")
        if place and equals and in_use.vocabulary.sensitive.matches_parameter(unquote_plus(name)):
            # All that follows may be of it.
            return "?".join((*shown, f"{name}={REDACTED}"))
        shown.append(f"{name}={REDACTED}" if place and is_secret(said) else part)
    return "?".join(shown)


def _redact_element(match: re.Match[str]) -> str:
    return (
        f"{match[1]}{REDACTED}"
        if in_use.vocabulary.sensitive.matches(match[2]) and match[3].strip()
        else match.group()
    )


def _without_encoded(text: str, random: bool, depth: int) -> str:
    """Redact the secrets in percent-encoded words of ``text``. Words without secrets stay as they are."""

    def redact(match: re.Match[str]) -> str:
        word = match.group()
        if "%" not in word or _ESCAPE.search(word) is None:
            return word
        decoded = unquote_plus(word)
        redacted = _redacted_text(decoded, random, depth + 1)
        return word if redacted == decoded else quote(redacted, safe="[]*/:" if "%40" in word else "[]*/:@")

    return _WORD.sub(redact, text)


@safely(lambda: REDACTED)
def redact_text(text: str, *, random: bool = True) -> str:
    """Return free text without e-mail addresses, tokens, card numbers, credentials and values of sensitive names.

    With ``random=False``, random words stay: the ids of machines, for example.
    """
    if (len(text) < 13 and text.isalnum() and "eyJ" not in text) or (
        len(text) <= LONGEST_KEPT and text in _unchanged
    ):
        return text
    redacted = _redacted_text(text[:TEXT_INPUT], random, 0)
    if random and redacted == text and text.__class__ is str:
        _unchanged.keep(text)
    return redacted


def _redacted_text(text: str, random: bool, depth: int) -> str:
    text = without_homes(text)
    if "=" in text and ("?" in text or "&" in text or "#" in text or ";" in text):
        text = _PARAMETER.sub(_redact_parameter, text)
    if "%" in text and depth < _MOST_DECODED:
        text = _without_encoded(text, random, depth)
    return _redacted(text, random)


def _redacted(text: str, random: bool) -> str:
    # Each step first asks for what is cheap to find: most texts have nothing to redact.
    if "://" in text and "@" in text:
        text = USERINFO.sub("://", text)
    if "-----" in text:
        text = redact_pem(text)
    lower = text.lower()
    if "identified" in lower or "password" in lower:
        text = without_passwords_of_sql(text)
    if "hook" in lower or "bot" in lower:
        text = redact_webhooks(text)
    if _may_name(lower) and any(map(lower.__contains__, in_use.vocabulary.stems)):
        text = _HEADER.sub(rf"\1{REDACTED}", text)
        text = _SCHEME.sub(rf"\1{REDACTED}", text)
        if "</" in text:
            text = _ELEMENT.sub(_redact_element, text)
        text = _redact_values(text)
    elif any(map(lower.__contains__, _SCHEMES)):
        text = _SCHEME.sub(rf"\1{REDACTED}", text)
    if "-" in text[:1] or any(map(text.__contains__, _BEFORE_OPTIONS)):
        text = _redact_options(text)
    if "@" in text or "%40" in text:
        text = _EMAIL.sub(_mask_match, text)
    if len(text) >= SHORTEST:
        # The longest first: a JWT may be a part of what is longer, and a card's number of anything.
        text = _CARD.sub(_redact_cards, redact_looks(text) if random else redact_known_beginnings(text))
    return JWT.sub(REDACTED, text) if "eyJ" in text else text


@safely(lambda: "***")
def mask_email(email: str, mode: Literal["masked", "full", "off"] = "masked") -> str | None:
    """Return ``ada@example.com`` as ``a***@example.com`` (masked), unchanged (full), or None (off)."""
    if mode == "off":
        return None
    if mode == "full":
        return email
    name, at, domain = email.rpartition("@")
    return f"{name[:1]}***@{domain}" if at and name and domain else "***"
