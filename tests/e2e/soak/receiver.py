"""Run a receiver that keeps the ids of the spans, and whose fault can be changed between two messages."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.export.socket_servers import SocketServer, read_request

__all__ = ["FAULTS", "Receiver"]

_STATUSES: Final = {"400": "400 Bad Request", "429": "429 Too Many Requests", "503": "503 Service Unavailable"}
#: Beside a receiver that works and one that is down.
FAULTS: Final = (*_STATUSES, "some 500", "slow", "partial", "garbage", "resets", "never answers")


class Receiver(SocketServer):
    """``receiver.mode`` is one of FAULTS, or "" for a receiver that works. ``receiver.span_ids`` arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = ""
        self.span_ids: set[int] = set()
        self.fault = lambda _, connection: self._serve(connection)
        self._number = 0
        #: Held while a message is kept and answered: the client knows about each message that was kept.
        self._answering = threading.Lock()

    def down(self) -> None:
        with self._answering:
            super().down()

    @contextlib.contextmanager
    def failing(self, mode: str) -> Iterator[None]:
        self.mode = mode
        try:
            yield
        finally:
            self.mode = ""

    def _serve(self, connection: socket.socket) -> None:
        while True:
            body = read_request(connection)
            mode = self.mode
            self._number += 1
            if mode == "slow":
                self.stopped.wait(0.3)
            if mode == "some 500" and self._number % 3 == 0:
                connection.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
            elif mode in _STATUSES:
                connection.sendall(f"HTTP/1.1 {_STATUSES[mode]}\r\nContent-Length: 0\r\n\r\n".encode())
            elif mode == "garbage":
                connection.sendall(b"\x00\x01 garbage\r\n\r\n")
                return
            elif mode == "resets":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            elif mode == "never answers":
                while connection.recv(65536):
                    pass
                return
            else:
                self._accept_message(connection, body, partial=mode == "partial")

    def _accept_message(self, connection: socket.socket, body: bytes, *, partial: bool) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        answer = ExportTraceServiceResponse()
        if partial:
            del request.resource_spans[-1].scope_spans[-1].spans[-1]
            rejected = ExportTracePartialSuccess(rejected_spans=1, error_message="one is enough")
            answer = ExportTraceServiceResponse(partial_success=rejected)
        text = answer.SerializeToString()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: {len(text)}\r\n\r\n"
        ids = {
            int.from_bytes(span.span_id, "big")
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        }
        with self._answering:
            self.span_ids |= ids
            connection.sendall(head.encode() + text)
