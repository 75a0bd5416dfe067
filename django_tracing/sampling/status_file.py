"""How processes are, and what they kept by which rule, in a file beside the local store.

It is for sites whose database is SQLite. A connection lives for one call; SQLite's WAL mode lets pages read while a
process writes.
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

#: How long the thread that tells waits for those of other processes, and a page for them, in seconds.
_WRITING_TIMEOUT: Final = 5.0
_READING_TIMEOUT: Final = 1.0
#: More is not read.
_MOST_PROCESSES: Final = 1000
_MOST_RULES: Final = 1000
_LONGEST_REPORT: Final = 100_000

_COLUMNS: Final = ("process", "service", "host", "pid", "started", "updated", "report")
_SCHEMA: Final = (
    "CREATE TABLE processes (database TEXT NOT NULL, process TEXT NOT NULL, service TEXT NOT NULL, "
    "host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL, updated REAL NOT NULL, report TEXT NOT NULL, "
    "PRIMARY KEY (database, process)) WITHOUT ROWID",
    "CREATE TABLE counts (database TEXT NOT NULL, rule INTEGER NOT NULL, minute INTEGER NOT NULL, "
    "kept INTEGER NOT NULL, passed_over INTEGER NOT NULL, PRIMARY KEY (database, rule, minute)) WITHOUT ROWID",
)


class StatusFile(SQLiteFile):
    """What belongs to the host's database ``database`` (its path). Raises StatusError and nothing else."""

    #: "DjTS"
    application_id = 0x446A5453
    noun = "status file"

    def __init__(self, path: Path, database: str) -> None:
        super().__init__(path)
        # Projects that share a local store have rules of their own.
        self._database = hashlib.sha256(_text(database).encode()).hexdigest()[:32]
        self._file: tuple[int, int] | None = None

    @classmethod
    def beside(cls, local_store: Path, database: str) -> StatusFile:
        """The one that belongs to that local store, whether or not there is one."""
        return cls(local_store.with_name(f"{local_store.stem}.status.sqlite3"), database)

    def _failure(self, message: str, reason: str) -> StatusError:
        return StatusError(message, reason)

    # ----- writing

    def add(self, minute: int, counts: Mapping[int, tuple[int, int]]) -> None:
        """Adds to what was kept and passed over by which rule (0: by the settings) within ``minute``."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO counts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "kept = kept + excluded.kept, passed_over = passed_over + excluded.passed_over",
                [(self._database, rule, minute, *decided) for rule, decided in counts.items()],
            )

        self._write(write)

    def tidy(self, before: int) -> None:
        """Deletes the counts of minutes before that one."""
        self._write(lambda connection: connection.execute("DELETE FROM counts WHERE minute < ?", (before,)))

    def tell(self, said: Mapping[str, Any], gone_after: float) -> int:
        """Stores what a process says of itself; returns how many of its service are alive."""
        row = {**said, "report": json.dumps(said["report"], default=str)}
        values = [_text(row[name]) if isinstance(row[name], str) else row[name] for name in _COLUMNS]
        recent = said["updated"] - gone_after

        def write(connection: sqlite3.Connection) -> int:
            connection.execute("REPLACE INTO processes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (self._database, *values))
            connection.execute("DELETE FROM processes WHERE updated < ?", (recent,))
            alive = connection.execute(
                "SELECT count(*) FROM processes WHERE database = ? AND service = ?",
                (self._database, _text(said["service"])),
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
            # While another process reads, this may be refused; then the next that writes does it.
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA journal_mode = WAL")
            with transaction(connection):
                return write(connection)

    def _create(self, connection: sqlite3.Connection) -> None:
        # Of several processes that begin at once, one makes the tables.
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
        """What processes said of themselves since then, by service, host and process id."""
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT process, service, host, pid, started, updated, "
                "CASE WHEN length(report) <= ? THEN report ELSE '{}' END FROM processes "
                "WHERE database = ? AND updated >= ? ORDER BY service, host, pid LIMIT ?",
                (_LONGEST_REPORT, self._database, since, _MOST_PROCESSES),
            )
            found = []
            for process, service, host, pid, started, updated, report in rows:
                values = (str(process), str(service), str(host), int(pid), float(started), float(updated))
                found.append(dict(zip(_COLUMNS, (*values, dict(json.loads(report))), strict=True)))
            return found

    def counts(self, since: int) -> dict[int, tuple[int, int]]:
        """How many traces each rule kept and passed over in the minutes since then."""
        with self._reading() as connection:
            if connection is None:
                return {}
            rows = connection.execute(
                "SELECT rule, sum(kept), sum(passed_over) FROM counts "
                "WHERE database = ? AND minute >= ? GROUP BY rule LIMIT ?",
                (self._database, since, _MOST_RULES),
            )
            return {int(rule): (int(kept), int(passed_over)) for rule, kept, passed_over in rows}

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """None where nothing was written yet."""
        try:
            if self._examine() is None:
                yield None
                return
            # Unlike a plain path, this creates no file.
            address = f"{self.path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(address, timeout=_READING_TIMEOUT, uri=True)) as connection:
                yield connection if pragma(connection, "application_id") else None
        except (sqlite3.Error, TypeError, ValueError, RecursionError) as error:
            raise self._explained(error) from error


def _text(value: str) -> str:
    # A name may hold what is no text: an undecodable byte of the environment.
    return value.encode("utf-8", "replace").decode()
