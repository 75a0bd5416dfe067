"""Keep a SQLite file of this app private, and set it aside when it is damaged."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import ClassVar, Final, Literal

from django_tracing.faults import log_hourly

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "OWN_FOLDER",
    "UNREADABLE",
    "SQLiteFile",
    "alone_in",
    "identity_of",
    "in_wal_mode",
    "is_damage",
    "is_full",
    "looks_cut",
    "network_file_system",
    "pragma",
    "transaction",
]


#: The folder of LOCAL_STORE's default, which this app creates.
OWN_FOLDER: Final = ".tracing"
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600

_HEADER: Final = b"SQLite format 3\0"

#: So many files that were set aside are kept.
_MOST_ASIDE: Final = 3

#: File systems of a network, and of virtual machines that get folders of their host.
_NETWORK_TYPES: Final = frozenset(
    [
        *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
        *("glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"),
    ]
)
#: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
_MOUNTS: Final = "/proc/self/mountinfo"
#: So many characters of the list of mounts are read.
_MOST_MOUNTS: Final = 1_000_000

#: In the texts of SQLite's errors. The last ones: another program has changed the tables.
_DAMAGE: Final = (
    *("malformed", "not a database", "Could not decode"),
    *("datatype mismatch", "has no column named", "no such column", "no such table"),
)

#: What reading raises if a stored text, or the text of SQLite's own error, can't be decoded.
UNREADABLE: Final = (UnicodeDecodeError, json.JSONDecodeError)


class SQLiteFile:
    """The base class of this app's SQLite files. Each kind is marked by its ``application_id``."""

    application_id: ClassVar[int]
    #: What messages call the file.
    noun: ClassVar[str]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def _failure(self, message: str, reason: str) -> Exception:
        """Make the exception that methods raise. ``reason`` is one word."""
        raise NotImplementedError

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            if not folder.is_dir():
                # Traces contain a site's data: only its user may open the folder.
                folder.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
                # Git ignores the folder, too.
                with (
                    suppress(FileExistsError),
                    open(folder / ".gitignore", "x", encoding="ascii", opener=_private) as file,
                ):
                    file.write("*\n")
            elif folder.name == OWN_FOLDER:
                _tighten(folder, _FOLDER_MODE)
        except OSError as error:
            raise self._failure(
                f"The folder of the {self.noun}, {folder}, can't be created ({error.strerror}). "
                f"Let this user write there, or set LOCAL_STORE to another path.",
                "read_only",
            ) from error

    def _keep_private(self, *, new: bool) -> None:
        """Create the file without permissions for others, whatever the umask, and restrict files of older versions.

        SQLite gives its log and its journal the file's permissions.
        """
        if new:
            # Only if there was no file: closing one that is open elsewhere would release SQLite's locks on it
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
        """Identify the file; None if there is none.

        Raise for another program's database, and set aside a file that is not a database.
        """
        try:
            found, header = _read_header(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(
                f"The {self.noun} {self.path} can't be read ({error.strerror}): only the user that the site runs as "
                f"may read it. Run this as that user, or set LOCAL_STORE to another path.",
                "read_only",
            ) from error
        identity = found.st_dev, found.st_ino
        if not header:
            return identity
        if not header.startswith(_HEADER):
            self._set_aside("it is not a SQLite file", identity)
            return None
        application = int.from_bytes(header[68:72], "big")
        # One page has no tables: another process is about to create them.
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
        """Rename the file if it is still the one identified by ``identity``: another process may have done so."""
        aside = f"{self.path}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"

        def rename(path: Path, suffix: str) -> None:
            _tighten(path, _FILE_MODE)
            os.replace(path, f"{aside}{suffix}")

        try:
            if not self._take_away(identity, rename):
                return
            self._delete_oldest_asides(Path(aside).name)
        except OSError as error:
            raise self._failure(
                f"The {self.noun} {self.path} can't be used ({why}), nor renamed ({error.strerror}). Delete it.",
                "unusable",
            ) from error
        log_hourly(
            f"aside-{self.path}",
            "The %s %s is created again: %s. The old one is kept as %s.",
            *(self.noun, self.path, why, aside),
        )

    def _take_away(self, identity: tuple[int, int] | None, take: Callable[[Path, str], None]) -> bool:
        """Call ``take`` for the file and those beside it; return False if it is not the one with ``identity``."""
        # Without the lock, another process could create the new file between the check and the move.
        with alone_in(self.path.parent):
            if identity is None or identity != identity_of(self.path):
                return False
            # The log first: if it stayed, SQLite would take it for the new file's log.
            for suffix in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    take(Path(f"{self.path}{suffix}"), suffix)
        return True

    def _delete_oldest_asides(self, newest: str) -> None:
        """Delete all but a few of the files that were set aside: whatever damages the file may do so every minute."""
        names = {
            each.name.removesuffix("-wal").removesuffix("-shm")
            for each in self.path.parent.iterdir()
            if each.name.startswith(f"{self.path.name}.corrupt-")
        }
        # The names have the time. If the clock was set back, the newest name is not the last.
        kept = [newest, *sorted(names - {newest}, reverse=True)[: _MOST_ASIDE - 1]]
        for name in names.difference(kept):
            for suffix in ("-wal", "-shm", ""):
                with suppress(OSError):
                    self.path.with_name(f"{name}{suffix}").unlink()


def identity_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file at ``path``; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def looks_cut(path: Path) -> bool:
    """Return True if the file at ``path`` is shorter than its header says, or has no header: it was truncated.

    In WAL mode, it also is while a process moves pages from the log to the file (https://www.sqlite.org/fileformat.html
    describes the header).
    """
    try:
        found, header = _read_header(path)
    except OSError:
        return False
    if not header.startswith(_HEADER):
        return True
    size, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    # Old versions of SQLite don't set the number of pages: they leave the counter that belongs to it unchanged.
    return header[24:28] == header[92:96] and found.st_size < pages * (65536 if size == 1 else size)


def network_file_system(path: Path) -> str | None:
    """Return the type of the file system of ``path`` if it is one of a network; None also where it is not known.

    SQLite's log needs memory that all processes share, and locks that work: https://www.sqlite.org/wal.html and
    https://www.sqlite.org/faq.html#q5.
    """
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(_MOST_MOUNTS).splitlines()
        folder = os.path.realpath(path.parent)
    except (OSError, ValueError):
        return None
    nearest, found = "", None
    for line in lines:
        fields, _, more = line.partition(" - ")
        columns = fields.split(" ")
        if len(columns) < 5 or not more:
            continue
        point = _unescape(columns[4])
        # Of several mounts on one folder, the last is seen.
        if len(point) >= len(nearest) and (folder == point or folder.startswith(point.rstrip("/") + "/")):
            nearest, found = point, more.split(" ")[0]
    return found if found in _NETWORK_TYPES else None


def _unescape(point: str) -> str:
    for code in ("040", "011", "012", "134"):
        point = point.replace(f"\\{code}", chr(int(code, 8)))
    return point


def is_full(error: Exception) -> Literal["full", "perhaps", ""]:
    """Return whether ``error`` means that the disk is full; perhaps, if it may also mean that a quota is used up."""
    text = str(error)
    return "full" if "is full" in text else "perhaps" if "disk I/O" in text else ""


def is_damage(error: Exception) -> bool:
    """Return True if ``error`` means that the file is damaged, so that trying again does not help."""
    text = str(error)
    return isinstance(error, UNREADABLE) or any(word in text for word in _DAMAGE)


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


def in_wal_mode(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA journal_mode").fetchone() == ("wal",))


#: A process has one store, perhaps two.
_MOST_HEADERS: Final = 32


class _HeaderFiles:
    """The files whose headers were read, which stay open.

    Closing one would release the locks that SQLite holds on it in this process. Then another process would delete the
    log that this process goes on writing to.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._lock = Lock()

    def read(self, path: Path) -> tuple[os.stat_result, bytes]:
        """Return the status of the file, and its first 100 bytes."""
        with self._lock:
            key = identity_of(path)
            descriptor = None if key is None else self._open.get(key)
            if descriptor is None:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                for known, other in list(self._open.items()):
                    # A deleted file can't be opened by others, and uses disk space until it is closed.
                    if not os.fstat(other).st_nlink or len(self._open) >= _MOST_HEADERS:
                        os.close(self._open.pop(known))
                opened = os.fstat(descriptor)
                # Another process may have replaced the file since.
                self._open.setdefault((opened.st_dev, opened.st_ino), descriptor)
            return os.fstat(descriptor), os.pread(descriptor, 100, 0)

    def after_fork_in_child(self) -> None:
        # A thread of the parent may have held the lock.
        self._lock = Lock()


_header_files: Final = _HeaderFiles()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_header_files.after_fork_in_child)


def _read_header(path: Path) -> tuple[os.stat_result, bytes]:
    if os.name != "posix":
        with open(path, "rb") as file:
            return os.fstat(file.fileno()), file.read(100)
    return _header_files.read(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _FILE_MODE)


def _tighten(path: Path, mode: int) -> None:
    """Remove the permissions of others, if this user owns the file. Never raises: spans are more important."""
    if os.name != "posix":
        return
    with suppress(OSError):
        found = os.lstat(path)
        if found.st_uid == os.geteuid() and found.st_mode & 0o077 and not stat.S_ISLNK(found.st_mode):
            os.chmod(path, found.st_mode & mode)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes while a file is moved. On systems without such locks, do nothing."""
    if fcntl is None:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems can't lock folders.
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
