"""Keep batches that can't be sent in a folder, for this and other processes, until they are sent.

Each batch is a file of its own: a header with the checksum, and an OTLP message. It gets its name when it is whole:
a process that is killed at any moment leaves a whole record or a temporary file. Who sends or removes a record holds
its lock (``flock``), which ends with the process. The files may have been written by anyone: reading is bounded, and
what is not a whole record is removed and counted.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

from django_tracing.export.answers import fields, messages
from django_tracing.export.wire import EncodedBatch
from django_tracing.protobuf import field

__all__ = ["Contents", "Spool", "StoredBatch", "can_spool", "is_writable"]

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MAGIC: Final = b"django_tracing spool 1\n"
#: The magic, the number of spans, the length of the message and its checksum.
_HEADER: Final = struct.Struct(f">{len(_MAGIC)}sIQ16s")
#: A batch has 2 MiB in memory, unless a single span is larger.
_LONGEST: Final = 64 * 1024 * 1024
#: The time in nanoseconds, the process, a number, and how many spans: the order of the names is that of the batches.
_NAME: Final = re.compile(r"([0-9]{20})-([0-9]{1,10})-([0-9]{1,10})-([0-9]{1,7})\.spans")
_TEMPORARY: Final = re.compile(r"[0-9]{20}-[0-9]{1,10}-[0-9]{1,10}-[0-9]{1,7}\.new")
#: Beside the limit in bytes: reading the folder takes time for each file.
_MOST_RECORDS: Final = 10_000
#: Seconds after which a temporary file is left over from a process that was killed.
_ABANDONED: Final = 600.0
#: Seconds to wait for another process that stores a record. It may be stopped.
_LOCK_WAIT: Final = 1.0
#: Seconds after which the folder is read again while batches are claimed: others may have given older ones back.
_LIST_AGAIN: Final = 5.0


def can_spool() -> bool:
    """Return whether this system has the locks of files that a spool needs."""
    return fcntl is not None


def is_writable(folder: Path) -> bool:
    """Return whether this user can write to ``folder``, or create it."""
    place = next((each for each in (folder, *folder.absolute().parents) if each.exists()), folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


class Contents(NamedTuple):
    """What waits in a spool."""

    batches: int
    spans: int
    bytes: int
    #: When the oldest batch was stored, in seconds since the epoch; None if there is none.
    oldest: float | None


class _Record(NamedTuple):
    name: str
    #: How many spans it has.
    spans: int
    size: int


class StoredBatch:
    """A batch that was read from the spool. Its file is locked until it is removed or given back."""

    __slots__ = ("count", "descriptor", "encoded", "name", "size")

    def __init__(self, name: str, count: int, encoded: bytes, descriptor: int) -> None:
        self.name = name
        self.count = count
        self.encoded = encoded
        self.size = len(encoded)
        self.descriptor = descriptor

    def message(self) -> list[bytes]:
        """Return the ExportTraceServiceRequest."""
        return [self.encoded]

    def split(self) -> tuple[StoredBatch, StoredBatch]:
        """Return two batches with half of the spans each, which have no file."""
        groups: list[tuple[bytes, bytes, list[bytes]]] = []
        for resource_spans in messages(self.encoded, 1):
            resource = _without_spans(resource_spans)
            for scope_spans in messages(resource_spans, 2):
                groups.append((resource, _without_spans(scope_spans), list(messages(scope_spans, 2))))
        middle = self.count // 2
        halves: tuple[list[bytes], list[bytes]] = [], []
        taken = 0
        for resource, scope, spans in groups:
            left = max(middle - taken, 0)
            taken += len(spans)
            for half, part in zip(halves, (spans[:left], spans[left:]), strict=True):
                if part:
                    body = scope + b"".join(field(0x12, span) for span in part)
                    half.append(field(0x0A, resource + field(0x12, body)))
        first, second = (b"".join(half) for half in halves)
        return StoredBatch("", middle, first, -1), StoredBatch("", self.count - middle, second, -1)


def _without_spans(message: bytes) -> bytes:
    """Return the fields of a ResourceSpans but its scopes, and those of a ScopeSpans but its spans."""
    return b"".join(
        field(number << 3 | 2, value)
        for number, value in fields(message)
        if number != 2 and number < 16 and isinstance(value, bytes)
    )


class Spool:
    """A folder with batches. ``max_bytes`` limits its size: the oldest batches make room for new ones.

    All methods raise OSError if the folder can't be used. Not thread-safe, but processes may share a folder.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._number = 0
        #: Records that were found and not claimed yet, the oldest first, and when to look for others.
        self._listed: deque[_Record] = deque()
        self._list_again_at = 0.0
        #: Spans whose records were not whole, since the last call of :meth:`take_damaged`.
        self._damaged = 0

    # ----- storing

    def store(self, batch: EncodedBatch | StoredBatch, *, sync: bool = True) -> int:
        """Store a batch. Return how many spans were dropped for it: those of the oldest batches.

        ``sync`` waits until the disk has it, so that it survives if the whole machine stops.
        """
        message = batch.message()
        size = _HEADER.size + sum(map(len, message))
        if size > min(self.max_bytes, _LONGEST):
            raise OSError(f"A batch of {size} bytes is larger than the spool.")
        self.prepare()
        with self._locked_folder():
            dropped = self._make_room(size)
            self._write(message, batch.count, size, sync)
        return dropped

    def prepare(self) -> None:
        """Create the folder, for this user only."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _write(self, message: Iterable[bytes | bytearray], count: int, size: int, sync: bool) -> None:
        digest = blake2b(digest_size=16)
        for piece in message:
            digest.update(piece)
        self._number += 1
        stem = f"{time.time_ns():020d}-{os.getpid()}-{self._number}-{count}"
        temporary = self.folder / f"{stem}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(_HEADER.pack(_MAGIC, count, size - _HEADER.size, digest.digest()))
                file.writelines(message)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            os.rename(temporary, self.folder / f"{stem}.spans")
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _make_room(self, size: int) -> int:
        records = self._records(clean=True)
        total = sum(record.size for record in records)
        dropped = 0
        left = len(records)
        for record in records:
            if total + size <= self.max_bytes and left < _MOST_RECORDS:
                break
            # One that is being sent is not waited for: the next one makes room.
            if self._remove(record.name):
                dropped += record.spans
                total -= record.size
                left -= 1
        if total + size > self.max_bytes:
            raise OSError("The spool is full of batches that are being sent.")
        return dropped

    @contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """Hold the lock under which records are added: otherwise two processes would use the same room."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | _NOFOLLOW | _NONBLOCK, 0o600)
        try:
            deadline = time.monotonic() + _LOCK_WAIT
            while not _lock(descriptor):
                if time.monotonic() > deadline:
                    raise OSError("Another process does not release the spool.")
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    # ----- reading

    def contents(self) -> Contents:
        """Return what waits."""
        records = self._records()
        oldest = int(records[0].name.partition("-")[0]) / 1e9 if records else None
        return Contents(
            len(records), sum(record.spans for record in records), sum(record.size for record in records), oldest
        )

    def has_batches(self) -> bool:
        """Return whether there is at least one batch. Stops at the first."""
        with os.scandir(self.folder) as entries:
            return any(_NAME.fullmatch(entry.name) for entry in entries)

    def claim(self, left_out: Container[str] = ()) -> StoredBatch | None:
        """Lock and return the oldest batch that no other process holds and that is not ``left_out``, or None."""
        if not self._listed or time.monotonic() > self._list_again_at:
            # Not for each batch: the work would grow with the square of their number.
            self._listed = deque(self._records())
            self._list_again_at = time.monotonic() + _LIST_AGAIN
        while self._listed:
            record = self._listed.popleft()
            if record.name in left_out:
                continue
            descriptor = self._open(record.name)
            if descriptor is None:
                continue
            batch = self._read(record, descriptor)
            if batch is not None:
                return batch
            self._damaged += record.spans
            self._unlink(record.name)
            os.close(descriptor)
        return None

    def remove(self, batch: StoredBatch) -> None:
        """Remove a claimed batch: it was sent, or dropped."""
        self._unlink(batch.name)
        os.close(batch.descriptor)

    def give_back(self, batch: StoredBatch) -> None:
        """Leave a claimed batch for later."""
        os.close(batch.descriptor)

    def empty(self) -> int:
        """Remove all batches that no other process holds. Return how many spans they had."""
        return sum(record.spans for record in self._records(clean=True) if self._remove(record.name))

    def take_damaged(self) -> int:
        """Return how many spans were in records that were not whole, since the last call."""
        damaged, self._damaged = self._damaged, 0
        return damaged

    def _read(self, record: _Record, descriptor: int) -> StoredBatch | None:
        """Read a record. Return None if it is not whole."""
        if record.size > _LONGEST:
            return None
        # A record that grows meanwhile is damaged, too.
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(record.size + 1)
        if len(data) < _HEADER.size:
            return None
        magic, count, length, digest = _HEADER.unpack_from(data)
        encoded = data[_HEADER.size :]
        if (magic, count, length) != (_MAGIC, record.spans, len(encoded)):
            return None
        if blake2b(encoded, digest_size=16).digest() != digest:
            return None
        return StoredBatch(record.name, count, encoded, descriptor)

    def _records(self, *, clean: bool = False) -> list[_Record]:
        """Return all records, the oldest first. ``clean`` removes what killed processes left."""
        found: list[_Record] = []
        try:
            entries = os.scandir(self.folder)
        except FileNotFoundError:
            return []
        with entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                try:
                    if match is not None and entry.is_file(follow_symlinks=False):
                        size = entry.stat(follow_symlinks=False).st_size
                        found.append(_Record(entry.name, int(match[4]), size))
                    elif clean and _TEMPORARY.fullmatch(entry.name):
                        age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                        if age > _ABANDONED:
                            os.unlink(entry.path)
                except OSError:
                    # Another process has just removed it.
                    continue
        found.sort()
        return found

    def _open(self, name: str) -> int | None:
        """Open and lock a record. Return None if another process holds it, or has removed it."""
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDWR | _NOFOLLOW | _NONBLOCK)
        except OSError:
            return None
        try:
            if _lock(descriptor):
                status, now = os.fstat(descriptor), os.stat(path, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) == (now.st_dev, now.st_ino):
                    return descriptor
        except OSError:
            pass
        os.close(descriptor)
        return None

    def _remove(self, name: str) -> bool:
        descriptor = self._open(name)
        if descriptor is None:
            return False
        try:
            return self._unlink(name)
        finally:
            os.close(descriptor)

    def _unlink(self, name: str) -> bool:
        try:
            os.unlink(self.folder / name)
        except OSError:
            return False
        return True


#: A record is no link and no pipe. Windows has neither flag, and no spool.
_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
