"""Answers over HTTP that have to be complete in time."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

__all__ = ["TimedResponse"]


class TimedResponse(http.client.HTTPResponse):
    """An answer for which the connection's timeout counts as a whole, from its first byte to its last.

    The timeout of a socket is one for each read of it: with a byte a second, an answer has no end. Given to
    ``http.client``'s connections as their ``response_class``; too late, reading raises TimeoutError.
    """

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            reader: Any = self.fp
            self.fp = io.BufferedReader(_Timed(reader.detach(), sock, timeout))

    def extend(self, seconds: float) -> None:
        """The rest may take ``seconds`` from now on, and each read of it as long as the connection's timeout."""
        raw = getattr(self.fp, "raw", None)
        if isinstance(raw, _Timed):
            raw.deadline = time.monotonic() + seconds


class _Timed(io.RawIOBase):
    """What comes from a socket until ``deadline``, first ``timeout`` seconds from now."""

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
