"""Load the TLS files of an exporter: authorities, client certificate and client key."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["TLSFileError", "TLSFiles"]

#: A bundle of all public authorities has a quarter of a megabyte.
_MAX_BYTES: Final = 4 * 1024 * 1024
#: The settings, and what messages call their files.
_CA: Final = "TLS_CA_FILE"
_KEY: Final = "TLS_CLIENT_KEY"
_CERTIFICATE: Final = "TLS_CLIENT_CERTIFICATE"
_NAMES: Final = {_CA: "CA file", _KEY: "client key", _CERTIFICATE: "client certificate"}


class TLSFileError(ValueError):
    """A file that can't be used. ``setting`` is the one that names it."""

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


class _Loaded(NamedTuple):
    context: ssl.SSLContext
    #: Authorities, key, certificate.
    contents: tuple[bytes | None, bytes | None, bytes | None]


class TLSFiles:
    """The PEM files by which an exporter trusts its receiver and identifies itself.

    ``ca_file`` replaces the system's authorities. ``client_certificate`` is the certificate with its chain, and its
    key is in ``client_key``, or in the same file. Creating it reads the files and raises TLSFileError, which names
    the file and its setting, for one that can't be used. The key must not be encrypted: nobody could enter its
    passphrase.
    """

    def __init__(
        self, ca_file: Path | None = None, client_key: Path | None = None, client_certificate: Path | None = None
    ) -> None:
        if client_key is not None and client_certificate is None:
            raise TLSFileError(f"The TLS client key {client_key} needs a client certificate.", _KEY)
        self._ca_file = ca_file
        self._client_key = client_key
        self._client_certificate = client_certificate
        self._state = self._stat()
        #: Loaded by the sending thread where it is the system's.
        self._loaded: _Loaded | None = None
        if ca_file is not None or client_certificate is not None:
            self._loaded = self._load()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection."""
        return self._current().context

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return the files' contents for a new connection, in gRPC's order: authorities, key, certificate."""
        if self._ca_file is None and self._client_certificate is None:
            return None, None, None
        return self._current().contents

    def _current(self) -> _Loaded:
        """Return what was loaded. Files that were replaced are loaded again: certificates may be short-lived.

        While the new files can't be used, the former ones stay in use: half of them may be replaced at this moment.
        """
        state = self._stat()
        if self._loaded is None:
            self._loaded = self._load()
        elif state != self._state:
            with suppress(ValueError):
                self._loaded = self._load()
                self._state = state
        return self._loaded

    def _stat(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in (self._ca_file, self._client_key, self._client_certificate):
            try:
                status = None if path is None else os.stat(path)
            except (OSError, ValueError):
                status = None
            found.append(None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def _load(self) -> _Loaded:
        authorities = key = certificate = None
        if self._ca_file is not None:
            authorities = _read(self._ca_file, _CA)
        try:
            if authorities == b"":
                raise ValueError("OpenSSL would use the system's authorities")
            context = ssl.create_default_context(cadata=None if authorities is None else authorities.decode("ascii"))
        except (ssl.SSLError, ValueError):
            problem = f"The TLS CA file {self._ca_file} has no certificate in PEM format."
            raise TLSFileError(problem, _CA) from None
        if self._client_certificate is not None:
            certificate = _read(self._client_certificate, _CERTIFICATE)
            key_file = self._client_certificate if self._client_key is None else self._client_key
            key = _read(key_file, self._key_setting)
            self._load_client(context, key_file, self._client_certificate)
        return _Loaded(context, (authorities, key, certificate))

    @property
    def _key_setting(self) -> str:
        """The setting that names the file with the key: it may be that of the certificate."""
        return _CERTIFICATE if self._client_key is None else _KEY

    def _load_client(self, context: ssl.SSLContext, key: Path, certificate: Path) -> None:
        try:
            # Without a password function, OpenSSL asks for a passphrase on the terminal and waits.
            context.load_cert_chain(certificate, key, password=_no_password)
        except _Encrypted:
            problem = f"The TLS client key {key} is encrypted. Use a key without a passphrase."
            raise TLSFileError(problem, self._key_setting) from None
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                problem = f"does not belong to the client certificate {certificate}."
            else:
                problem = f"and the client certificate {certificate} can't be read as PEM."
            raise TLSFileError(f"The TLS client key {key} {problem}", self._key_setting) from None
        except (OSError, ValueError) as error:
            problem = f"The TLS client certificate {certificate} can't be used: {_reason(error)}."
            raise TLSFileError(problem, _CERTIFICATE) from None


class _Encrypted(Exception):
    pass


def _no_password() -> str:
    raise _Encrypted


def _read(path: Path, setting: str) -> bytes:
    what = _NAMES[setting]
    try:
        # Not a device or a pipe, whose reading may never end.
        if not path.is_file():
            problem = f"The TLS {what} {path} is not a file." if path.exists() else f"No TLS {what} {path}."
            raise TLSFileError(problem, setting)
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise TLSFileError(f"The TLS {what} {path} can't be read: {_reason(error)}.", setting) from None
    if len(content) > _MAX_BYTES:
        raise TLSFileError(f"The TLS {what} {path} is too large.", setting)
    return content


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
