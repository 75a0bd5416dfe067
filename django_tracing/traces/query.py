"""Parse what people type to search traces: attributes and ids of traces."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Final

from django_tracing.exceptions import ReadError
from django_tracing.semconv.names import CORRELATION_ID, HTTP_STATUS_CODE, USER_ID, Convention

__all__ = ["attribute", "attributes", "searched_attributes", "trace_id_prefix"]

#: Shorter starts of ids would match by chance.
_SHORTEST_PREFIX: Final = 6


def attribute(word: str) -> tuple[str, str]:
    """Parse ``key=value``. Raises ValueError for anything else."""
    key, equals, value = word.partition("=")
    if not equals or not key.strip():
        raise ValueError(word)
    return key.strip(), value


def attributes(text: str) -> dict[str, str]:
    """Parse ``key=value other="two words"``, with quotation marks as in a shell.

    Raises ValueError with the word that is not an attribute, or with ``""`` if a quotation mark is missing.
    """
    try:
        words: Iterable[str] = shlex.split(text)
    except ValueError:
        raise ValueError("") from None
    return dict(map(attribute, words))


def searched_attributes(
    given: Mapping[str, str],
    *,
    opt_in: Iterable[str],
    status_code: int | None = None,
    user: str | None = None,
    correlation_id: str | None = None,
) -> dict[str, str] | None:
    """Return a search's attributes, or None. ``opt_in`` is SEMCONV_STABILITY_OPT_IN, which changes their names."""
    wanted = dict(given)
    if status_code is not None:
        wanted[next(iter(Convention(opt_in).apply({HTTP_STATUS_CODE: 0})))] = str(status_code)
    if user:
        wanted[USER_ID] = user
    if correlation_id:
        wanted[CORRELATION_ID] = correlation_id
    return wanted or None


def trace_id_prefix(text: str) -> str:
    """Parse ``text`` as the start of a trace id: lower-case hex. Raises :class:`ReadError` for anything else."""
    prefix = text.strip().lower()
    if not _SHORTEST_PREFIX <= len(prefix) <= 32 or not all(character in "0123456789abcdef" for character in prefix):
        raise ReadError(
            f"{text[:40]!r} is not a trace id. "
            f"Give its 32 hex digits, or at least the first {_SHORTEST_PREFIX} of them.",
            "bad_id",
        )
    return prefix
