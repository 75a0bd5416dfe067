"""Store traces in a bounded SQLite file that many processes write and read at once, and read them.

In WAL mode, readers and one writer work at the same time, and writers wait for each other
(https://www.sqlite.org/wal.html). The file is a ring: the traces that were stored first are deleted first.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

from django_tracing.exceptions import StoreError
from django_tracing.semconv.facts import EncodedSection
from django_tracing.sqlite_file import UNREADABLE, is_damage, is_full, pragma, transaction
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
from django_tracing.traces.readers.sqlite.chunks import ChunkReader, Place
from django_tracing.traces.readers.sqlite.figures import FigureKeeper, link_figures, route_figures
from django_tracing.traces.readers.sqlite.file import BUSY_TIMEOUT, READING_TIMEOUT, FileMoved, StoreFile
from django_tracing.traces.readers.sqlite.json_rows import encode_rows
from django_tracing.traces.readers.sqlite.queries import (
    SpanCondition,
    TraceRow,
    distinct_operations,
    distinct_services,
    find_span,
    find_topmost,
    find_trace,
    missing_parents,
    search_query,
)
from django_tracing.traces.readers.sqlite.room import SHARES, load_newest, make_room, store_loaded
from django_tracing.traces.readers.sqlite.rows import encodable, summary_of_row
from django_tracing.traces.readers.sqlite.schema import COMPATIBLE_FROM, VERSION, is_too_new
from django_tracing.traces.readers.sqlite.writing import StoredIds, prune, shrink_file, split_sections, store_sections

__all__ = ["DISK_RESERVE", "SLICE", "STUCK_SECONDS", "LocalStore"]

_logger = logging.getLogger("django_tracing")

#: How many spans a download reads at once. Between two slices it keeps nothing open.
SLICE: Final = 500
#: How long the disk may be so full that nothing can be deleted, in seconds, before the file is created again.
STUCK_SECONDS: Final = 10.0
#: If the disk has fewer free bytes, or an eighth of a small disk, the file does not grow: the oldest traces
#: make room for new ones. When the disk is quite full, deleting them is not always possible.
DISK_RESERVE: Final = 16 * 1024 * 1024
#: Between two log lines about a full disk, in seconds.
_LOG_INTERVAL: Final = 3600.0
#: How often a write is tried again because the file was moved.
_MOST_MOVES: Final = 5
#: How much longer the pause before each next try is, in seconds.
_PAUSE: Final = 0.05


class LocalStore(StoreFile):
    """Stores traces in the SQLite file ``path`` and reads them.

    The file keeps the last ``max_traces`` traces, in ``max_bytes`` bytes. Traces that ended more than ``max_age``
    seconds ago are deleted when others are stored. Of a trace, the first ``max_trace_spans`` spans are stored, and up
    to a tenth more that connect them; the rest are counted.
    The file is not opened or created before the first write. Reading a missing file finds no traces.
    Every method may be called from any thread and process, and raises
    :class:`~django_tracing.exceptions.StoreError`. For their parameters see
    :class:`~django_tracing.traces.model.Reader`.
    """

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
        self._figures = FigureKeeper()
        self._ids = StoredIds()
        #: Since when the disk is so full that nothing can be deleted, in seconds of the monotonic clock.
        self._stuck_since: float | None = None
        #: How many traces were deleted because the disk is full, since the last log line.
        self._given_up = 0
        self._given_up_logged: float | None = None

    def __repr__(self) -> str:
        return f"LocalStore({str(self.path)!r})"

    # ----- Writing

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store spans, all or none. ``export.local.span_row`` makes the rows.

        Invalid rows are skipped. Spans that are stored already are not changed.
        """
        self.store(encode_rows(rows))

    def store(self, sections: Sequence[EncodedSection]) -> None:
        """Store encoded spans, all or none. Spans that are stored already are not changed."""
        if not any(section.facts for section in sections):
            return
        with self._guard:
            try:
                self._write_or_start_anew(sections)
            except (sqlite3.DatabaseError, *UNREADABLE) as error:
                self._close()
                raise self._explained(error) from error
            except FileMoved as error:
                self._close()
                raise self._moving() from error
            except BaseException:
                # It may be half open, e.g. if the file is another program's.
                self._close()
                raise

    def _write_or_start_anew(self, sections: Sequence[EncodedSection]) -> None:
        try:
            self._write_or_start_smaller(sections)
        except (sqlite3.DatabaseError, *UNREADABLE) as error:
            if not is_damage(error):
                raise
            damaged = self._file
            self._close()
            self._set_aside("it is damaged", damaged)
            self._write_or_start_smaller(sections)

    def _write_or_start_smaller(self, sections: Sequence[EncodedSection]) -> None:
        try:
            self._write_or_make_room(sections)
        except sqlite3.OperationalError as error:
            full = is_full(error)
            if not full or (full == "perhaps" and self._has_room()) or not self._start_smaller():
                raise
            self._write_or_make_room(sections)
        self._stuck_since = None

    def _write_or_make_room(self, sections: Sequence[EncodedSection]) -> None:
        for share in SHARES:
            try:
                self._write(sections)
            except sqlite3.OperationalError as error:
                if not is_full(error) or self._writer is None:
                    raise
                deleted = make_room(self._writer, share)
                if deleted is None:
                    raise
                self._give_up(deleted)
            else:
                return
        self._write(sections)

    def _start_smaller(self) -> bool:
        """Create the file again with the newest traces; return whether it was done.

        If the disk is full, even deleting may need more space than there is: SQLite moves what is in the log to the
        end of the file first. Perhaps others free some space, so this waits for a while.
        """
        now = time.monotonic()
        if self._stuck_since is None:
            self._stuck_since = now
        if now - self._stuck_since < STUCK_SECONDS:
            return False
        connection = self._writer or self._open_writer()
        (before,) = connection.execute("SELECT count(*) FROM traces").fetchone()
        loaded = load_newest(connection)
        file = self._file
        self._close()
        try:
            self._take_away(file, lambda path, _suffix: path.unlink())
        except OSError:
            return False
        store_loaded(self._open_writer(), loaded)
        (kept,) = self._open_writer().execute("SELECT count(*) FROM traces").fetchone()
        self._give_up(before - kept)
        return True

    def _give_up(self, deleted: int) -> None:
        """Log how many traces were deleted: once an hour."""
        self._given_up += deleted
        now = time.monotonic()
        if not self._given_up or (self._given_up_logged is not None and now < self._given_up_logged + _LOG_INTERVAL):
            return
        _logger.warning(
            "The disk of the local store %s is (almost) full: its %d oldest traces were deleted to store new ones.",
            *(self.path, self._given_up),
        )
        self._given_up, self._given_up_logged = 0, now

    def _write(self, sections: Sequence[EncodedSection]) -> None:
        for attempt in range(_MOST_MOVES):
            # Other processes may be about to change to a new log, too.
            time.sleep(attempt * _PAUSE)
            try:
                connection = self._open_writer()
            except FileMoved:
                continue
            try:
                with self._alone_if_log_is_new():
                    self._write_once(connection, sections)
            except FileMoved:
                continue
            except sqlite3.DatabaseError as error:
                # Reading from a log that was replaced fails, or seems to find damage.
                if self._is_in_place() or is_full(error) == "full":
                    raise
                continue
            # If it was moved during the transaction, nobody else may see the spans. Spans are stored only once.
            if self._is_in_place():
                return
        raise self._moving()

    def _connect(self) -> sqlite3.Connection:
        self._figures = FigureKeeper()
        self._ids.forget()
        return super()._connect()

    def _write_once(self, connection: sqlite3.Connection, sections: Sequence[EncodedSection]) -> None:
        try:
            pruned, grow = self._write_and_prune(connection, sections)
        except BaseException:
            # Nothing was stored.
            self._ids.forget()
            raise
        if pruned and grow:
            shrink_file(connection)
        elif pruned:
            self._give_up(pruned)

    def _write_and_prune(
        self, connection: sqlite3.Connection, sections: Sequence[EncodedSection]
    ) -> tuple[int, bool]:
        """Write spans; return how many traces were deleted, and whether the file may grow."""
        with transaction(connection):
            # Now no other process writes or replaces the log.
            if not self._is_in_place():
                raise FileMoved
            # A newer version may have migrated it since it was opened.
            if is_too_new(connection):
                raise self._too_new()
            grown: set[int] = set()
            for part in split_sections(sections):
                grown |= store_sections(connection, part, self.max_trace_spans, self._ids)
            if not grown:
                return 0, True
            grow = not self._is_disk_short()
            pruned = prune(connection, self.max_traces, self.max_bytes, self.max_age, grow=grow)
            self._figures.note(sum(len(section.facts) for section in sections), grown)
        return pruned, grow

    def work_in_pause(self) -> bool:
        """Compute some of the figures that pages of routes and the map need. Return whether there is more to do.

        Call it while nothing waits to be written. It does nothing before the first write, and raises nothing: whoever
        reads computes what is missing.
        """
        with self._guard:
            try:
                connection = self._writer
                if connection is None or not self._is_in_place():
                    return False
                with transaction(connection):
                    return not is_too_new(connection) and self._is_in_place() and self._figures.work(connection)
            except (sqlite3.DatabaseError, *UNREADABLE):
                # The next write finds out what it is.
                self._close()
                return False

    def _is_disk_short(self) -> bool:
        total, free = self._disk()
        return free < min(DISK_RESERVE, total // 8)

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
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            # SQLite has no checksums, so the content of the tables may be damaged.
            raise StoreError(
                f"The local store {self.path} holds what can't be read ({type(error).__name__}): a part of it is "
                f"damaged. Delete it; it is created again with the next trace.",
                "unusable",
            ) from error

    def services(self) -> list[str]:
        """Return the names of the services that sent spans, sorted."""
        with self._reading() as connection:
            return [] if connection is None else distinct_services(connection)

    def operations(self, service: str) -> list[str]:
        """Return the names of the spans of ``service``, sorted."""
        with self._reading() as connection:
            return [] if connection is None else distinct_operations(connection, encodable(service))

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
            reader = ChunkReader(connection)
            condition = SpanCondition(reader, service, operation, attributes or {}, _deadline())
            connection.create_function("has_span", 2, condition)
            try:
                rows = connection.execute(query, (*values, limit)).fetchall()
            finally:
                condition.check()
            # The last columns are whether the root is stored, and the number of the trace.
            return [summary_of_row(row, None if row[-2] else find_topmost(reader, row[-1], row[0])) for row in rows]

    def trace(self, trace_id: str) -> Trace | None:
        with self._reading() as connection:
            reader = None if connection is None else ChunkReader(connection)
            found = None if reader is None else find_trace(reader, trace_id)
            if reader is None or found is None:
                return None
            heads = reader.heads(found.seq, found.trace_id)
            spans = [reader.span(found.trace_id, head.place) for head in heads[:MOST_SPANS]]
            if len(heads) > MOST_SPANS:
                spans += missing_parents(reader, found.trace_id, spans, heads[MOST_SPANS:])
            return Trace(
                found.trace_id, spans, left_out=max(found.span_count - len(spans), 0), unstored=found.left_out
            )

    def span(self, trace_id: str, span_id: str) -> FoundSpan | None:
        """Return one span, without reading the others; None if there is none."""
        with self._reading() as connection:
            reader = None if connection is None else ChunkReader(connection)
            found = None if reader is None else find_trace(reader, trace_id)
            if reader is None or found is None:
                return None
            span = find_span(reader, found, span_id)
            return None if span is None else FoundSpan(span, found.name, found.start)

    def stream(self, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
        """Return all stored spans, read in slices. If ``grouped``, spans are ordered by resource and scope."""
        with self._reading() as connection:
            reader = None if connection is None else ChunkReader(connection)
            found = None if reader is None else find_trace(reader, trace_id)
            if reader is None or found is None:
                return None
            # Some numbers for each span. The spans themselves are read later, in slices.
            groups: dict[Any, array[int]] = {}
            keys: dict[tuple[int, int], Any] = {}
            for head in reader.heads(found.seq, found.trace_id):
                place = head.place
                key = None
                if grouped:
                    key = keys.get(place[:2])
                    if key is None:
                        section = reader.section(place)
                        key = keys[place[:2]] = repr((section.resource, section.scope))
                groups.setdefault(key, array("q")).extend(place)
        return SpanStream(found.trace_id, found.name, self._slices(found, list(groups.values())), found.left_out)

    def _slices(self, found: TraceRow, groups: list[array[int]]) -> Iterator[Span]:
        """Yield the spans at the given places. Nothing is open while they are consumed."""
        size = len(Place._fields)
        for numbers in groups:
            for begin in range(0, len(numbers), SLICE * size):
                asked = numbers[begin : begin + SLICE * size]
                spans = []
                with self._reading() as connection:
                    there = connection is not None and connection.execute(
                        "SELECT 1 FROM traces WHERE seq = ? AND trace_id = ?", (found.seq, found.trace_id)
                    )
                    if connection is not None and there and there.fetchone():
                        reader = ChunkReader(connection)
                        spans = [
                            reader.span(found.trace_id, Place(*asked[place : place + size]))
                            for place in range(0, len(asked), size)
                        ]
                if not spans:
                    raise StoreError(
                        f"The trace {found.trace_id} left the local store {self.path} while it was read. "
                        f"What came of it is not whole.",
                        "deleted",
                    )
                yield from spans

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
