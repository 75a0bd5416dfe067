"""Connect over HTTP, and describe addresses and network errors without secrets.

Nothing here imports ``http.client`` or ``ssl`` before a connection is made: most processes never make one.
"""

from __future__ import annotations

import base64
import io
import socket
import time
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    import ssl
    from http.client import HTTPConnection, HTTPResponse

__all__ = [
    "Address",
    "NetworkError",
    "connect",
    "explain_error",
    "extend_deadline",
    "host_and_port",
    "link_base",
    "open_socket",
    "parse_address",
    "read_at_most",
    "send_until",
    "shown_address",
    "timed_response",
]

#: The port that is used where an address has none.
_PORTS: Final = {"http": 80, "https": 443}
#: A name server may be hostile.
_MOST_ADDRESSES: Final = 16
#: The bytes of a record of TLS: a socket with TLS sends them one by one, each with the socket's timeout.
_PART: Final = 16384
#: Characters of a path or query that are sent as they are, including the percent sign of encoded ones.
_URL_SAFE: Final = "/%:@!$&'()*+,;=?~"


class Address(NamedTuple):
    """The parts of a URL that are needed to connect to it."""

    scheme: str
    host: str
    port: int
    path: str
    query: str
    #: The value of an ``Authorization`` header, if the URL has credentials.
    authorization: str | None

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return host_and_port(self.host, self.port)

    @property
    def target(self) -> str:
        """Path and query as a request has them. What is percent-encoded already is not encoded again."""
        path = quote(self.path or "/", safe=_URL_SAFE, errors="replace")
        return f"{path}?{quote(self.query, safe=_URL_SAFE, errors='replace')}" if self.query else path

    def __repr__(self) -> str:
        return f"Address({self.scheme}://{self.where})"


def parse_address(url: str, *, port: int | None = None) -> Address:
    """Parse ``url``. ``port`` is the default port; without it, that of the scheme.

    Raises ValueError for a port that is not a number from 0 to 65535. The exception's text may contain a part of the
    credentials, so don't show it.
    """
    parts = urlsplit(url)
    default = _PORTS.get(parts.scheme, 80) if port is None else port
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Basic {base64.b64encode(pair).decode()}"
    return Address(
        parts.scheme, parts.hostname or "localhost", parts.port or default, parts.path, parts.query, authorization
    )


def host_and_port(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# ----- Connections


def connect(address: Address, timeout: float, tls: ssl.SSLContext | None = None) -> HTTPConnection:
    """Make an HTTP connection, which connects with its first request.

    ``timeout`` is in seconds, for connecting and for each whole response. Proxies of the environment are not used.
    """
    import http.client

    connection: HTTPConnection
    if address.secure:
        if tls is None:
            import ssl

            tls = ssl.create_default_context()
        connection = http.client.HTTPSConnection(address.host, address.port, timeout=timeout, context=tls)
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
    connection.response_class = timed_response()
    return connection


def open_socket(address: Address, deadline: float, tls: ssl.SSLContext | None = None) -> socket.socket:
    """Connect to one of the addresses of the host, by ``deadline`` (of ``time.monotonic()``), and do TLS's handshake.

    Each address has its share of the time: one that swallows all packets leaves the others a chance. Only resolving
    the name has no limit but the system's. Raises OSError, or UnicodeError for a name that is none.
    """
    places = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[:_MOST_ADDRESSES]
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for left, (family, kind, protocol, _, place) in zip(range(len(places), 0, -1), places, strict=True):
        connection = None
        try:
            connection = socket.socket(family, kind, protocol)
            connection.settimeout(_time_left(deadline) / left)
            connection.connect(place)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            failure = error
            if connection is not None:
                connection.close()
            continue
        if tls is None:
            return connection
        try:
            connection.settimeout(_time_left(deadline))
            return tls.wrap_socket(connection, server_hostname=address.host)
        except BaseException:
            connection.close()
            raise
    try:
        raise failure
    finally:
        del failure  # a cycle with its traceback


def send_until(
    connection: socket.socket, pieces: Iterable[bytes | bytearray], deadline: float
) -> Iterator[memoryview]:
    """Yield ``pieces`` in parts, and give ``connection`` the time that is left before each of them.

    The timeout of a socket applies to each call: a server that reads a byte each second would hold the sender.
    """
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), _PART):
            connection.settimeout(_time_left(deadline))
            yield view[start : start + _PART]


def _time_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def read_at_most(response: HTTPResponse, length: int) -> tuple[bytes, bool]:
    """Return the first ``length`` bytes of the body, and whether there are more.

    The server may be any program, so its response may have any length.
    """
    body = response.read(length)
    return body, bool(response.read(1))


@cache
def timed_response() -> type[HTTPResponse]:
    """Return the class of responses whose timeout applies to the whole response, from its first byte to its last.

    A socket's timeout applies to each read: a response that sends a byte each second would never end. Use it as the
    ``response_class`` of a connection. After the timeout, reading raises TimeoutError. Interim responses, which any
    proxy may send (https://www.rfc-editor.org/rfc/rfc9110#section-15.2), are skipped.
    """
    from http import HTTPStatus
    from http.client import HTTPResponse

    class TimedResponse(HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            timeout = sock.gettimeout()
            if timeout is not None:
                reader: Any = self.fp
                self.fp = io.BufferedReader(_TimedStream(reader.detach(), sock, timeout))

        def begin(self) -> None:
            super().begin()
            # http.client skips 100 only. Otherwise the final response would be that of the next request.
            while 100 < self.status < 200 and self.status != HTTPStatus.SWITCHING_PROTOCOLS:
                self.headers = self.msg = None  # type: ignore[assignment]
                super().begin()

    return TimedResponse


def extend_deadline(response: HTTPResponse, seconds: float) -> None:
    """Let the rest of ``response`` take ``seconds`` from now. Each read still ends after the connection's timeout."""
    raw = getattr(response.fp, "raw", None)
    if isinstance(raw, _TimedStream):
        raw.deadline = time.monotonic() + seconds


class _TimedStream(io.RawIOBase):
    """The bytes of a socket until ``deadline``, which starts ``timeout`` seconds from now."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, timeout: float) -> None:
        self._raw = raw
        self._sock = sock
        self._timeout = timeout
        self.deadline = time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = min(self.deadline - time.monotonic(), self._timeout)
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


# ----- Errors


class NetworkError(NamedTuple):
    """Why a connection failed."""

    kind: Literal["closed", "not_tls", "tls", "dns", "refused", "timeout", "not_http", "unreachable"]
    #: A sentence.
    message: str


def explain_error(error: Exception, where: str, *, timeout: float | None = None) -> NetworkError:
    """Explain an OSError, HTTPException or UnicodeError of a connection to ``where`` (host and port).

    The text of an HTTPException is never used: it may be the path and query of the request.
    """
    import http.client
    import ssl

    # http.client.RemoteDisconnected is a ConnectionResetError, too.
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return NetworkError("closed", f"{where} closed the connection without an answer.")
    if isinstance(error, ssl.SSLError):
        text = error.reason or str(error)
        if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text or "HTTP_REQUEST" in text:
            return NetworkError("not_tls", f"{where} does not speak TLS.")
        return NetworkError("tls", f"TLS with {where} failed: {getattr(error, 'verify_message', '') or text}.")
    # UnicodeError: the rules of internationalized domain names do not allow the host name.
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return NetworkError("dns", f"The host name of {where} is unknown.")
    if isinstance(error, ConnectionRefusedError):
        return NetworkError("refused", f"Nothing listens on {where}.")
    if isinstance(error, TimeoutError):
        period = "in time" if timeout is None else f"within {timeout:g} s"
        return NetworkError("timeout", f"{where} did not answer {period}.")
    if isinstance(error, http.client.HTTPException):
        return NetworkError("not_http", f"{where} does not speak HTTP.")
    return NetworkError("unreachable", f"{where} can't be reached: {error}.")


# ----- Addresses for people

#: Words that paths of collectors, Jaegers and the proxies in front of them consist of. Any other word may be a key.
_WORDS: Final = frozenset(
    """
    agent api apm client collector collectors default dev export ingest insert intake jaeger local logs main metrics
    monitoring observability opentelemetry otel otlp prod production proxy public push query receiver sampling search
    services spans staging telemetry tempo test trace traces tracing ui v1 v1.0 v2 v3 v4 write zipkin
    """.split()  # noqa: SIM905
)
_HOST: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_[]:%")
_LONGEST: Final = 300
_SEGMENTS: Final = 12
_HIDDEN: Final = "…"


def shown_address(url: str) -> str:
    """Return ``url`` without possible secrets, for logs, pages and terminals.

    It shows scheme, host, port and the well-known words of the path, without credentials. Any other part is ``…``:
    ``https://collector:4318/…/v1/traces?…``. Accepts any text and never raises.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        scheme, rest = "", scheme
    elif not scheme.isascii() or not scheme.replace("+", "").isalnum() or len(scheme) > 20:
        scheme = _HIDDEN
    end = min((place for place in map(rest.find, "/?#\\") if place >= 0), default=len(rest))
    authority, behind = rest[:end], rest[end:]
    if "@" in authority:
        authority = authority.rpartition("@")[2]
    elif "@" in behind:
        # An unescaped slash in a password ends the host name too early.
        return f"{scheme}{separator}{_HIDDEN}"
    path = behind.partition("?")[0].partition("#")[0]
    query = "?…" if "?" in behind or "#" in behind else ""
    segments = path[:_LONGEST].split("/")
    shown = [each if not each or each.lower() in _WORDS else _HIDDEN for each in segments[:_SEGMENTS]]
    if len(path) > _LONGEST or len(segments) > _SEGMENTS:
        shown.append(_HIDDEN)
    return f"{scheme}{separator}{_shown_host(authority)}{'/'.join(shown)}{query}"


def _shown_host(authority: str) -> str:
    if not authority or len(authority) > _LONGEST or not _HOST.issuperset(authority):
        return authority and _HIDDEN
    if "%" in authority and not authority.startswith("["):
        # Only the zone of an IPv6 address has one. Elsewhere it may be an escaped "@" behind credentials.
        return _HIDDEN
    name, colon, port = authority.rpartition(":")
    # Text in the place of a port may be a part of a password.
    return authority if not colon or port.isdigit() or authority.endswith("]") else f"{name}:{_HIDDEN}"


def link_base(url: str) -> str | None:
    """Return ``url`` as the start of links for people, without credentials and query.

    None if its path may hold a secret: a link shows the whole path.
    """
    from django_tracing.redaction import SensitiveKeys, sanitise_url

    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    base = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"
    return base if sanitise_url(base, SensitiveKeys()) == base else None
