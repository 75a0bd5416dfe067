"""Send a service mixed requests at a steady rate: good ones, errors, hostile ones, and clients that go away."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from example_project.flows import TOKEN
from tests.e2e.faults.services import KINDS

__all__ = ["Load"]

#: How long a client waits, in seconds.
_PATIENCE: Final = 20
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
#: What a caller invents; each path ends with a new name.
_INVENTED: Final = ("sql", "keys", "spans", "error", "call", "page", "user", "threads", "stream", "wait")
#: Requests that a connection is used for.
_REUSED: Final = 25
#: How many times as many requests, and how many names in one of them, until caches are full.
_HURRY: Final = 3
_MANY: Final = 300


class Load:
    """``with Load(port, 12.0) as load``: sends 12 requests a second. ``load.statuses`` counts the answers.

    A status of 0 is a connection that ended without an answer, and -1 is no answer within 20 seconds.
    """

    def __init__(self, port: int, rate: float, threads: int = 4) -> None:
        self.statuses: Counter[int] = Counter()
        #: Requests whose client went away before the answer.
        self.left = 0
        #: When, in seconds since the epoch, and which requests were not answered in time.
        self.unanswered: list[str] = []
        #: Whether all requests are such with invented names, with many of them, so that bounded caches are full soon.
        self.warming = True
        self._port = port
        self._rate = rate
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    @property
    def sent(self) -> int:
        return self.statuses.total() + self.left

    def __enter__(self) -> Load:
        self._due = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(_PATIENCE + 5)

    def _next(self) -> float:
        """Return when the next request is due. After a pause, what is late is left out: no flood follows it."""
        with self._lock:
            pause = 1 / self._rate / (_HURRY if self.warming else 1)
            self._due = max(self._due + pause, time.monotonic() - 1)
            return self._due

    def _run(self) -> None:
        requests = self._requests()
        while not self._stopped.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE)
            with contextlib.closing(connection):
                for _ in range(_REUSED):
                    if self._stopped.wait(max(0.0, self._next() - time.monotonic())):
                        return
                    request = next(requests)
                    if request[3]:
                        self._leave(*request[:3])
                    elif not self._ask(connection, *request[:3]):
                        break

    def _ask(self, connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]) -> bool:
        """Send a request, and return whether the connection can be used again."""
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            response.read()
            status = response.status
        except TimeoutError:
            # While caches are filled, a request calls 300 hosts, one after the other.
            status = 0 if self.warming else -1
            if not self.warming:
                self.unanswered.append(f"{time.time():.0f} {method} {path[:40]}")
        except (OSError, http.client.HTTPException):
            status = 0
        with self._lock:
            self.statuses[status] += 1
        return status > 0

    def _leave(self, method: str, path: str, headers: dict[str, str]) -> None:
        """Send a request, and go away before or within the answer."""
        head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items())
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), _PATIENCE) as client:
            client.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
            client.settimeout(0.03)
            client.recv(1000)
        with self._lock:
            self.left += 1

    def _requests(self) -> Iterator[tuple[str, str, dict[str, str], bool]]:
        """Return methods, paths, headers, and whether the client goes away, without an end."""
        good = itertools.cycle((*kind, False) for kind in KINDS)
        invented = itertools.cycle(("GET", f"/soak/{name}/", False) for name in _INVENTED)
        others = itertools.cycle(
            (
                ("GET", "/soak/stream/", True),
                ("GET", "/soak/cached", False),
                ("GET", "/soak/wait/", True),
                ("POST", "/api/iac/generate", False),
                ("GET", "/api/blueprints/export", True),
                ("GET", "/", False),
            )
        )
        parts = itertools.cycle((good, invented, good, others))
        for number in itertools.count():
            if self.warming:
                # One in 30: the others are for what a request has one of, its address and its headers.
                method, path, leaves = next(invented) if number % 30 == 0 else ("GET", "/soak/cached", False)
            else:
                method, path, leaves = next(next(parts))
            if path.startswith("/soak/") and path.endswith("/"):
                path += _name()
            headers = {"Authorization": f"Bearer {TOKEN}"}
            if number % 3 == 0 or self.warming:
                headers |= _hostile_headers()
                path += f"?{_name()}={_name()}&{'a' * 200}={_name()}"
            if self.warming:
                headers["X-Names"] = str(_MANY)
            elif number % 40 == 0:
                method, path = _name().upper(), f"/{_name()}/{_name()}"
            yield method, path, headers, leaves


def _name() -> str:
    """Return a name that was not used before, of the digits of a number to the base of 36."""
    return "".join(secrets.choice(_DIGITS) for _ in range(16))


def _hostile_headers() -> dict[str, str]:
    """Return headers whose every name and value the caller invented."""
    name = _name()
    return {
        "Host": f"{name}.example.com",
        "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-0{secrets.randbelow(2)}",
        "tracestate": ",".join(f"{_name()}={_name()}" for _ in range(20)),
        "baggage": ",".join(f"{_name()}={_name()};{_name()}={_name()}" for _ in range(20)),
        "X-Correlation-ID": name,
        "User-Agent": f"{name}/{_name()}",
        "X-Forwarded-For": ", ".join(f"10.{secrets.randbelow(256)}.0.{secrets.randbelow(256)}" for _ in range(20)),
        "Referer": f"https://{name}.example.com/{_name()}",
        "Content-Type": f"{name}/{_name()}",
        f"X-{name}": _name(),
    }
