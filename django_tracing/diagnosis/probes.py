"""What listens at an address, asked from outside with messages that store nothing. Knows no Django."""

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

#: The exporter that a port is for; or ``query`` (Jaeger's UI and query API), TLS where it was not spoken, a database.
Speech = Literal["otlp", "otlp-grpc", "jaeger", "query", "tls", "postgresql", "redis"]

_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
#: SSLRequest of https://www.postgresql.org/docs/current/protocol-message-formats.html, answered with one letter.
_POSTGRESQL: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


def within(seconds: float, function: Callable[[], T]) -> T:
    """What ``function`` gives; raises what it raises, and TimeoutError when it takes longer than ``seconds``.

    It runs in a thread, which is left behind when it hangs: name servers and other people's exporters know no time.
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
    """What a port speaks, None where it can't be told. ``timeout`` is in seconds, for each of a few questions."""
    answer = _answer(host, port, _HTTP2, secure, timeout)
    # To a version that they do not know, some servers answer with the bare page of HTTP/0.9.
    if answer.startswith((b"HTTP/", b"<")):
        return _role(host, port, secure, timeout)
    # The first frame of a server is SETTINGS (RFC 9113, 3.4), of pairs of six bytes.
    if len(answer) >= 9 and answer[3] == 4 and int.from_bytes(answer[:3], "big") % 6 == 0:
        return "otlp-grpc"
    if answer.startswith((b"-ERR unknown com", b"-NOAUTH", b"-DENIED")):
        return "redis"
    if _answer(host, port, _POSTGRESQL, secure, timeout) in (b"S", b"N"):
        return "postgresql"
    return "tls" if not secure and _speaks_tls(host, port, timeout) else None


def _role(host: str, port: int, secure: bool, timeout: float) -> Speech | None:
    """Which of Jaeger's HTTP ports it is, by what empty messages are answered: many servers say 200 to anything."""
    scheme = "https" if secure else "http"
    root = Address(scheme, host, port, "", "", None)
    try:
        status, kind, body = post(
            root._replace(path="/v1/traces"), {"Content-Type": "application/x-protobuf"}, timeout
        )
        if status == 200 and kind.startswith("application/x-protobuf"):
            return "otlp"
        if status == 400 and b"HTTPS" in body and not secure:
            # The servers of Go, nginx and Apache say so in HTTP.
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
    # Nothing is sent over it: whose certificate it is does not matter.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=timeout) as raw,
            context.wrap_socket(raw, server_hostname=host),
        ):
            return True
    except ssl.SSLError as error:
        # It knows TLS well enough to refuse.
        return "ALERT" in (error.reason or "")
    except (OSError, ValueError):
        return False


def _answer(host: str, port: int, question: bytes, secure: bool, timeout: float) -> bytes:
    """The first bytes (16 at most) of what is said to ``question``; empty where nothing is said."""
    answer = b""
    deadline = time.monotonic() + timeout
    try:
        connection = socket.create_connection((host, port), timeout=timeout)
        if secure:
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        with connection:
            connection.sendall(question)
            while len(answer) < 16 and (received := connection.recv(16 - len(answer))):
                answer += received
                if question != _HTTP2 or time.monotonic() > deadline:
                    break
    except OSError:
        pass  # what came until then is the answer
    return answer
