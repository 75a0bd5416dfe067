"""Store the status and the counts of processes in a SQLite file beside the local store.

It is for sites whose own database is SQLite. Each call opens a connection of its own. SQLite's WAL mode lets pages
read while a process writes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from django_tracing.sampling.figures import StatusError
from django_tracing.sqlite_file import SQLiteFile, identity_of, is_damage, pragma, transaction

__all__ = ["StatusFile"]

_T = TypeVar("_T")

#: How long a writing thread, and a page, wait for the writing threads of other processes, in seconds.
_WRITING_TIMEOUT: Final = 5.0
_READING_TIMEOUT: Final = 1.0
#: At most this many are read.
_MAX_PROCESSES: Final = 1000
_MAX_RULES: Final = 1000
_MAX_REPORT: Final = 100_000

_COLUMNS: Final = ("process", "service", "host", "pid", "started", "updated", "report")
_SCHEMA: Final = (
    "CREATE TABLE processes (database TEXT NOT NULL, process TEXT NOT NULL, service TEXT NOT NULL, "
    "host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL, updated REAL NOT NULL, report TEXT NOT NULL, "
    "PRIMARY KEY (database, process)) WITHOUT ROWID",
    "CREATE TABLE counts (database TEXT NOT NULL, rule INTEGER NOT NULL, minute INTEGER NOT NULL, "
    "kept INTEGER NOT NULL, passed_over INTEGER NOT NULL, PRIMARY KEY (database, rule, minute)) WITHOUT ROWID",
)


class StatusFile(SQLiteFile):
    """The status and counts of the host's database ``database`` (its path). Raises only StatusError."""

    #: "DjTS"
    application_id = 0x446A5453
    noun = "status file"

    def __init__(self, path: Path, database: str) -> None:
        super().__init__(path)
        # Projects that share a local store have separate rules.
        self._database = hashlib.sha256(_text(database).encode()).hexdigest()[:32]
        self._file: tuple[int, int] | None = None

    @classmethod
    def beside(cls, local_store: Path, database: str) -> StatusFile:
        """Return the status file of a local store, which need not exist."""
        return cls(local_store.with_name(f"{local_store.stem}.status.sqlite3"), database)

    def _failure(self, message: str, reason: str) -> StatusError:
        return StatusError(message, reason)

    # ----- writing

    def add_counts(self, minute: int, counts: Mapping[int, tuple[int, int]]) -> None:
        """Add to the numbers of traces that each rule (0: the settings) kept and passed over within ``minute``."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(
                # The columns are named, so that they still fit after a newer version of this app has added some.
                "INSERT INTO counts (database, rule, minute, kept, passed_over) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET "
                "kept = kept + excluded.kept, passed_over = passed_over + excluded.passed_over",
                [(self._database, rule, minute, *decided) for rule, decided in counts.items()],
            )

        self._write(write)

    def delete_old(self, before: int) -> None:
        """Delete the counts of earlier minutes."""
        self._write(lambda connection: connection.execute("DELETE FROM counts WHERE minute < ?", (before,)))

    def store_status(self, status: Mapping[str, Any], gone_after: float) -> int:
        """Store the status of a process. Return how many processes of its service are running."""
        row = {**status, "report": json.dumps(status["report"], default=str)}
        values = [_text(row[name]) if isinstance(row[name], str) else row[name] for name in _COLUMNS]
        recent = status["updated"] - gone_after

        def write(connection: sqlite3.Connection) -> int:
            connection.execute(
                f"REPLACE INTO processes (database, {', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                (self._database, *values),
            )
            connection.execute("DELETE FROM processes WHERE updated < ?", (recent,))
            alive = connection.execute(
                "SELECT count(*) FROM processes WHERE database = ? AND service = ?",
                (self._database, _text(status["service"])),
            )
            return int(alive.fetchone()[0])

        return self._write(write)

    def _write(self, write: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            try:
                return self._attempt(write)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._set_aside("it is damaged", self._file)
                return self._attempt(write)
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _attempt(self, write: Callable[[sqlite3.Connection], _T]) -> _T:
        self._make_folder()
        self._file = self._examine()
        self._keep_private(new=self._file is None)
        self._file = identity_of(self.path)
        with closing(sqlite3.connect(self.path, timeout=_WRITING_TIMEOUT, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            if not pragma(connection, "application_id"):
                self._create(connection)
            # While another process reads, this may fail. The next write tries again.
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode = WAL")
            with transaction(connection):
                return write(connection)

    def _create(self, connection: sqlite3.Connection) -> None:
        # Of several processes that start at once, one creates the tables.
        with transaction(connection, "EXCLUSIVE"):
            if pragma(connection, "application_id"):
                return
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise self._foreign()
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {self.application_id}")

    def _explained(self, error: Exception) -> StatusError:
        return StatusError(f"The {self.noun} {self.path} can't be used ({error}).", "unusable")

    # ----- reading

    def processes(self, since: float) -> list[dict[str, Any]]:
        """Return the statuses stored since then, by service, host and process id."""
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT process, service, host, pid, started, updated, "
                "CASE WHEN length(report) <= ? THEN report ELSE '{}' END FROM processes "
                "WHERE database = ? AND updated >= ? ORDER BY service, host, pid LIMIT ?",
                (_MAX_REPORT, self._database, since, _MAX_PROCESSES),
            )
            found = []
            for process, service, host, pid, started, updated, report in rows:
                values = (str(process), str(service), str(host), int(pid), float(started), float(updated))
                found.append(dict(zip(_COLUMNS, (*values, dict(json.loads(report))), strict=True)))
            return found

    def counts(self, since: int) -> dict[int, tuple[int, int]]:
        """Return how many traces each rule kept and passed over in the minutes since then."""
        with self._reading() as connection:
            if connection is None:
                return {}
            rows = connection.execute(
                "SELECT rule, sum(kept), sum(passed_over) FROM counts "
                "WHERE database = ? AND minute >= ? GROUP BY rule LIMIT ?",
                (self._database, since, _MAX_RULES),
            )
            return {int(rule): (int(kept), int(passed_over)) for rule, kept, passed_over in rows}

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Open a connection for reading; None if nothing was written yet."""
        try:
            if self._examine() is None:
                yield None
                return
            # Unlike a plain path, a URI with this mode creates no file.
            address = f"{self.path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(address, timeout=_READING_TIMEOUT, uri=True)) as connection:
                yield connection if pragma(connection, "application_id") else None
        except (sqlite3.Error, TypeError, ValueError, RecursionError) as error:
            raise self._explained(error) from error


def _text(value: str) -> str:
    # A name may contain an undecodable byte of the environment.
    return value.encode("utf-8", "replace").decode()
