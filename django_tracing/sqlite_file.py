"""A SQLite file of this app's own: its folder, who may read it, whose it is, and what becomes of a damaged one."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import ClassVar, Final

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["OWN_FOLDER", "UNREADABLE", "SQLiteFile", "identity_of", "is_damage", "pragma", "transaction"]

_logger = logging.getLogger("django_tracing")

#: The folder that this app makes by itself, as LOCAL_STORE's default names it.
OWN_FOLDER: Final = ".tracing"
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600

_HEADER: Final = b"SQLite format 3\0"

#: What is raised of a stored text, or of an error's own, that is none.
UNREADABLE: Final = (UnicodeDecodeError, json.JSONDecodeError)


class SQLiteFile:
    """What files of this app's own have in common. Each kind has an ``application_id``, by which it is known."""

    application_id: ClassVar[int]
    #: As messages call it.
    noun: ClassVar[str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def _failure(self, message: str, reason: str) -> Exception:
        """What methods raise. ``reason`` is one word."""
        raise NotImplementedError

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            if not folder.is_dir():
                # What requests carry is the site's own: a folder of our own is its user's alone.
                folder.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
                # It keeps itself out of git, too.
                with (
                    suppress(FileExistsError),
                    open(folder / ".gitignore", "x", encoding="ascii", opener=_private) as file,
                ):
                    file.write("*\n")
            elif folder.name == OWN_FOLDER:
                _tighten(folder, _FOLDER_MODE)
        except OSError as error:
            raise self._failure(
                f"The folder of the {self.noun}, {folder}, can't be made ({error.strerror}). "
                f"Let this user write there, or set LOCAL_STORE to another path.",
                "read_only",
            ) from error

    def _keep_private(self, *, new: bool) -> None:
        """Makes the file with no rights for others, whatever the umask, and takes them from files of older versions.

        SQLite gives its log and its journal the rights that the file has.
        """
        if new:
            # Only a file that was not there: closing one that is open elsewhere would drop SQLite's locks on it
            # (https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
            with suppress(OSError):
                os.close(_private(str(self.path), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        folder, name = self.path.parent, self.path.name
        with suppress(OSError):
            for each in folder.iterdir():
                if each.name in (name, f"{name}-wal", f"{name}-shm", f"{name}-journal") or each.name.startswith(
                    f"{name}.corrupt-"
                ):
                    _tighten(each, _FILE_MODE)

    def _examine(self) -> tuple[int, int] | None:
        """Which file there is, None where there is none.

        Raises for a database that is not ours, and sets aside what is no database at all.
        """
        try:
            found, header = _read_header(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(
                f"The {self.noun} {self.path} can't be read ({error.strerror}): it is for the user that the site "
                f"runs as, and nobody else. Run this as that user, or set LOCAL_STORE to another path.",
                "read_only",
            ) from error
        identity = found.st_dev, found.st_ino
        if not header:
            return identity
        if not header.startswith(_HEADER):
            self._set_aside("it is no SQLite file", identity)
            return None
        application = int.from_bytes(header[68:72], "big")
        # One page holds no table: another process is just about to make them.
        empty = not application and found.st_size <= (int.from_bytes(header[16:18], "big") or 1)
        if application != self.application_id and not empty:
            raise self._foreign()
        return identity

    def _foreign(self) -> Exception:
        return self._failure(
            f"{self.path} is another program's database, so no traces are stored in it. "
            f"Set LOCAL_STORE to a path of its own.",
            "foreign",
        )

    def _set_aside(self, why: str, identity: tuple[int, int] | None) -> None:
        """Moves the file away, if it is still the one called ``identity``: another process may have been quicker."""
        aside = f"{self.path}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        try:
            # Between the look and the move another process could have begun the new file.
            with _alone_in(self.path.parent):
                if identity is None or identity != identity_of(self.path):
                    return
                # The log first: left behind, it would be taken for the new file's.
                for suffix in ("-wal", "-shm", ""):
                    with suppress(FileNotFoundError):
                        _tighten(Path(f"{self.path}{suffix}"), _FILE_MODE)
                        os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
        except OSError as error:
            raise self._failure(
                f"The {self.noun} {self.path} can't be used ({why}) nor moved away ({error.strerror}). Delete it.",
                "unusable",
            ) from error
        _logger.warning("The %s %s is begun anew: %s. It was kept as %s.", self.noun, self.path, why, aside)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Which file is called ``path``; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_damage(error: Exception) -> bool:
    """Whether a file is to be begun anew, and not waited for."""
    text = str(error)
    return isinstance(error, UNREADABLE) or any(
        word in text for word in ("malformed", "not a database", "Could not decode")
    )


@contextmanager
def transaction(connection: sqlite3.Connection, mode: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


#: Files whose headers were read, open. Closing one would drop the locks that this process' SQLite holds on it, and
#: another process would then delete the log that this one goes on writing to.
_headers: Final[OrderedDict[tuple[int, int], int]] = OrderedDict()
_headers_lock = Lock()
#: A process has one store, perhaps two.
_MOST_HEADERS: Final = 32


def _read_header(path: Path) -> tuple[os.stat_result, bytes]:
    """What there is, and its first 100 bytes."""
    if os.name != "posix":
        with open(path, "rb") as file:
            return os.fstat(file.fileno()), file.read(100)
    with _headers_lock:
        key = identity_of(path)
        descriptor = None if key is None else _headers.get(key)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            for known, other in list(_headers.items()):
                # What was deleted is nobody else's to open, and takes its place on the disk until it is closed.
                if not os.fstat(other).st_nlink or len(_headers) >= _MOST_HEADERS:
                    os.close(_headers.pop(known))
            opened = os.fstat(descriptor)
            # Another process may have put another file there since.
            _headers.setdefault((opened.st_dev, opened.st_ino), descriptor)
        return os.fstat(descriptor), os.pread(descriptor, 100, 0)


def _after_fork() -> None:
    global _headers_lock
    _headers_lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _FILE_MODE)


def _tighten(path: Path, mode: int) -> None:
    """Takes others' rights from what is this user's own. Never raises: nothing of it is worth losing a span."""
    if os.name != "posix":
        return
    with suppress(OSError):
        found = os.lstat(path)
        if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not stat.S_ISLNK(found.st_mode):
            os.chmod(path, found.st_mode & mode)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """While no other process is: for the moment that moving a file takes. Where there are no such locks, without."""
    if fcntl is None:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems lock no folder.
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
