"""Offer PostgreSQL, which listens on a socket in its own folder, on a port, and hold or cut what goes through it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.export.socket_servers import SocketServer

__all__ = ["PostgresProxy"]


class PostgresProxy(SocketServer):
    """``with PostgresProxy(url) as proxy``: ``proxy.url`` is the same database on a port."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.fault = self._forward
        self._parts = urlsplit(url)
        host = parse_qs(self._parts.query).get("host", [self._parts.hostname])[0] or ""
        port = self._parts.port or 5432
        self._address: Any = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        self._family = socket.AF_UNIX if host.startswith("/") else socket.AF_INET
        #: Set while statements pass, and how many were held.
        self.passes = threading.Event()
        self.passes.set()
        self.held = 0

    @property
    def url(self) -> str:
        user = f"{self._parts.username}:{self._parts.password or ''}"
        return self._parts._replace(netloc=f"{user}@127.0.0.1:{self.port}", query="").geturl()

    def down(self) -> None:
        self.passes.set()
        super().down()

    def _forward(self, proxy: SocketServer, client: socket.socket) -> None:
        with socket.socket(self._family) as server:
            server.connect(self._address)
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            while data := client.recv(65536):
                if not self.passes.is_set():
                    self.held += 1
                    self.passes.wait()
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    @staticmethod
    def _pump(server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
