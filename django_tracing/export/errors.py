"""Classify export errors by cause, and check headers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Final

from django_tracing.exceptions import ExportError, ExportReason
from django_tracing.net import explain_error, shown_address

__all__ = ["checked_headers", "from_network_error", "from_status", "seconds_to_wait"]

#: https://www.rfc-editor.org/rfc/rfc9110#section-5.1 and -5.5, without the obsolete part. gRPC has the same rules.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\t -~]*")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
#: The longest of HTTP's three formats has 33 characters: https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7
_LONGEST_DATE: Final = 40


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return ``headers`` as a dict. Raise ValueError, without the header's value, for a header that can't be sent."""
    for name, value in (headers or {}).items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a valid name of a header.")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"The header {name} has characters other than printable ASCII.")
    return dict(headers or {})


#: The reason of each kind of network error.
_REASONS: Final[Mapping[str, ExportReason]] = {
    "closed": "wrong_protocol",
    "not_tls": "tls",
    "tls": "tls",
    "dns": "dns",
    "refused": "refused",
    "timeout": "timeout",
    "not_http": "wrong_protocol",
    "unreachable": "unreachable",
}


def from_network_error(error: Exception, where: str) -> ExportError:
    """Return the :class:`ExportError` for a failed connection to ``where`` (host and port).

    ``error`` is an OSError, HTTPException or UnicodeError.
    """
    kind, message = explain_error(error, where)
    return ExportError(message, reason=_REASONS[kind], retryable=kind not in ("not_tls", "not_http"))


def from_status(status: int, where: str, retry_after: str | None = None, *, compressed: bool = False) -> ExportError:
    """Return the :class:`ExportError` for an HTTP status other than 200 to 299 from ``where``, a URL.

    ``compressed`` is whether the request used gzip, which may be why it was rejected.
    """
    where = shown_address(where)
    if status < 200:
        return ExportError(
            f"{where} wants to speak another protocol ({status}).",
            reason="wrong_protocol",
            retryable=False,
            status=status,
        )
    if status in (401, 403):
        return ExportError(
            f"{where} rejected the credentials ({status}).", reason="unauthorized", retryable=False, status=status
        )
    if status in (404, 405):
        return ExportError(
            f"{where} does not accept spans ({status}).", reason="not_found", retryable=False, status=status
        )
    # https://opentelemetry.io/docs/specs/otlp/#failures-1 lists the statuses that may be retried.
    if status in (429, 502, 503, 504):
        return ExportError(
            f"{where} is overloaded or unavailable ({status}).",
            reason="unavailable",
            retryable=True,
            status=status,
            retry_after=seconds_to_wait(retry_after),
        )
    if status >= 500:
        # Another attempt would fail in the same way, as OTLP defines it.
        return ExportError(f"{where} failed ({status}).", reason="unavailable", retryable=False, status=status)
    if status == 413:
        return ExportError(
            f"{where} accepts no message of that size ({status}).", reason="too_large", retryable=False, status=status
        )
    if status == 415 and compressed:
        # https://www.rfc-editor.org/rfc/rfc9110#section-15.5.16: the answer to an unsupported coding.
        return ExportError(
            f"{where} rejected the format of the request, probably because of gzip ({status}).",
            reason="compression",
            retryable=False,
            status=status,
        )
    if status in (400, 415):
        # A receiver that ignores Content-Encoding takes gzip for a broken message.
        perhaps = ' It may not support gzip: try COMPRESSION "none".' if compressed else ""
        return ExportError(
            f"{where} can't read the request ({status}).{perhaps}",
            reason="wrong_protocol",
            retryable=False,
            status=status,
        )
    return ExportError(f"{where} rejected the spans ({status}).", reason="rejected", retryable=False, status=status)


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which has seconds or a date; None for anything else."""
    text = (retry_after or "").strip(" \t")
    # The text may be of any length, and int() accepts digits that HTTP does not.
    if _SECONDS.fullmatch(text):
        return float(text)
    if not text.isascii() or len(text) > _LONGEST_DATE:
        return None
    from email.utils import mktime_tz, parsedate_tz

    try:
        date = parsedate_tz(text)
        return None if date is None else max(mktime_tz(date) - time.time(), 0.0)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
