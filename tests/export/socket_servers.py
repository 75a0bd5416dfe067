"""Run a server on a bare socket whose faults can be chosen, and that counts what arrives."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.receivers import ReceivedSpan, decode

__all__ = ["SocketServer", "answer", "read_request"]

#: Handles one connection.
Fault = Callable[["SocketServer", socket.socket], None]


class SocketServer:
    """``with SocketServer() as server``: ``server.fault`` handles each connection; None is a receiver that works.

    ``down()`` closes the port and all connections, and ``up()`` listens on the same port again.
    """

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1") -> None:
        self.family = family
        self.host = host
        self.port = 0
        self.fault: Fault | None = None
        self.certificate: Path | None = None
        #: The spans that arrived, their names and their ids, and the number of connections.
        self.spans: list[ReceivedSpan] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.connections = 0
        self.stopped = threading.Event()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    @property
    def endpoint(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def up(self) -> None:
        listener = socket.socket(self.family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        self.port = listener.getsockname()[1]
        listener.listen(16)
        self._listener = listener
        self._run(self._accept, listener)

    def down(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # Without it, accept() of the other thread goes on.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            self._run(self._handle, connection)

    def _handle(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, EOFError):
            stack.callback(self._forget, connection)
            if self.certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.certificate)
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                stack.callback(self._forget, connection)
                with self._lock:
                    self._open.add(connection)
                connection.do_handshake()
            (self.fault or serve)(self, connection)

    def _forget(self, connection: socket.socket) -> None:
        connection.close()
        with self._lock:
            self._open.discard(connection)

    def receive(self, connection: socket.socket) -> None:
        """Read a request, and keep its spans."""
        self.keep(read_request(connection))

    def keep(self, body: bytes) -> None:
        """Keep the spans of a request."""
        spans = decode(body)
        with self._lock:
            self.spans += spans
            self.names += [span.name for span in spans]
            self.ids += [span.span_id for span in spans]

    def __enter__(self) -> SocketServer:
        self.up()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.stopped.set()
        self.down()
        for thread in self._threads:
            thread.join(5)


def read_request(connection: socket.socket) -> bytes:
    """Return the body of a request. Raise EOFError at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    while len(body) < length:
        body += _some(connection)
    return body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise EOFError
    return data


def serve(server: SocketServer, connection: socket.socket) -> None:
    """Accept requests until the client goes."""
    while True:
        server.receive(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def answer(text: str, *, receive: bool = False) -> Fault:
    """Answer each request with ``text`` and close the connection."""

    def fault(server: SocketServer, connection: socket.socket) -> None:
        if receive:
            server.receive(connection)
        else:
            read_request(connection)
        connection.sendall(text.encode())

    return fault


def hang(server: SocketServer, connection: socket.socket) -> None:
    """Read nothing, and answer nothing."""
    server.stopped.wait()


def reset(server: SocketServer, connection: socket.socket) -> None:
    """Reset the connection in the middle of a request."""
    connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def trickle(server: SocketServer, connection: socket.socket) -> None:
    """Answer one byte at a time, without an end."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not server.stopped.wait(0.02):
        connection.sendall(b"x")


def sip(server: SocketServer, connection: socket.socket) -> None:
    """Read a byte at a time, without an end."""
    while connection.recv(1) and not server.stopped.wait(0.02):
        pass


def refuse_early(server: SocketServer, connection: socket.socket) -> None:
    """Refuse a large message after its headers, as nginx does; others are accepted."""
    data = connection.recv(65536)
    head = data.partition(b"\r\n\r\n")[0]
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    if length > 20_000:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return
    body = data.partition(b"\r\n\r\n")[2]
    while len(body) < length:
        body += _some(connection)
    server.keep(body)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
