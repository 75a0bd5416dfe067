"""The local store: a bounded SQLite file that many processes write to and read from at once.

SQLite in WAL mode lets readers and one writer go on at the same time; writers wait for each other
(https://www.sqlite.org/wal.html). The file is a ring: the traces that came first leave first.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
import weakref
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from threading import Lock
from typing import Any, Final, NamedTuple

from django_tracing.semconv.categories import TARGET_KINDS, WORKS, breaker_state, category_of, target_of
from django_tracing.sqlite_file import UNREADABLE, SQLiteFile, identity_of, is_damage, pragma, transaction
from django_tracing.traces.analysis.routes import Part, route_statistics
from django_tracing.traces.model import (
    FARTHEST,
    MOST_SPANS,
    Dependencies,
    Dependency,
    Event,
    FoundSpan,
    Link,
    ReadError,
    RouteStatistics,
    Span,
    SpanStream,
    Trace,
    TraceSummary,
    root_first,
    shallow,
    to_nanoseconds,
    trace_id_prefix,
)

__all__ = ["LocalStore", "StoreError"]

#: Marks the file as ours ("DjTr"), so that no other program's database is ever written to or moved.
APPLICATION_ID: Final = 0x446A5472
#: Goes up when the tables change: older files are brought up to it, those of a newer app are set aside.
VERSION: Final = 3
#: How long a writer waits for the others, in seconds. A batch takes milliseconds.
BUSY_TIMEOUT: Final = 5.0
#: Unused pages are given back when they are more than this share of the file; else the next spans take them.
FREE_SHARE: Final = 0.25

#: Beyond a trace's bound as much more is stored of what holds the others together: roots, and spans that stored ones
#: hang below.
RESERVE: Final = 0.1
#: A download reads as many spans at once: between two slices it holds nothing open.
SLICE: Final = 500
#: More names of services are not listed with a trace.
_MOST_SERVICES: Final = 100

#: How long a question may take, in seconds: somebody waits, and a worker of the site with them.
READING_TIMEOUT: Final = 15.0

_KINDS: Final = frozenset({"internal", "server", "client", "producer", "consumer"})
_STATUSES: Final = frozenset({"unset", "ok", "error"})

_SCHEMA: Final = """
CREATE TABLE traces (
    seq INTEGER PRIMARY KEY,
    trace_id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    service TEXT NOT NULL,
    services TEXT NOT NULL,
    has_root INTEGER NOT NULL,
    root_start INTEGER NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    span_count INTEGER NOT NULL,
    error_count INTEGER NOT NULL,
    left_out INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX traces_by_start ON traces (start);
CREATE TABLE spans (
    trace INTEGER NOT NULL,
    span_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    service TEXT NOT NULL,
    start INTEGER NOT NULL,
    "end" INTEGER NOT NULL,
    status TEXT NOT NULL,
    attributes TEXT NOT NULL,
    resource INTEGER NOT NULL,
    more TEXT NOT NULL,
    work TEXT NOT NULL DEFAULT 'other',
    target_kind TEXT NOT NULL DEFAULT '',
    target TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX spans_by_trace ON spans (trace, span_id);
CREATE INDEX spans_by_operation ON spans (service, name, trace);
CREATE TABLE resources (
    trace INTEGER NOT NULL,
    id INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    PRIMARY KEY (trace, id)
) WITHOUT ROWID;
CREATE TABLE awaited (
    trace INTEGER NOT NULL,
    span_id TEXT NOT NULL,
    PRIMARY KEY (trace, span_id)
) WITHOUT ROWID;
"""

#: What version 1 had not: what pages would else have to read out of every span's attributes.
_TO_VERSION_2: Final = (
    "ALTER TABLE spans ADD COLUMN work TEXT NOT NULL DEFAULT 'other'",
    "ALTER TABLE spans ADD COLUMN target_kind TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE spans ADD COLUMN target TEXT NOT NULL DEFAULT ''",
)

#: What version 2 had not: how many spans were left out, and which would hold together what is stored.
_TO_VERSION_3: Final = (
    "ALTER TABLE traces ADD COLUMN left_out INTEGER NOT NULL DEFAULT 0",
    "CREATE TABLE awaited "
    "(trace INTEGER NOT NULL, span_id TEXT NOT NULL, PRIMARY KEY (trace, span_id)) WITHOUT ROWID",
)

_SUMMARY: Final = 'trace_id, name, service, services, start, "end", span_count, error_count, left_out'
_SPAN: Final = (
    's.span_id, s.parent_id, s.name, s.kind, s.service, s.start, s."end", s.status, s.attributes, s.more, '
    "r.attributes"
)


class StoreError(ReadError):
    """The local store can't be written or read.

    ``reason`` is one of read_only, full, busy, timeout, foreign (the file is another program's database), ambiguous
    and unusable.
    """


class LocalStore(SQLiteFile):
    """The traces in the SQLite file ``path``: at most the ``max_traces`` that came last, in ``max_bytes`` bytes.

    Those that ended more than ``max_age`` seconds ago leave, too, when others come. Of a trace the first
    ``max_trace_spans`` spans that come are stored, and up to a tenth more that hold those together; the rest is
    counted.
    Nothing is opened or created before the first write; reading a file that is not there finds no traces.
    Every method may be called from any thread and process, and raises :class:`StoreError`. What is asked by
    ``search`` and ``trace`` is said in :class:`django_tracing.traces.model.Reader`.
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
        _stores.add(self)

    def _failure(self, message: str, reason: str) -> StoreError:
        return StoreError(message, reason)

    def __repr__(self) -> str:
        return f"LocalStore({str(self.path)!r})"

    def __del__(self) -> None:
        # Without contextlib: at the interpreter's end this module's names may be gone before its objects.
        try:  # noqa: SIM105
            self.close()
        except Exception:
            pass

    def close(self) -> None:
        """Closes the file. The next write opens it again."""
        with self._lock:
            self._close()

    # ----- Writing

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores spans, all or none. Rows are as ``export.local.span_row`` makes them.

        What is no span is left out; a span that is stored already stays as it is.
        """
        prepared = [row for row in map(_prepare, rows) if row is not None]
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
                # Half open, as where the file turned out to be another program's.
                self._close()
                raise

    def _write(self, prepared: list[dict[str, Any]]) -> None:
        connection = self._open_writer()
        with transaction(connection):
            by_trace: dict[str, list[dict[str, Any]]] = {}
            for row in prepared:
                by_trace.setdefault(row["trace_id"], []).append(row)
            for trace_id, members in by_trace.items():
                _store_trace(connection, trace_id, members, self.max_trace_spans)
            pruned = self._prune(connection)
        if pruned:
            _give_back(connection)

    def _prune(self, connection: sqlite3.Connection) -> bool:
        # Traces leave in the order they came, so their numbers have no gaps, and counting needs no scan. It is the
        # order of arrival and not of starts that counts: a clock that runs behind would lose its traces at once.
        first, last = connection.execute(
            "SELECT (SELECT min(seq) FROM traces), (SELECT max(seq) FROM traces)"
        ).fetchone()
        if last is None:
            raise sqlite3.DatabaseError("malformed: no trace is there just after one was written")
        keep_from = last - self.max_traces + 1
        if _used_bytes(connection) > self.max_bytes:
            keep_from = max(keep_from, first + max(1, (last - first) // 10))
        if self.max_age is not None:
            keep_from = max(keep_from, _first_younger(connection, int((time.time() - self.max_age) * 1e9), last))
        if keep_from <= first:
            return False
        for table, column in (("spans", "trace"), ("resources", "trace"), ("awaited", "trace"), ("traces", "seq")):
            connection.execute(f"DELETE FROM {table} WHERE {column} < ?", (keep_from,))  # noqa: S608 - our own names
        return True

    def _open_writer(self) -> sqlite3.Connection:
        # Somebody may have deleted the file, or set it aside, since: what we have open is then nobody's any more.
        if self._writer is not None and self._file != identity_of(self.path):
            self._close()
        if self._writer is None:
            self._make_folder()
            self._file = self._examine()
            self._keep_private(new=self._file is None)
            self._writer = self._connect()
            version = self._create(self._writer)
            if version > VERSION:
                found = self._file
                self._close()
                self._set_aside(f"it has version {version} of the tables, and this is version {VERSION}", found)
                self._keep_private(new=True)
                self._writer = self._connect()
                self._create(self._writer)
            self._file = identity_of(self.path)
        return self._writer

    def _connect(self) -> sqlite3.Connection:
        # The lock sees to it that threads don't meet on one connection.
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            # What a crash of the machine may lose is a few traces, never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, connection: sqlite3.Connection) -> int:
        """Makes the tables where there are none; returns the version of those that are there."""
        # Only before the first table is this heeded.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if not pragma(connection, "application_id"):
            # Of several processes that begin at once, one makes them. In the journal's old mode still, so that the
            # file itself says whose it is.
            with transaction(connection, "EXCLUSIVE"):
                if not pragma(connection, "application_id"):
                    if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                        raise self._foreign()
                    for statement in _SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
        if pragma(connection, "user_version") < VERSION:
            with transaction(connection, "IMMEDIATE"):
                if pragma(connection, "user_version") < VERSION:
                    _bring_up_to_date(connection)
        # While another process reads, this may be refused; then the next that opens the file does it.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
        return pragma(connection, "user_version")

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
            f"The local store {self.path} can't be used ({text}). It is begun anew with the next trace; "
            f"if that does not help, delete it.",
            "unusable",
        )

    # ----- Reading

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection with one consistent view of the file; None where there is none yet.

        It lives for one question only: readers are people, and nothing is left open in their threads.
        """
        try:
            if self._examine() is None:
                yield None
                return
            # Unlike a plain path, this creates no file.
            address = f"{self.path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(address, timeout=BUSY_TIMEOUT, uri=True)) as connection:
                # One of another version is brought up to date by the next write, an empty one filled.
                if pragma(connection, "user_version") != VERSION:
                    yield None
                    return
                connection.execute("BEGIN")
                deadline = time.monotonic() + READING_TIMEOUT
                connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
                yield connection
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            # SQLite has no checksums: damage may be in what is written in the tables.
            raise StoreError(
                f"The local store {self.path} holds what can't be read ({type(error).__name__}): a part of it is "
                f"damaged. Delete it; it is begun anew with the next trace.",
                "unusable",
            ) from error

    def services(self) -> list[str]:
        """Names of the services that sent spans, sorted."""
        with self._reading() as connection:
            return [] if connection is None else _distinct(connection, "service", "")

    def operations(self, service: str) -> list[str]:
        """Names of the spans of ``service``, sorted."""
        with self._reading() as connection:
            return [] if connection is None else _distinct(connection, "name", "service = ? AND ", _text(service))

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
        where: list[str] = []
        values: list[Any] = []

        def ask(condition: str, *given: Any) -> None:
            where.append(condition)
            values.extend(given)

        if start is not None:
            ask("t.start >= ?", to_nanoseconds(start))
        if end is not None:
            ask("t.start <= ?", to_nanoseconds(end))
        if min_duration is not None:
            ask('t."end" - t.start >= ?', to_nanoseconds(min_duration))
        if max_duration is not None:
            ask('t."end" - t.start <= ?', to_nanoseconds(max_duration))
        if errors:
            ask("t.error_count > 0")
        if before is not None:
            # A number that its column can't hold is later than all.
            ask("(t.start, t.trace_id) < (?, ?)", min(before[0], 2**63 - 1), _text(before[1]))
        of_one_span: list[str] = []
        if service is not None:
            of_one_span.append("s.service = ?")
            values.append(_text(service))
        if operation is not None:
            of_one_span.append("s.name = ?")
            values.append(_text(operation))
        for key, text in (attributes or {}).items():
            if (key, text) == ("error", "true"):
                of_one_span.append("s.status = 'error'")
                continue
            # Looking for what it would be written as first spares most spans the parsing.
            of_one_span.append(
                "(instr(s.attributes, ?) OR instr(s.attributes, ?)) AND has_attribute(s.attributes, ?, ?)"
            )
            written, text = json.dumps(key), _text(text)
            values.extend((f"{written}:{json.dumps(text)}", f"{written}:{text}", _text(key), text))
        if of_one_span:
            conditions = " AND ".join(of_one_span)
            where.append(f"EXISTS (SELECT 1 FROM spans s WHERE s.trace = t.seq AND {conditions})")  # noqa: S608
        query = (
            f"SELECT {_SUMMARY} FROM traces t {'WHERE ' + ' AND '.join(where) if where else ''} "  # noqa: S608
            "ORDER BY t.start DESC, t.trace_id DESC LIMIT ?"
        )
        with self._reading() as connection:
            if connection is None:
                return []
            connection.create_function("has_attribute", 3, _has_attribute, deterministic=True)
            return [_summary(row) for row in connection.execute(query, (*values, limit))]

    def trace(self, trace_id: str) -> Trace | None:
        with self._reading() as connection:
            found = None if connection is None else _find(connection, trace_id)
            if connection is None or found is None:
                return None
            resources = _Resources()
            rows = connection.execute(
                f"SELECT {_SPAN} FROM "  # noqa: S608 - our own names
                f"(SELECT rowid AS number FROM spans WHERE trace = ? ORDER BY {_EARLIEST} LIMIT ?) "
                f"JOIN spans s ON s.rowid = number {_RESOURCE}",
                (found.seq, MOST_SPANS),
            )
            spans = [_span(found.trace_id, row, resources) for row in rows]
            if len(spans) < found.span_count - found.left_out:
                spans += _parents(connection, found, spans, resources)
            return Trace(
                found.trace_id, spans, left_out=max(found.span_count - len(spans), 0), unstored=found.left_out
            )

    def span(self, trace_id: str, span_id: str) -> FoundSpan | None:
        """One span, of which no other is read; None if there is none."""
        with self._reading() as connection:
            found = None if connection is None else _find(connection, trace_id)
            if connection is None or found is None:
                return None
            row = _row(connection, found.seq, _text(span_id))
            if row is None:
                return None
            return FoundSpan(_span(found.trace_id, row, _Resources()), found.name, found.start)

    def stream(self, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
        """All stored spans, in slices; ``grouped``: those of one resource and scope follow each other."""
        with self._reading() as connection:
            found = None if connection is None else _find(connection, trace_id)
            if connection is None or found is None:
                return None
            # Eight bytes for each span. The spans themselves are read when they are asked for.
            groups: dict[Any, array[int]] = {}
            rows = connection.execute(
                f"SELECT rowid, {'resource, service, more' if grouped else '0, 0, 0'} FROM spans "  # noqa: S608
                f"WHERE trace = ? ORDER BY {_EARLIEST}",
                (found.seq,),
            )
            for number, resource, service, more in rows:
                key = (resource, service, json.loads(more).get("scope", "")) if grouped else None
                groups.setdefault(key, array("q")).append(number)
        return SpanStream(found.trace_id, found.name, self._slices(found, list(groups.values())), found.left_out)

    def _slices(self, found: _Found, groups: list[array[int]]) -> Iterator[Span]:
        """The spans whose numbers are given. Nothing is left open while somebody slow takes them."""
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
                        resources = _Resources()
                        rows = {
                            number: _span(found.trace_id, row, resources)
                            for number, *row in connection.execute(
                                f"SELECT s.rowid, {_SPAN} FROM spans s {_RESOURCE} "  # noqa: S608 - our own names
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
        within, values = _within(start, end)
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT t.trace_id, s.span_id, s.parent_id, s.service, s.name, s.kind, s.start, "  # noqa: S608
                f"s.\"end\", s.status = 'error', s.work FROM traces t JOIN spans s ON s.trace = t.seq WHERE {within} "
                "ORDER BY t.seq",
                values,
            )
            grouped = groupby(rows, key=itemgetter(0))
            found = route_statistics(((key, [Part(*row[1:]) for row in parts]) for key, parts in grouped), service)
            _one_of(WORKS, *(work for route in found for work in route.time_by_work))
            return found

    def dependencies(self, *, start: float | None = None, end: float | None = None) -> Dependencies:
        within, values = _within(start, end)
        with self._reading() as connection:
            if connection is None:
                return Dependencies([])
            links = [
                Dependency(caller, callee, "service", calls, errors, calls)
                for caller, callee, calls, errors in connection.execute(_CALLS.format(within=within), values)
            ]
            for caller, kind, callee, calls, errors in connection.execute(_TARGETS.format(within=within), values):
                _one_of(TARGET_KINDS, kind)
                state = _state(connection, callee) if kind == "breaker" else ""
                links.append(Dependency(caller, callee, kind, calls, errors, calls, state))
            return Dependencies(sorted(links, key=lambda link: (link.caller, link.kind, link.callee)))

    def describe(self) -> str:
        """The file's path."""
        return str(self.path)

    def trace_link(self, trace_id: str) -> str | None:
        """None: a file has no UI of its own."""
        return None


class _Found(NamedTuple):
    """A trace's line."""

    seq: int
    trace_id: str
    name: str
    start: int
    span_count: int
    left_out: int


#: The order of spans in a trace: as ``Trace`` sorts them.
_EARLIEST: Final = "start, parent_id <> '', \"end\" DESC, rowid"
_RESOURCE: Final = "LEFT JOIN resources r ON r.trace = s.trace AND r.id = s.resource"


def _find(connection: sqlite3.Connection, trace_id: str) -> _Found | None:
    """The trace whose id is, or alone begins with, ``trace_id``."""
    prefix = trace_id_prefix(trace_id)
    found = connection.execute(
        "SELECT seq, trace_id, name, start, span_count, left_out FROM traces "
        "WHERE trace_id >= ? AND trace_id < ? LIMIT 2",
        (prefix, prefix + "g"),
    ).fetchall()
    if len(found) > 1:
        raise StoreError(f"Several traces begin with {prefix}. Give more of the id.", "ambiguous")
    return _Found(*found[0]) if found else None


def _row(connection: sqlite3.Connection, seq: int, span_id: str) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = connection.execute(
        f"SELECT {_SPAN} FROM spans s {_RESOURCE} WHERE s.trace = ? AND s.span_id = ?",  # noqa: S608 - our own names
        (seq, span_id),
    ).fetchone()
    return row


def _parents(
    connection: sqlite3.Connection, found: _Found, spans: Sequence[Span], resources: _Resources
) -> list[Span]:
    """What ``spans`` hang below and is not among them: clocks of other machines may have it begin later."""
    known = {span.span_id for span in spans}
    wanted = list(dict.fromkeys(span.parent_id for span in spans if span.parent_id not in known))
    more: list[Span] = []
    while wanted and len(more) < MOST_SPANS * RESERVE:
        span_id = wanted.pop()
        row = _row(connection, found.seq, span_id) if span_id and span_id not in known else None
        known.add(span_id)
        if row is not None:
            span = _span(found.trace_id, row, resources)
            more.append(span)
            wanted.append(span.parent_id)
    return more


#: Spans whose parent is another service's.
_CALLS: Final = """
SELECT p.service, c.service, count(*), sum(c.status = 'error')
FROM traces t JOIN spans c ON c.trace = t.seq JOIN spans p ON p.trace = c.trace AND p.span_id = c.parent_id
WHERE {within} AND c.parent_id <> '' AND p.service <> c.service
GROUP BY p.service, c.service
"""
#: What services call that is not traced itself: a call below which another service's span hangs, or one that
#: answers it, is none of these.
_TARGETS: Final = """
SELECT s.service, s.target_kind, s.target, count(*), sum(s.status = 'error')
FROM traces t JOIN spans s ON s.trace = t.seq
WHERE {within} AND s.target <> '' AND NOT (s.target_kind = 'external' AND EXISTS (
    SELECT 1 FROM spans c WHERE c.trace = s.trace AND c.parent_id = s.span_id
    AND (c.service <> s.service OR c.kind IN ('server', 'consumer'))))
GROUP BY s.service, s.target_kind, s.target
"""


# ----- Over a fork

#: SQLite forbids to carry a connection over a fork, even to close it there
#: (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_).
_stores: Final[weakref.WeakSet[LocalStore]] = weakref.WeakSet()
_held: list[LocalStore] = []
_inherited: list[sqlite3.Connection] = []


def _before_fork() -> None:
    for store in list(_stores):
        # A writer that takes longer than this is not worth holding up the fork.
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


def _within(start: float | None, end: float | None) -> tuple[str, list[int]]:
    """A condition on when traces began, and its values."""
    conditions = ["1"]
    values = []
    for sign, bound in ((">=", start), ("<=", end)):
        if bound is not None:
            conditions.append(f"t.start {sign} ?")
            values.append(to_nanoseconds(bound))
    return " AND ".join(conditions), values


def _state(connection: sqlite3.Connection, breaker: str) -> str:
    """A breaker's state when it was last asked."""
    for (attributes,) in connection.execute(
        "SELECT attributes FROM spans WHERE target_kind = 'breaker' AND target = ? ORDER BY start DESC LIMIT 1",
        (breaker,),
    ):
        return breaker_state(json.loads(attributes))
    return ""


def _first_younger(connection: sqlite3.Connection, since: int, last: int) -> int:
    """The number of the first trace that ended after ``since``: never beyond the newest, a few hundred at a time."""
    number = 0
    for number, end in connection.execute('SELECT seq, "end" FROM traces ORDER BY seq LIMIT 500'):  # noqa: B007
        if end >= since:
            break
    return min(number, last)


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """From versions 1 and 2."""
    if pragma(connection, "user_version") == 1:
        for statement in _TO_VERSION_2:
            connection.execute(statement)
        connection.create_function("described", 3, _described_again, deterministic=True)
        connection.execute(
            "UPDATE spans SET work = described(kind, attributes, 0), "
            "target_kind = described(kind, attributes, 1), target = described(kind, attributes, 2)"
        )
    for statement in _TO_VERSION_3:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _described_again(kind: str, attributes: str, number: int) -> str:
    return _described(kind, json.loads(attributes), {})[number]


def _described(kind: str, attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> tuple[str, str, str]:
    target = target_of(kind, attributes)
    return category_of(kind, attributes, resource), *(
        ("", "") if target is None else (target.kind, _text(target.name))
    )


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * pragma(connection, "page_size")


def _give_back(connection: sqlite3.Connection) -> None:
    free = pragma(connection, "freelist_count")
    if free > FREE_SHARE * pragma(connection, "page_count"):
        # Not execute(): early versions of Python 3.11 take one step of it, and each step frees one page.
        connection.executescript(f"PRAGMA incremental_vacuum({free // 2})")


# ----- Rows


def _text(value: Any) -> str:
    # A lone surrogate (an undecodable byte of a path) must cost itself, not the batch.
    return str(value).encode("utf-8", "replace").decode("utf-8")


_dump: Final = json.JSONEncoder(default=str, separators=(",", ":")).encode


def _prepare(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The columns of a span; None for what is no span."""
    try:
        kind, status = row.get("kind"), row.get("status")
        kind = kind if kind in _KINDS else "internal"
        attributes, resource = row.get("attributes") or {}, row.get("resource") or {}
        start, end = int(row["start"]), int(row["end"])
        if not -FARTHEST < start < FARTHEST > end:
            return None
        return {
            "trace_id": f"{int(row['trace_id'], 16):032x}",
            "span_id": f"{int(row['span_id'], 16):016x}",
            "parent_id": f"{int(row['parent_id'], 16):016x}" if row.get("parent_id") else "",
            "name": _text(row.get("name", "")),
            "kind": kind,
            "service": _text(row.get("service", "")),
            "start": start,
            "end": max(end, start),
            "status": status if status in _STATUSES else "unset",
            "attributes": _dump(attributes),
            "resource": _dump(resource),
            "described": _described(kind, attributes, resource),
            "more": _dump(
                {
                    key: row[key]
                    for key in ("status_message", "events", "links", "scope", "trace_state")
                    if row.get(key)
                }
            ),
        }
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def _store_trace(connection: sqlite3.Connection, trace_id: str, rows: list[dict[str, Any]], most: int) -> None:
    """Stores spans of one trace, and brings its line up to date. What is stored already is not read again."""
    known = connection.execute(
        'SELECT seq, name, service, services, has_root, root_start, start, "end", span_count, error_count, left_out '
        "FROM traces WHERE trace_id = ?",
        (trace_id,),
    ).fetchone()
    if known is None:
        seq = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM traces").fetchone()[0]
        name, service, has_root, root_start, count, errors, left_out = "", "", 0, None, 0, 0, 0
        start, end = rows[0]["start"], rows[0]["end"]
        services: dict[str, None] = {}
    else:
        seq, name, service, listed, has_root, root_start, start, end, count, errors, left_out = known
        services = dict.fromkeys(json.loads(listed))
    # Few resources send many spans.
    resources: dict[str, int] = {}
    for row in rows:
        stored = count - left_out
        if stored < most or (
            stored < most + max(int(most * RESERVE), 1)
            and _holds_together(connection, seq, row, stored == most and not left_out)
        ):
            resource = resources.get(row["resource"])
            if resource is None:
                digest = hashlib.blake2b(row["resource"].encode(), digest_size=8).digest()
                resource = resources[row["resource"]] = int.from_bytes(digest, "big", signed=True)
                connection.execute(
                    "INSERT OR IGNORE INTO resources VALUES (?, ?, ?)", (seq, resource, row["resource"])
                )
            if not _store_span(connection, seq, row, resource):
                continue
        elif _is_stored(connection, seq, row["span_id"]):
            continue
        else:
            left_out += 1
        count += 1
        errors += row["status"] == "error"
        start, end = min(start, row["start"]), max(end, row["end"])
        if len(services) < _MOST_SERVICES:
            services[row["service"]] = None
        # Until the span without a parent arrives (it ends last), the earliest stands for the trace.
        is_root = not row["parent_id"]
        if root_start is None or (is_root, -row["start"]) > (bool(has_root), -root_start):
            name, service, has_root, root_start = row["name"], row["service"], int(is_root), row["start"]
    connection.execute(
        "INSERT OR REPLACE INTO traces VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(seq, trace_id, name, service, _dump(list(services)), has_root, root_start, start, end),
            *(count, errors, left_out),
        ),
    )


def _store_span(connection: sqlite3.Connection, seq: int, row: dict[str, Any], resource: int) -> bool:
    """Whether the span was not there yet."""
    return bool(
        connection.execute(
            "INSERT OR IGNORE INTO spans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                seq,
                row["span_id"],
                row["parent_id"],
                row["name"],
                row["kind"],
                row["service"],
                row["start"],
                row["end"],
                row["status"],
                row["attributes"],
                resource,
                row["more"],
                *row["described"],
            ),
        ).rowcount
    )


def _is_stored(connection: sqlite3.Connection, seq: int, span_id: str) -> bool:
    found = connection.execute("SELECT 1 FROM spans WHERE trace = ? AND span_id = ?", (seq, span_id)).fetchone()
    return found is not None


def _holds_together(connection: sqlite3.Connection, seq: int, row: dict[str, Any], first: bool) -> bool:
    """Whether stored spans hang below this one: spans end, and come, before those that called them.

    ``first``: it is the first one beyond the bound, so that which spans are awaited is looked up once.
    """
    if first:
        connection.execute(
            "INSERT OR IGNORE INTO awaited SELECT DISTINCT s.trace, s.parent_id FROM spans s "
            "WHERE s.trace = ? AND s.parent_id <> '' AND NOT EXISTS "
            "(SELECT 1 FROM spans p WHERE p.trace = s.trace AND p.span_id = s.parent_id)",
            (seq,),
        )
    awaited = connection.execute(
        "DELETE FROM awaited WHERE trace = ? AND span_id = ?", (seq, row["span_id"])
    ).rowcount
    if awaited and row["parent_id"] and not _is_stored(connection, seq, row["parent_id"]):
        connection.execute("INSERT OR IGNORE INTO awaited VALUES (?, ?)", (seq, row["parent_id"]))
    return bool(awaited) or not row["parent_id"]


def _has_attribute(attributes: str, key: str, text: str) -> bool:
    value = json.loads(attributes).get(key)
    return value is not None and (value if isinstance(value, str) else _dump(value)) == text


def _distinct(connection: sqlite3.Connection, column: str, condition: str, *values: str) -> list[str]:
    """The different values of ``column``, hopping through the index instead of reading all of it."""
    query = f"SELECT min({column}) FROM spans WHERE {condition}{column} > ?"  # noqa: S608 - our own names
    found: list[str] = []
    while True:
        (value,) = connection.execute(query, (*values, found[-1] if found else "")).fetchone()
        if value is None:
            return found
        found.append(value)


def _summary(row: tuple[Any, ...]) -> TraceSummary:
    trace_id, name, service, services, start, end, span_count, error_count, left_out = row
    return TraceSummary(
        trace_id=trace_id,
        name=name,
        service=service,
        services=root_first(service, json.loads(services)),
        start=start,
        duration=end - start,
        span_count=span_count,
        error_count=error_count,
        left_out=left_out,
    )


def _one_of(known: Collection[Any], *found: Any) -> None:
    """Raises LookupError for a word that was never written there."""
    if not set(found) <= set(known):
        raise LookupError("an unknown word")


class _Resources:
    """Resources as they are read, each once: many spans have the same."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}

    def __getitem__(self, text: str | None) -> dict[str, Any]:
        found = self._known.get(text or "{}")
        if found is None:
            found = self._known[text or "{}"] = _attributes(json.loads(text or "{}"))
        return found


def _attributes(found: dict[str, Any]) -> dict[str, Any]:
    """``found`` with no value so deep that a function that meets it runs out of Python's stack."""
    return {key: shallow(value) for key, value in found.items()}


def _span(trace_id: str, row: tuple[Any, ...], resources: _Resources) -> Span:
    span_id, parent_id, name, kind, service, start, end, status, attributes, more, resource = row
    rest = json.loads(more)
    _one_of(_KINDS, kind)
    _one_of(_STATUSES, status)
    return Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent_id,
        name=name,
        kind=kind,
        service=service,
        start=start,
        end=end,
        status=status,
        status_message=rest.get("status_message", ""),
        attributes=_attributes(json.loads(attributes)),
        events=[
            Event(event["name"], event["time"], _attributes(event["attributes"])) for event in rest.get("events", ())
        ],
        links=[
            Link(link["trace_id"], link["span_id"], _attributes(link["attributes"])) for link in rest.get("links", ())
        ],
        resource=resources[resource],
        scope=rest.get("scope", ""),
    )
