"""Sign and verify values of ``TRACING["DEBUG_HEADER"]``, the header that keeps the traces of one path for an hour."""

from __future__ import annotations

import hashlib
import time
from typing import Final

__all__ = ["DEBUG_HEADER_AGE", "is_valid_debug_header", "make_debug_header"]

#: The key is derived from SECRET_KEY and this: no other signature of the site is valid here, and none of these there.
_SALT: Final = "django_tracing.debug"
#: How long a signed value is valid, in seconds.
DEBUG_HEADER_AGE: Final = 3600
#: How much the clocks of two machines may differ, in seconds. A value from the future would be valid for too long.
_SKEW: Final = 60
#: Values are shorter. A longer one is not verified.
_LONGEST: Final = 200


def make_debug_header(path: str) -> str:
    """Return a value for the header ``TRACING["DEBUG_HEADER"]``, signed with SECRET_KEY.

    It is valid for an hour, for requests to ``path``: the path of the URL, without the query (``/orders/7/``).
    """
    from django.core.signing import TimestampSigner

    if not path.startswith("/") or "?" in path:
        raise ValueError(f'path must be the path of a URL, such as "/orders/", not {path!r}.')
    return TimestampSigner(salt=_SALT).sign(_digest(path))


def is_valid_debug_header(value: str, path: str) -> bool:
    """Return whether this site's :func:`make_debug_header` made ``value`` for ``path`` within the last hour."""
    from django.core.signing import BadSignature, TimestampSigner, b62_decode

    if len(value) > _LONGEST or not value.isascii():
        return False
    try:
        # It compares signatures in constant time.
        signed = TimestampSigner(salt=_SALT).unsign(value, max_age=DEBUG_HEADER_AGE)
        made = b62_decode(value.split(":")[1])
    except (BadSignature, IndexError, ValueError):
        return False
    return signed == _digest(path) and made <= time.time() + _SKEW


def _digest(path: str) -> str:
    """Return what stands for a path in a header, which may have any character."""
    return hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:32]
