"""What can go wrong with an export, told apart so that a person can be told what to do."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from typing import Final, Literal

from django_tracing.addresses import shown_address
from django_tracing.redaction.printable import printable

__all__ = ["ExportError", "MissingExtra", "Reason", "checked_headers", "from_os_error", "from_status"]

#: https://www.rfc-editor.org/rfc/rfc9110#section-5.1 and -5.5, without the obsolete; gRPC's metadata is as strict.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\t -~]*")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
#: Characters of a message.
_MOST_SAID: Final = 1000

Reason = Literal[
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
    "unavailable",
    "failed",
]


class ExportError(Exception):
    """A batch of spans was not taken.

    ``retryable`` says whether the same batch may be taken later; ``status`` is the HTTP status where there was one;
    ``retry_after`` is what the backend asked for, in seconds; ``rejected``, where it is not None, is how many spans
    were not taken of a batch that was taken otherwise. The message may quote what the receiver said: it is cut, and
    on one line.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason,
        retryable: bool,
        status: int | None = None,
        retry_after: float | None = None,
        rejected: int | None = None,
    ) -> None:
        super().__init__(printable(message, _MOST_SAID))
        self.reason: Reason = reason
        self.retryable = retryable
        self.status = status
        self.retry_after = retry_after
        self.rejected = rejected


class MissingExtra(ImportError):
    """An exporter's package is not installed; the message says which extra brings it."""


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """``headers`` as a dict; raises ValueError, naming the header but not its value, for what can't be sent."""
    for name, value in (headers or {}).items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a header.")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"The header {name} has characters other than printable ASCII.")
    return dict(headers or {})


def from_os_error(error: OSError, where: str) -> ExportError:
    """The :class:`ExportError` for a connection to ``where`` (host:port) that failed."""
    # http.client.RemoteDisconnected is one of them.
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return ExportError(
            f"{where} closed the connection without an answer.", reason="wrong_protocol", retryable=True
        )
    if isinstance(error, ssl.SSLError):
        text = error.reason or str(error)
        if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text or "HTTP_REQUEST" in text:
            return ExportError(f"{where} does not speak TLS.", reason="tls", retryable=False)
        detail = getattr(error, "verify_message", "") or text
        return ExportError(f"TLS with {where} failed: {detail}.", reason="tls", retryable=True)
    if isinstance(error, socket.gaierror):
        return ExportError(f"The host name of {where} is unknown.", reason="dns", retryable=True)
    if isinstance(error, ConnectionRefusedError):
        return ExportError(f"Nothing listens on {where}.", reason="refused", retryable=True)
    if isinstance(error, TimeoutError):
        return ExportError(f"{where} did not answer in time.", reason="timeout", retryable=True)
    return ExportError(f"{where} can't be reached: {error}.", reason="unreachable", retryable=True)


def from_status(status: int, where: str, retry_after: str | None = None, *, compressed: bool = False) -> ExportError:
    """The :class:`ExportError` for an HTTP status of 300 or more from ``where``, a URL.

    ``compressed`` says that the message was sent with gzip, which may be why it was refused.
    """
    where = shown_address(where)
    if status in (401, 403):
        return ExportError(
            f"{where} refused the credentials ({status}).", reason="unauthorized", retryable=False, status=status
        )
    if status in (404, 405):
        return ExportError(f"{where} takes no spans ({status}).", reason="not_found", retryable=False, status=status)
    # https://opentelemetry.io/docs/specs/otlp/#failures-1 names those that may be tried again.
    if status in (429, 502, 503, 504):
        # Not a text of digits without end, nor digits that float() does not take.
        wait = float(retry_after) if retry_after and _SECONDS.fullmatch(retry_after) else None
        return ExportError(
            f"{where} is overloaded or away ({status}).",
            reason="unavailable",
            retryable=True,
            status=status,
            retry_after=wait,
        )
    if status >= 500:
        return ExportError(f"{where} failed ({status}).", reason="unavailable", retryable=True, status=status)
    if status == 415 and compressed:
        # https://www.rfc-editor.org/rfc/rfc9110#section-15.5.16: the answer to a coding that is not taken.
        return ExportError(
            f"{where} does not take what is sent, likely because of gzip ({status}).",
            reason="compression",
            retryable=False,
            status=status,
        )
    if status in (400, 415):
        # Who passes over Content-Encoding takes gzip for a broken message.
        perhaps = ' It may not know gzip: try COMPRESSION "none".' if compressed else ""
        return ExportError(
            f"{where} does not understand what is sent ({status}).{perhaps}",
            reason="wrong_protocol",
            retryable=False,
            status=status,
        )
    return ExportError(f"{where} rejected the spans ({status}).", reason="rejected", retryable=False, status=status)
