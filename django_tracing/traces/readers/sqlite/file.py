"""Open the local store's file, and notice what happens to it while it is open.

Somebody may delete, truncate or replace the file, SQLite's log beside it (``-wal``) or the index of the log
(``-shm``) while a process has them open. SQLite notices none of that: it goes on writing to files that nobody else
can see.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final, NamedTuple

from django_tracing.exceptions import StoreError
from django_tracing.sqlite_file import (
    SQLiteFile,
    alone_in,
    identity_of,
    in_wal_mode,
    is_full,
    looks_cut,
    pragma,
)
from django_tracing.traces.readers.sqlite.schema import APPLICATION_ID, create_tables

__all__ = ["BUSY_TIMEOUT", "READING_TIMEOUT", "FileMoved", "StoreFile"]

#: How long a writer waits for the others, in seconds. A batch takes milliseconds.
BUSY_TIMEOUT: Final = 5.0
#: How long a query may take, in seconds: a person waits, and a worker of the site is busy.
READING_TIMEOUT: Final = 15.0
#: The log takes this part of the disk, at most, unless a single write is larger; and so many pages, at least.
_LOG_SHARE: Final = 16
_LEAST_LOG: Final = 32
_UNKNOWN_SIZE: Final = 2**63 - 1
#: What is written to find out whether there is any space.
_PROBE_BYTES: Final = 65_536
_FULL_ERRORS: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


class FileMoved(Exception):
    """The file, its log or the index of its log is not the one that is open."""


class _Place(NamedTuple):
    """The log and its index that are open: device and inode, and the size of the log."""

    log: tuple[int, int] | None
    log_size: int
    shared: tuple[int, int] | None


def _is_open(identity: tuple[int, int] | None) -> bool:
    """Return whether this process has a file open that is at its path. True if the system does not tell."""
    if identity is None:
        return False
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return True
    for name in names:
        with suppress(OSError, ValueError):
            found = os.fstat(int(name))
            if (found.st_dev, found.st_ino) == identity:
                return True
    return False


class StoreFile(SQLiteFile):
    """The file of a local store, opened for writing by at most one thread at a time."""

    application_id = APPLICATION_ID
    noun = "local store"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._guard = Lock()
        self._writer: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._place: _Place | None = None
        _stores.add(self)

    def _failure(self, message: str, reason: str) -> StoreError:
        return StoreError(message, reason)

    def __del__(self) -> None:
        # Without contextlib: when the interpreter exits, this module's names may be deleted before its objects.
        try:  # noqa: SIM105
            self.close()
        except Exception:
            pass

    def close(self) -> None:
        """Close the file. The next write opens it again."""
        with self._guard:
            self._close()

    def _open_writer(self) -> sqlite3.Connection:
        """Return a connection to the file that is at the path now."""
        if self._writer is not None:
            if self._file != identity_of(self.path):
                # It was deleted or set aside: others don't use the open one any more.
                self._close()
            elif looks_cut(self.path) and not self._is_sound(self._writer):
                raise sqlite3.DatabaseError("malformed: it was truncated")
            elif not self._is_in_place():
                self._leave_log(self._writer)
        if self._writer is None:
            self._make_folder()
            self._file = self._examine()
            self._keep_private(new=self._file is None)
            self._writer = self._connect()
            create_tables(self._writer, self._foreign)
            # SQLite opens the log when it reads.
            self._writer.execute("SELECT 1 FROM sqlite_master").fetchone()
            self._file = identity_of(self.path)
            self._place = self._look()
            if in_wal_mode(self._writer) and not (_is_open(self._place.log) and _is_open(self._place.shared)):
                # It was deleted just now. Another process may already have created it again.
                self._place = _Place(None, 0, None)
                self._leave_log(self._writer)
                raise FileMoved
        return self._writer

    def _look(self) -> _Place:
        log, size = None, 0
        with suppress(OSError):
            found = os.stat(f"{self.path}-wal")
            log, size = (found.st_dev, found.st_ino), found.st_size
        return _Place(log, size, identity_of(Path(f"{self.path}-shm")))

    def _is_in_place(self) -> bool:
        """Return whether the files that are open are those at the path, and the log was not cut."""
        if self._file is None or self._file != identity_of(self.path):
            return False
        known, now = self._place, self._look()
        if known is not None and (
            (known.log, known.shared) != (now.log, now.shared) or known.log_size > now.log_size
        ):
            return False
        self._place = now
        return True

    @contextmanager
    def _alone_if_log_is_new(self) -> Iterator[None]:
        """While a log is empty, let no other process write to it, or move what an old log has.

        Both logs have the same index, if only the log was deleted. A process that moved what it takes for the old log
        would mark what is in the new one as moved.
        """
        with ExitStack() as stack:
            if self._place is None or not self._look().log_size:
                with suppress(OSError):
                    stack.enter_context(alone_in(self.path.parent))
            yield

    def _leave_log(self, writer: sqlite3.Connection) -> None:
        """Close a file whose log, or its index, was deleted, cut or replaced, and keep what was in the log."""
        with self._alone_if_log_is_new():
            self._leave_log_alone(writer)

    def _leave_log_alone(self, writer: sqlite3.Connection) -> None:
        known, now = self._place, self._look()
        cut = known is not None and known.log == now.log and now.log_size < known.log_size
        # If somebody else has written to a new log, what is in the old one is lost.
        if known is not None and (cut or (known.log != now.log and not now.log_size)):
            try:
                # Also processes that have the old log open see an empty one from now on.
                (busy, *_) = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                if is_full(error) == "full":
                    raise
                if cut:
                    raise sqlite3.DatabaseError("malformed: its log was truncated") from error
                # Another process has done it.
                busy = False
            if busy:
                raise FileMoved
        self._close()

    def _is_sound(self, writer: sqlite3.Connection) -> bool:
        """Return whether a file that looks cut can be read: a process may have ended while it extended the file."""
        try:
            if not os.stat(self.path).st_size:
                return False
            # What is missing in the file is in the log. On a full disk, it stays there.
            with suppress(sqlite3.OperationalError):
                writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
            # The open connection has pages in its memory.
            with closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT)) as connection:
                return connection.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
        except (OSError, sqlite3.DatabaseError):
            return False

    def _moving(self) -> StoreError:
        return StoreError(
            f"The local store {self.path} was moved or replaced while it was written, several times. "
            f"Let no other program change it.",
            "busy",
        )

    def _too_new(self) -> StoreError:
        return StoreError(
            f"The local store {self.path} was changed by a newer version of this app, and this version can't use it. "
            f"Run the newer version everywhere, set LOCAL_STORE to another path, or delete the file.",
            "newer",
        )

    def _connect(self) -> sqlite3.Connection:
        # The lock keeps threads from using the connection at once.
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            # If the machine crashes, a few traces may be lost, but not the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            # On a small disk, the log must not take all of it before it is used again from its beginning.
            pages = self._disk()[0] // _LOG_SHARE // pragma(connection, "page_size")
            if pages < pragma(connection, "wal_autocheckpoint"):
                connection.execute(f"PRAGMA wal_autocheckpoint = {max(pages, _LEAST_LOG)}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disk(self) -> tuple[int, int]:
        """Return the size of the disk, and how many of its bytes are free."""
        try:
            total, _used, free = shutil.disk_usage(self.path.parent)
        except OSError:
            return _UNKNOWN_SIZE, _UNKNOWN_SIZE
        return total, free

    def _has_room(self) -> bool:
        """Return whether another file in the folder can be written: a quota may be used up, and not the disk."""
        try:
            with tempfile.TemporaryFile(dir=self.path.parent) as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
        except OSError as error:
            return error.errno not in _FULL_ERRORS
        return True

    def _close(self) -> None:
        writer, self._writer, self._file, self._place = self._writer, None, None, None
        if writer is not None:
            with suppress(sqlite3.Error):
                writer.close()

    def _explained(self, error: Exception) -> StoreError:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            return StoreError(
                f"The local store {self.path} can't be written or opened ({text}). "
                f"Let this user write to the file and its folder, or set LOCAL_STORE to another path.",
                "read_only",
            )
        if is_full(error) == "full":
            return StoreError(f"The disk of the local store {self.path} is full.", "full")
        if "interrupted" in text:
            return StoreError(
                f"{self.path} holds too much to look through within {READING_TIMEOUT:g} s. "
                f"Ask for less: a shorter time, one service.",
                "timeout",
            )
        if "locked" in text:
            return StoreError(
                f"The local store {self.path} was in use by others for {BUSY_TIMEOUT:g} s. Try again.", "busy"
            )
        if "disk I/O" in text:
            return StoreError(
                f"The local store {self.path} can't be read or written ({text}): its disk has a fault or a quota, or "
                f"its log (-wal) was deleted. In that case, the next write repairs it.",
                "full" if not self._has_room() else "unusable",
            )
        return StoreError(
            f"The local store {self.path} can't be used ({text}). It is created again with the next trace; "
            f"if that does not help, delete it.",
            "unusable",
        )


#: SQLite forbids to carry a connection over a fork, even to close it there
#: (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_).
_stores: Final[weakref.WeakSet[StoreFile]] = weakref.WeakSet()


_held: list[StoreFile] = []


_inherited: list[sqlite3.Connection] = []


def _before_fork() -> None:
    for store in list(_stores):
        # Don't delay the fork longer for a slow writer.
        if store._guard.acquire(timeout=1.0):
            store._close()
            _held.append(store)


def _after_fork_in_parent() -> None:
    while _held:
        # In two steps: this may be the last reference to the store, and deleting it waits for its lock.
        store = _held.pop()
        store._guard.release()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._guard = Lock()
        if store._writer is not None:
            _inherited.append(store._writer)
            store._writer = store._file = None
    # Last: this may be the last reference to a store, and deleting one waits for its lock.
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
