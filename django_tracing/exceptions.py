"""Define the exceptions that users of this app may catch."""

from __future__ import annotations

from math import inf
from typing import Final, Literal

from django_tracing.redaction.printable import printable

__all__ = ["ExportError", "ExportReason", "JaegerError", "MissingExtra", "ReadError", "StoreError", "TracingError"]

#: The longest message, in characters: it may quote a server or a file.
_LONGEST_MESSAGE: Final = 1000

#: Why a batch of spans was not exported.
ExportReason = Literal[
    "refused",
    "dns",
    "tls",
    "timeout",
    "unreachable",
    "unauthorized",
    "not_found",
    "wrong_protocol",
    "compression",
    "rejected",
    "too_large",
    "unavailable",
    "failed",
]


class TracingError(Exception):
    """The base class of this app's exceptions. None of them is raised into a request."""


class ReadError(TracingError):
    """Traces could not be read or stored.

    The message says what is wrong and what to do. It is one line of at most 1,000 characters, because it may quote a
    backend or a file. ``reason`` is one word that identifies the error for programs.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(printable(message, _LONGEST_MESSAGE))
        self.reason = reason


class StoreError(ReadError):
    """The local store could not be read or written.

    ``reason`` is one of ``read_only``, ``full``, ``busy``, ``timeout``, ``newer`` (a newer version of this app has
    changed the tables), ``foreign`` (the file is another program's database), ``deleted`` (the trace was deleted
    while it was read), ``ambiguous`` (several traces start with the given id) and ``unusable``.
    """


class JaegerError(ReadError):
    """Jaeger's query API could not be read.

    ``reason`` is one of ``refused``, ``dns``, ``tls``, ``timeout``, ``unreachable``, ``unauthorized``, ``not_found``
    (there is no query API at the address), ``not_jaeger`` (another program answers), ``failed`` (Jaeger answers with
    an error) and ``ambiguous`` (several traces start with the given id).
    """


class ExportError(TracingError):
    """A batch of spans could not be exported.

    The message says what is wrong. It is one line of at most 1,000 characters, because it may quote the receiver.
    ``reason`` is one word that identifies the error for programs, and ``retryable`` is whether the same batch may be
    accepted later; a batch that is ``too_large`` is sent in two halves. ``status`` is the HTTP status, if there was
    one; ``retry_after`` is the delay that the backend asked for, in seconds; ``rejected`` is how many spans of an
    otherwise accepted batch were rejected, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: ExportReason,
        retryable: bool,
        status: int | None = None,
        retry_after: float | None = None,
        rejected: int | None = None,
    ) -> None:
        super().__init__(printable(message, _LONGEST_MESSAGE))
        self.reason: ExportReason = reason
        self.retryable = retryable
        self.status = status
        # Exporters of other packages make this error, too. What is no such number is as if it was not given.
        self.retry_after = retry_after if isinstance(retry_after, (int, float)) and 0 <= retry_after < inf else None
        self.rejected = rejected if isinstance(rejected, int) and rejected >= 0 else None


class MissingExtra(TracingError, ImportError):
    """A package that a setting needs is not installed. The message names the extra that installs it."""
