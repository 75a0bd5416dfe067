"""Load the TLS files of an exporter: authorities, client certificate and client key."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["TLSFiles"]

#: A bundle of all public authorities has a quarter of a megabyte.
_MAX_BYTES: Final = 4 * 1024 * 1024


class TLSFiles:
    """The PEM files by which an exporter trusts its receiver and identifies itself.

    ``ca_file`` replaces the system's authorities. ``client_certificate`` is the certificate with its chain, and its
    key is in ``client_key``, or in the same file. Creating it reads the files and raises ValueError, which names
    the file, for one that can't be used. The key must not be encrypted: nobody could enter its passphrase.
    """

    def __init__(
        self, ca_file: Path | None = None, client_key: Path | None = None, client_certificate: Path | None = None
    ) -> None:
        if client_key is not None and client_certificate is None:
            raise ValueError(f"The TLS client key {client_key} needs a client certificate.")
        self._ca_file = ca_file
        self._client_key = client_key
        self._client_certificate = client_certificate
        self._state = self._stat()
        self._context = self._load()

    def __bool__(self) -> bool:
        return self._ca_file is not None or self._client_certificate is not None

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection. Files that were replaced are read again.

        Short-lived certificates are renewed while the process runs. While the new files can't be used, the former
        ones stay in use.
        """
        state = self._stat()
        if state != self._state:
            # An error is not raised again for each connection: the receiver rejects the former files if they expired.
            with suppress(ValueError):
                self._context = self._load()
                self._state = state
        return self._context

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the contents of the files as gRPC takes them: authorities, key, certificate. Raise ValueError."""
        self._load()
        certificate = self._client_certificate
        return (
            None if self._ca_file is None else _read(self._ca_file, "CA file"),
            None if certificate is None else _read(self._client_key or certificate, "client key"),
            None if certificate is None else _read(certificate, "client certificate"),
        )

    def _stat(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in (self._ca_file, self._client_key, self._client_certificate):
            try:
                status = None if path is None else os.stat(path)
            except (OSError, ValueError):
                status = None
            found.append(None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def _load(self) -> ssl.SSLContext:
        authorities = None
        if self._ca_file is not None:
            try:
                authorities = _read(self._ca_file, "CA file").decode("ascii")
            except UnicodeDecodeError:
                raise ValueError(f"The TLS CA file {self._ca_file} is not in PEM format.") from None
        try:
            context = ssl.create_default_context(cadata=authorities)
        except (ssl.SSLError, ValueError):
            raise ValueError(f"The TLS CA file {self._ca_file} has no certificate in PEM format.") from None
        if self._client_certificate is not None:
            self._load_client(context, self._client_certificate)
        return context

    def _load_client(self, context: ssl.SSLContext, certificate: Path) -> None:
        _read(certificate, "client certificate")
        key = certificate if self._client_key is None else self._client_key
        _read(key, "client key")
        try:
            # Without a password function, OpenSSL asks for a passphrase on the terminal and waits.
            context.load_cert_chain(certificate, key, password=_no_password)
        except _Encrypted:
            raise ValueError(f"The TLS client key {key} is encrypted. Use a key without a passphrase.") from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                problem = f"does not belong to the client certificate {certificate}."
            else:
                problem = f"and the client certificate {certificate} can't be read as PEM."
            raise ValueError(f"The TLS client key {key} {problem}") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"The TLS client certificate {certificate} can't be used: {_reason(error)}.") from None


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted


def _read(path: Path, what: str) -> bytes:
    try:
        # Not a device or a pipe, whose reading may never end.
        if not path.is_file():
            raise ValueError(f"The TLS {what} {path} is not a file." if path.exists() else f"No TLS {what} {path}.")
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"The TLS {what} {path} can't be read: {_reason(error)}.") from None
    if len(content) > _MAX_BYTES:
        raise ValueError(f"The TLS {what} {path} is too large.")
    return content


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
