"""Free text without e-mails, tokens, card numbers, credentials and the values of sensitive names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

from django_tracing.redaction.bare_values import without_passwords_of_sql
from django_tracing.redaction.homes import without_homes
from django_tracing.redaction.names import STEMS, SensitiveKeys, words_of
from django_tracing.redaction.patterns import REDACTED, pattern, safely

__all__ = ["JWT", "TEXT_INPUT", "USERINFO", "also_sensitive", "mask_email", "redact_text"]

TEXT_INPUT: Final = 20_000


_text_keys = SensitiveKeys()
_text_stems: tuple[str, ...] = STEMS


def also_sensitive(names: Iterable[str]) -> None:
    """Makes free text lose the values of ``names`` (``TRACING["SENSITIVE_KEYS"]``) too; called at set-up."""
    global _text_keys, _text_stems
    names = tuple(names)
    _text_keys = SensitiveKeys(names)
    # A name's first word stands in whatever is written of it: iban, iban_number, "IBAN number".
    firsts = tuple(words[0].lower() for name in names if (words := words_of(name)))
    _text_stems = (*STEMS, *firsts)


_EMAIL: Final = pattern(r"(?<![\w.+%!#$*^~-])([\w.+%!#$*^~-]+)(@|%40)((?:[\w-]{1,63}\.)*[\w-]{2,63})")
#: ``eyJ`` is how ``{"`` begins in base64: the parts of a JWT, and any other token that is JSON.
JWT: Final = pattern(r"(?<![A-Za-z0-9])eyJ[\w-]{5,}(?:\.[\w-]*){0,4}")
#: "Basic usage" is no credential: after all but Bearer, what follows must look like one.
_SCHEME: Final = pattern(
    r"\b((?i:Bearer)\s+(?=[^\s,;\"']{4})|(?i:Basic|Token|Digest|Negotiate)\s+(?=[^\s,;\"']{6})"
    r"(?=[^\s,;\"']*(?:[0-9=]|[a-z][A-Z])|[^\s,;\"']{20}))[^\s,;\"']+"
)
#: Of these headers, the whole line is the value.
_HEADER: Final = pattern(r"((?:authorization|cookie)\s{0,3}[:=]\s{0,3})(?![\"'])[^\r\n]+", re.IGNORECASE)
USERINFO: Final = pattern(
    r"://(?:[^\s/?#\"'<>]*@"
    # A password with a slash or the like in it: what follows the colon is no port.
    r"|[^\s:/?#@\"'<>\[]{0,100}:(?!\d{1,5}(?:[/?#,\s\"']|$))[^\s\"'<>]{1,300}@)"
)
#: What makes a name of the word before it, in whatever language the text was printed by.
_NAME: Final = pattern(
    r"""(?<![\w-])([\w-]{2,})(?:(?:\\{0,4}["'])?\]?\s*(?:=>|->|[=:]{1,3})\s*|>|["'],\s*(?=[bu]?["']))"""
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
#: The look back stands after the digit: so the search for a first digit is quick.
_CARD: Final = pattern(r"\d(?<!\d\d)(?:[ -]?\d){12,}(?!\d)")
_CARD_GROUP: Final = pattern(r"\d+")


def _mask_match(match: re.Match[str]) -> str:
    return f"{match[1][:1]}***{match[2]}{match[3]}"


def _redact_cards(match: re.Match[str]) -> str:
    """A run of digits, perhaps with an expiry date after the number: every card-like part of it is redacted."""
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
    """Values of sensitive names: ``name=value``, ``"name": "value"``, ``<name>value``.

    Not one substitution: the value of a harmless name may itself hold a sensitive one (``next=/?token=x``).
    """
    parts: list[str] = []
    kept = position = 0
    while (name := _NAME.search(text, position)) is not None:
        position = name.end()
        if not _text_keys.matches(name[1]) or name[1].endswith(("Error", "Exception", "Warning")):
            continue
        value = _VALUE.match(text, position)
        if value is None or value.group().startswith(REDACTED):
            continue
        edge = value.group()[0] if value.group()[0] in "\"'" else ""
        parts += (text[kept:position], edge, REDACTED, edge)
        kept = position = value.end()
    return "".join((*parts, text[kept:])) if parts else text


@safely(lambda: REDACTED)
def redact_text(text: str) -> str:
    """Free text without e-mails, tokens, card numbers, URL credentials and values of sensitive names."""
    # Each step first asks for what is cheap to find: most texts have nothing to redact.
    if len(text) < 13 and text.isalnum() and "eyJ" not in text:
        return text
    text = without_homes(text[:TEXT_INPUT])
    if "://" in text and "@" in text:
        text = USERINFO.sub("://", text)
    if "eyJ" in text:
        text = JWT.sub(REDACTED, text)
    lower = text.lower()
    if "identified" in lower or "password" in lower:
        text = without_passwords_of_sql(text)
    for stem in _text_stems:
        if stem in lower:
            text = _HEADER.sub(rf"\1{REDACTED}", text)
            text = _SCHEME.sub(rf"\1{REDACTED}", text)
            text = _redact_values(text)
            break
    else:
        if "basic" in lower or "digest" in lower or "negotiate" in lower:
            text = _SCHEME.sub(rf"\1{REDACTED}", text)
    if "@" in text or "%40" in text:
        text = _EMAIL.sub(_mask_match, text)
    return _CARD.sub(_redact_cards, text) if len(text) >= 13 else text


@safely(lambda: "***")
def mask_email(email: str, mode: Literal["masked", "full", "off"] = "masked") -> str | None:
    """``ada@example.com`` as ``a***@example.com`` (masked), as it is (full), or None (off)."""
    if mode == "off":
        return None
    if mode == "full":
        return email
    name, at, domain = email.rpartition("@")
    return f"{name[:1]}***@{domain}" if at and name and domain else "***"
