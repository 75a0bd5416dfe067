"""Sign and verify values of ``TRACING["DEBUG_HEADER"]``, the header that keeps one trace."""

from __future__ import annotations

from typing import Final

__all__ = ["DEBUG_HEADER_AGE", "is_valid_debug_header", "make_debug_header"]

_SALT: Final = "django_tracing.debug"
#: How long a signed value is valid, in seconds.
DEBUG_HEADER_AGE: Final = 3600


def make_debug_header() -> str:
    """Return a value for the header ``TRACING["DEBUG_HEADER"]``, signed with SECRET_KEY and valid for an hour."""
    from django.core.signing import TimestampSigner

    return TimestampSigner(salt=_SALT).sign("trace")


def is_valid_debug_header(value: str) -> bool:
    """Return whether ``value`` was signed by :func:`make_debug_header` of this site within the last hour."""
    from django.core.signing import BadSignature, TimestampSigner

    try:
        TimestampSigner(salt=_SALT).unsign(value, max_age=DEBUG_HEADER_AGE)
    except BadSignature:
        return False
    return True
