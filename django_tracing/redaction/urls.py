"""Redact URLs and query strings: credentials, tokens and the values of sensitive parameters."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, unquote_plus

from django_tracing.redaction.looks import SHORTEST, is_plain, is_secret
from django_tracing.redaction.names import SensitiveKeys
from django_tracing.redaction.patterns import MARK, REDACTED, pattern, safely
from django_tracing.redaction.text import USERINFO, redact_text

__all__ = ["redact_query", "sanitise_url"]

_URL_INPUT: Final = 8192
#: Longer ones are not what most URLs are.
_PLAIN_LENGTH: Final = 1000
_QUERY_PARAMETERS: Final = 50
#: The number of parameters that are read, which include repeated and empty ones beside the 50.
_MOST_PARTS: Final = 200


#: Longer names are words with underscores between them, or they are judged the long way.
_PLAIN_PARAMETER: Final = r"(?=\w{1,12}=|[a-z]{1,12}(?:_{1,2}[a-z]{1,12})*=)[A-Za-z_]\w{0,30}=\w{0,12}"
_PLAIN_PARAMETERS: Final = f"{_PLAIN_PARAMETER}(?:&{_PLAIN_PARAMETER})*"
_PLAIN_WORDS: Final = r"[A-Z]?[a-z]{1,12}\d{0,2}(?:[_-](?:\d{1,4}[_-])?[A-Z]?[a-z]{1,12}\d{0,2})*(?:[_-]\d{1,4})?"
_PLAIN_QUERY: Final = pattern(_PLAIN_PARAMETERS, re.ASCII)
#: What most URLs are: host, words and numbers, short parameters. Nothing below would change such a one, the names of
#: parameters aside; a test holds it against the long way.
_PLAIN_URL: Final = pattern(
    r"https?://(?:[A-Za-z]{1,30}\d{0,3}[.-]|\d{1,3}\.)*(?:[A-Za-z]{1,30}\d{0,3}|\d{1,3})(?::\d{1,5})?"
    # A segment is short, or of words that are never taken for a secret. That is asked first, so that there is one way
    # only to read it.
    rf"(?:/(?=(?:[\w-]{{0,12}}|{_PLAIN_WORDS})(?:[/?]|\Z))[\w-]*)*"
    rf"(?:\?({_PLAIN_PARAMETERS}))?",
    re.ASCII,
)
_USERINFO_START: Final = pattern(r"((?:[A-Za-z][\w+.-]*:)?(?://)?)[^/?#]*@")


@safely(lambda: REDACTED)
def sanitise_url(url: str, sensitive: SensitiveKeys) -> str:
    """Return ``url`` without credentials and fragment, with the values of sensitive parameters ``[redacted]``.

    A segment of the path that looks like a token (of a password reset, an invitation) is redacted too.
    Any text is accepted, including broken URLs and undecodable bytes.
    """
    url = url[:_URL_INPUT]
    plain = _PLAIN_URL.fullmatch(url) if len(url) <= _PLAIN_LENGTH else None
    if plain is not None and "eyJ" not in url and "hook" not in url:
        parameters = plain[1]
        if parameters is None or not any(
            sensitive.matches_parameter(parameter.partition("=")[0]) for parameter in parameters.split("&")
        ):
            return url
    return _sanitise_any_url(url, sensitive)


def _sanitise_any_url(url: str, sensitive: SensitiveKeys) -> str:
    if not url.isascii():
        url = url.encode("utf-8", "replace").decode("utf-8")
    if "@" in url:
        # Before the URL is taken apart: a password may hold a ? or a #.
        url = USERINFO.sub("://", url)
        start = _USERINFO_START.match(url)
        url = url if start is None else start[1] + url[start.end() :]
    head, mark, query = url.partition("#")[0].partition("?")
    segments = head.split("/")
    path = 3 if "://" in head else 0
    segments[path:] = [
        segment if len(segment) < SHORTEST else _redacted_segment(segment) for segment in segments[path:]
    ]
    head = redact_text("/".join(segments))
    if not mark:
        return head
    parts = []
    first, *rest = query.split("&", _MOST_PARTS)
    # The rest, which isn't divided, may be secret.
    left_out = rest.pop() if len(rest) == _MOST_PARTS else ""
    for part in (first, *rest):
        name, equals, value = part.partition("=")
        if not equals:
            parts.append(_redacted_value(part))
            continue
        name = _redacted_encoded(name)
        if sensitive.matches_parameter(_decoded(name)):
            parts.append(f"{name}={REDACTED}")
        else:
            parts.append(f"{name}={_redacted_value(value)}")
    if left_out:
        parts.append(MARK)
    return f"{head}?{'&'.join(parts)}"


def _redacted_encoded(text: str) -> str:
    decoded = _decoded(text)
    redacted = redact_text(decoded)
    return text if redacted == decoded else quote(redacted, safe="[]*@/:")


def _redacted_segment(segment: str) -> str:
    if is_plain(segment):
        return segment
    decoded = unquote(segment)
    if is_secret(decoded):
        return REDACTED
    if decoded == segment:
        # It is read with the whole path.
        return segment
    redacted = redact_text(decoded)
    return segment if redacted == decoded else quote(redacted, safe="[]*:")


def _redacted_value(value: str) -> str:
    return REDACTED if is_secret(_decoded(value)) else _redacted_encoded(value)


def _decoded(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text


_NOT_IN_NAMES: Final = pattern(r"[^A-Za-z0-9_.-]+")


@safely(dict)
def redact_query(query_string: str, sensitive: SensitiveKeys) -> dict[str, str]:
    """Return the parameters of a query string, name to value, with sensitive values ``[redacted]``.

    At most 50 parameters; the last of a repeated one counts, as in Django's ``request.GET``.
    """
    parameters: dict[str, str] = {}
    if len(query_string) < 500 and "eyJ" not in query_string and _PLAIN_QUERY.fullmatch(query_string):
        for parameter in query_string.split("&")[:_QUERY_PARAMETERS]:
            name, _, value = parameter.partition("=")
            parameters[name] = REDACTED if sensitive.matches_parameter(name) else value
        return parameters
    looked_at = "&".join(query_string[:_URL_INPUT].split("&", _MOST_PARTS)[:_MOST_PARTS])
    for name, value in parse_qsl(looked_at, keep_blank_values=True, errors="replace"):
        key = _NOT_IN_NAMES.sub("_", redact_text(name))[:64]
        if not key:
            continue
        parameters[key] = REDACTED if sensitive.matches_parameter(name) or is_secret(value) else redact_text(value)
        if len(parameters) >= _QUERY_PARAMETERS:
            break
    return parameters
