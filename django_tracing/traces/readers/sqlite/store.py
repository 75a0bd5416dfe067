"""Store traces in a bounded SQLite file that many processes write and read at once, and read them.

In WAL mode, readers and one writer work at the same time, and writers wait for each other
(https://www.sqlite.org/wal.html). The file is a ring: the traces that were stored first are deleted first.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from threading import Lock
from typing import Any, Final

from django_tracing.exceptions import StoreError
from django_tracing.sqlite_file import UNREADABLE, SQLiteFile, identity_of, is_damage, pragma, transaction
from django_tracing.traces.model import (
    MOST_SPANS,
    Dependencies,
    FoundSpan,
    RouteStatistics,
    Span,
    SpanStream,
    Trace,
    TraceSummary,
)
from django_tracing.traces.readers.sqlite.figures import FigureKeeper, link_figures, route_figures
from django_tracing.traces.readers.sqlite.queries import (
    EARLIEST_FIRST,
    JOIN_RESOURCE,
    TraceRow,
    distinct_values,
    find_span,
    find_topmost,
    find_trace,
    has_attribute,
    missing_parents,
    search_query,
)
from django_tracing.traces.readers.sqlite.rows import (
    SPAN_COLUMNS,
    Resources,
    encodable,
    prepare_rows,
    span_of_row,
    summary_of_row,
)
from django_tracing.traces.readers.sqlite.schema import (
    APPLICATION_ID,
    COMPATIBLE_FROM,
    VERSION,
    create_tables,
    is_too_new,
)
from django_tracing.traces.readers.sqlite.writing import prune, shrink_file, store_trace

__all__ = ["BUSY_TIMEOUT", "READING_TIMEOUT", "SLICE", "LocalStore"]

#: How long a writer waits for the others, in seconds. A batch takes milliseconds.
BUSY_TIMEOUT: Final = 5.0
#: How many spans a download reads at once. Between two slices it keeps nothing open.
SLICE: Final = 500
#: How long a query may take, in seconds: a person waits, and a worker of the site is busy.
READING_TIMEOUT: Final = 15.0


class LocalStore(SQLiteFile):
    """Stores traces in the SQLite file ``path`` and reads them.

    The file keeps the last ``max_traces`` traces, in ``max_bytes`` bytes. Traces that ended more than ``max_age``
    seconds ago are deleted when others are stored. Of a trace, the first ``max_trace_spans`` spans are stored, and up
    to a tenth more that connect them; the rest are counted.
    The file is not opened or created before the first write. Reading a missing file finds no traces.
    Every method may be called from any thread and process, and raises
    :class:`~django_tracing.exceptions.StoreError`. For their parameters see
    :class:`~django_tracing.traces.model.Reader`.
    """

    application_id = APPLICATION_ID
    noun = "local store"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_traces: int = 5000,
        max_bytes: int = 512 * 1024 * 1024,
        max_age: float | None = None,
        max_trace_spans: int = MOST_SPANS,
    ) -> None:
        super().__init__(path)
        self.max_traces = max_traces
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.max_trace_spans = max_trace_spans
        self._lock = Lock()
        self._writer: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._figures = FigureKeeper()
        _stores.add(self)

    def _failure(self, message: str, reason: str) -> StoreError:
        return StoreError(message, reason)

    def __repr__(self) -> str:
        return f"LocalStore({str(self.path)!r})"

    def __del__(self) -> None:
        # Without contextlib: when the interpreter exits, this module's names may be deleted before its objects.
        try:  # noqa: SIM105
            self.close()
        except Exception:
            pass

    def close(self) -> None:
        """Close the file. The next write opens it again."""
        with self._lock:
            self._close()

    # ----- Writing

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store spans, all or none. ``export.local.span_row`` makes the rows.

        Invalid rows are skipped. Spans that are stored already are not changed.
        """
        prepared = prepare_rows(rows)
        if not prepared:
            return
        with self._lock:
            try:
                self._write(prepared)
            except (sqlite3.DatabaseError, *UNREADABLE) as error:
                damaged = self._file
                self._close()
                if not is_damage(error):
                    raise self._explained(error) from error
                self._set_aside("it is damaged", damaged)
                try:
                    self._write(prepared)
                except sqlite3.DatabaseError as second:
                    self._close()
                    raise self._explained(second) from second
            except BaseException:
                # It may be half open, e.g. if the file is another program's.
                self._close()
                raise

    def _write(self, prepared: list[dict[str, Any]]) -> None:
        connection = self._open_writer()
        with transaction(connection):
            # A newer version may have migrated it since it was opened.
            if is_too_new(connection):
                raise self._too_new()
            by_trace: dict[str, list[dict[str, Any]]] = {}
            for row in prepared:
                by_trace.setdefault(row["trace_id"], []).append(row)
            grown = {
                store_trace(connection, trace_id, members, self.max_trace_spans)
                for trace_id, members in by_trace.items()
            }
            pruned = prune(connection, self.max_traces, self.max_bytes, self.max_age)
            self._figures.work(connection, len(prepared), grown)
        if pruned:
            shrink_file(connection)

    def _open_writer(self) -> sqlite3.Connection:
        # The file may have been deleted or set aside since: then the open one is no longer used by others.
        if self._writer is not None and self._file != identity_of(self.path):
            self._close()
        if self._writer is None:
            self._make_folder()
            self._file = self._examine()
            self._keep_private(new=self._file is None)
            self._writer = self._connect()
            create_tables(self._writer, self._foreign)
            self._file = identity_of(self.path)
            self._figures = FigureKeeper()
        return self._writer

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
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        writer, self._writer, self._file = self._writer, None, None
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
        if "full" in text:
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
        return StoreError(
            f"The local store {self.path} can't be used ({text}). It is created again with the next trace; "
            f"if that does not help, delete it.",
            "unusable",
        )

    # ----- Reading

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Yield a connection with one consistent view of the file; None if there is no file yet.

        It is closed after one query, so that nothing stays open in the threads of readers.
        """
        try:
            if self._examine() is None:
                yield None
                return
            # Unlike a path, this URI does not create the file.
            address = f"{self.path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(address, timeout=BUSY_TIMEOUT, uri=True)) as connection:
                version = pragma(connection, "user_version")
                # Its traces are not lost, as an empty list would make one believe.
                if 0 < version < COMPATIBLE_FROM:
                    raise StoreError(
                        f"The local store {self.path} was written by an older version of this app. "
                        f"It is migrated with the next trace.",
                        "unusable",
                    )
                if version > VERSION:
                    raise self._too_new()
                if not version:
                    # The next write fills it.
                    yield None
                    return
                connection.execute("BEGIN")
                deadline = _deadline()
                connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
                yield connection
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            # SQLite has no checksums, so the content of the tables may be damaged.
            raise StoreError(
                f"The local store {self.path} holds what can't be read ({type(error).__name__}): a part of it is "
                f"damaged. Delete it; it is created again with the next trace.",
                "unusable",
            ) from error

    def services(self) -> list[str]:
        """Return the names of the services that sent spans, sorted."""
        with self._reading() as connection:
            return [] if connection is None else distinct_values(connection, "service", "")

    def operations(self, service: str) -> list[str]:
        """Return the names of the spans of ``service``, sorted."""
        with self._reading() as connection:
            return (
                []
                if connection is None
                else distinct_values(connection, "name", "service = ? AND ", encodable(service))
            )

    def search(
        self,
        *,
        service: str | None = None,
        operation: str | None = None,
        min_duration: float | None = None,
        max_duration: float | None = None,
        errors: bool = False,
        attributes: dict[str, str] | None = None,
        start: float | None = None,
        end: float | None = None,
        limit: int = 20,
        before: tuple[int, str] | None = None,
    ) -> list[TraceSummary]:
        query, values = search_query(
            service=service,
            operation=operation,
            min_duration=min_duration,
            max_duration=max_duration,
            errors=errors,
            attributes=attributes,
            start=start,
            end=end,
            before=before,
        )
        with self._reading() as connection:
            if connection is None:
                return []
            connection.create_function("has_attribute", 3, has_attribute, deterministic=True)
            rows = connection.execute(query, (*values, limit)).fetchall()
            # The last columns are whether the root is stored, and the number of the trace.
            return [summary_of_row(row, None if row[-2] else find_topmost(connection, row[-1])) for row in rows]

    def trace(self, trace_id: str) -> Trace | None:
        with self._reading() as connection:
            found = None if connection is None else find_trace(connection, trace_id)
            if connection is None or found is None:
                return None
            resources = Resources()
            rows = connection.execute(
                f"SELECT {SPAN_COLUMNS} FROM "  # noqa: S608 - our own names
                f"(SELECT rowid AS number FROM spans WHERE trace = ? ORDER BY {EARLIEST_FIRST} LIMIT ?) "
                f"JOIN spans s ON s.rowid = number {JOIN_RESOURCE}",
                (found.seq, MOST_SPANS),
            )
            spans = [span_of_row(found.trace_id, row, resources) for row in rows]
            if len(spans) < found.span_count - found.left_out:
                spans += missing_parents(connection, found, spans, resources)
            return Trace(
                found.trace_id, spans, left_out=max(found.span_count - len(spans), 0), unstored=found.left_out
            )

    def span(self, trace_id: str, span_id: str) -> FoundSpan | None:
        """Return one span, without reading the others; None if there is none."""
        with self._reading() as connection:
            found = None if connection is None else find_trace(connection, trace_id)
            if connection is None or found is None:
                return None
            row = find_span(connection, found.seq, encodable(span_id))
            if row is None:
                return None
            return FoundSpan(span_of_row(found.trace_id, row, Resources()), found.name, found.start)

    def stream(self, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
        """Return all stored spans, read in slices. If ``grouped``, spans are ordered by resource and scope."""
        with self._reading() as connection:
            found = None if connection is None else find_trace(connection, trace_id)
            if connection is None or found is None:
                return None
            # Eight bytes for each span. The spans themselves are read later, in slices.
            groups: dict[Any, array[int]] = {}
            rows = connection.execute(
                f"SELECT rowid, {'resource, service, more' if grouped else '0, 0, 0'} FROM spans "  # noqa: S608
                f"WHERE trace = ? ORDER BY {EARLIEST_FIRST}",
                (found.seq,),
            )
            for number, resource, service, more in rows:
                key = (resource, service, json.loads(more).get("scope", "")) if grouped else None
                groups.setdefault(key, array("q")).append(number)
        return SpanStream(found.trace_id, found.name, self._slices(found, list(groups.values())), found.left_out)

    def _slices(self, found: TraceRow, groups: list[array[int]]) -> Iterator[Span]:
        """Yield the spans with the given numbers. Nothing is open while they are consumed."""
        for numbers in groups:
            for begin in range(0, len(numbers), SLICE):
                asked = numbers[begin : begin + SLICE]
                with self._reading() as connection:
                    there = connection is not None and connection.execute(
                        "SELECT 1 FROM traces WHERE seq = ? AND trace_id = ?", (found.seq, found.trace_id)
                    )
                    rows = {}
                    if connection is not None and there and there.fetchone():
                        marks = ",".join("?" * len(asked))
                        resources = Resources()
                        rows = {
                            number: span_of_row(found.trace_id, row, resources)
                            for number, *row in connection.execute(
                                f"SELECT s.rowid, {SPAN_COLUMNS} FROM spans s {JOIN_RESOURCE} "  # noqa: S608 - our own names
                                f"WHERE s.rowid IN ({marks}) AND s.trace = ?",
                                (*asked, found.seq),
                            )
                        }
                if len(rows) < len(asked):
                    raise StoreError(
                        f"The trace {found.trace_id} left the local store {self.path} while it was read. "
                        f"What came of it is not whole.",
                        "deleted",
                    )
                for number in asked:
                    yield rows[number]

    def routes(
        self, *, service: str | None = None, start: float | None = None, end: float | None = None
    ) -> list[RouteStatistics]:
        with self._reading() as connection:
            return [] if connection is None else route_figures(connection, service, start, end, _deadline())

    def dependencies(self, *, start: float | None = None, end: float | None = None) -> Dependencies:
        with self._reading() as connection:
            return Dependencies([] if connection is None else link_figures(connection, start, end, _deadline()))

    def describe(self) -> str:
        """Return the file's path."""
        return str(self.path)

    def trace_link(self, trace_id: str) -> str | None:
        """None: the file has no UI of its own."""
        return None


def _deadline() -> float:
    return time.monotonic() + READING_TIMEOUT


#: SQLite forbids to carry a connection over a fork, even to close it there
#: (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_).
_stores: Final[weakref.WeakSet[LocalStore]] = weakref.WeakSet()


_held: list[LocalStore] = []


_inherited: list[sqlite3.Connection] = []


def _before_fork() -> None:
    for store in list(_stores):
        # Don't delay the fork longer for a slow writer.
        if store._lock.acquire(timeout=1.0):
            store._close()
            _held.append(store)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop()._lock.release()


def _after_fork_in_child() -> None:
    _held.clear()
    for store in list(_stores):
        store._lock = Lock()
        if store._writer is not None:
            _inherited.append(store._writer)
            store._writer = store._file = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
