"""Find out what listens on a port, with messages that store nothing. Imports no Django."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, Literal, TypeVar

from django_tracing.exceptions import ReadError
from django_tracing.net import Address, connect, host_and_port
from django_tracing.traces.readers.jaeger.reader import JaegerReader

__all__ = ["Speech", "post", "recognize", "within"]

T = TypeVar("T")

#: The exporter that fits a port, or ``query`` (Jaeger's UI and query API), unexpected TLS, or a database.
Speech = Literal["otlp", "otlp-grpc", "jaeger", "query", "tls", "postgresql", "redis"]

_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
#: SSLRequest of https://www.postgresql.org/docs/current/protocol-message-formats.html, answered with one letter.
_POSTGRESQL: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return the result of ``function``, or raise its exception; TimeoutError if it takes longer than ``seconds``.

    It runs in a thread, which is abandoned if it hangs: name resolution and third-party exporters have no time limit.
    """
    ended: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            ended.put((function(), None))
        except BaseException as error:
            ended.put((None, error))

    Thread(target=run, name="django_tracing.probe", daemon=True).start()
    try:
        result, error = ended.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def recognize(host: str, port: int, *, secure: bool, timeout: float) -> Speech | None:
    """Return what a port speaks; None if unknown. ``timeout`` is in seconds, for each of a few messages."""
    answer = _answer(host, port, _HTTP2, secure, timeout)
    # Some servers answer an unknown HTTP version with a bare page, as in HTTP/0.9.
    if answer.startswith((b"HTTP/", b"<")):
        return _role(host, port, secure, timeout)
    # A server's first frame is SETTINGS (RFC 9113, 3.4); its payload is a multiple of six bytes.
    if len(answer) >= 9 and answer[3] == 4 and int.from_bytes(answer[:3], "big") % 6 == 0:
        return "otlp-grpc"
    if answer.startswith((b"-ERR unknown com", b"-NOAUTH", b"-DENIED")):
        return "redis"
    if _answer(host, port, _POSTGRESQL, secure, timeout) in (b"S", b"N"):
        return "postgresql"
    return "tls" if not secure and _speaks_tls(host, port, timeout) else None


def _role(host: str, port: int, secure: bool, timeout: float) -> Speech | None:
    """Return which of Jaeger's HTTP ports it is, by the answers to empty messages: some servers answer 200 to all."""
    scheme = "https" if secure else "http"
    root = Address(scheme, host, port, "", "", None)
    try:
        status, kind, body = post(
            root._replace(path="/v1/traces"), {"Content-Type": "application/x-protobuf"}, timeout
        )
        if status == 200 and kind.startswith("application/x-protobuf"):
            return "otlp"
        if status == 400 and b"HTTPS" in body and not secure:
            # Go's servers, nginx and Apache report this in plain HTTP.
            return "tls"
        status, _, body = post(root._replace(path="/api/traces"), {"Content-Type": "application/x-thrift"}, timeout)
        if status == 400 and b"jaeger.Batch" in body:
            return "jaeger"
        reader = JaegerReader(f"{scheme}://{host_and_port(host, port)}", timeout=timeout)
        return "query" if reader.version else None
    except (OSError, http.client.HTTPException, ReadError):
        return None


def post(address: Address, headers: dict[str, str], timeout: float) -> tuple[int, str, bytes]:
    """Send an empty message; return status, content type and the start of the response.

    The address's credentials are sent. ``timeout`` is in seconds, for the whole response. Raises OSError,
    HTTPException and UnicodeError.
    """
    if address.authorization is not None:
        headers = {**headers, "Authorization": address.authorization}
    connection = connect(address, timeout)
    try:
        connection.request("POST", address.target, b"", headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read(4096)
    finally:
        connection.close()


def _speaks_tls(host: str, port: int, timeout: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent over this connection, so the certificate is not verified.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=timeout) as raw,
            context.wrap_socket(raw, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        # An alert is a message in TLS.
        return "ALERT" in (error.reason or "")
    except (OSError, ValueError):
        return False


def _answer(host: str, port: int, message: bytes, secure: bool, timeout: float) -> bytes:
    """Return up to 16 bytes of the answer to ``message``; empty if there is none."""
    answer = b""
    deadline = time.monotonic() + timeout
    try:
        connection = socket.create_connection((host, port), timeout=timeout)
        if secure:
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        with connection:
            connection.sendall(message)
            while len(answer) < 16 and (received := connection.recv(16 - len(answer))):
                answer += received
                if message != _HTTP2 or time.monotonic() > deadline:
                    break
    except OSError:
        pass  # the answer is what was received until then
    return answer
