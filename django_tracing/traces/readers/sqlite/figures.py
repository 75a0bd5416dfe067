"""Keep what the statistics and the service map need of each trace in one small row.

A row belongs to the number of spans that its trace had. Spans are only added to a trace, so the row of a trace that
has more spans now is out of date, whoever wrote them: a later write computes it again, and until then whoever reads
the figures computes them from the spans. Nothing else depends on these rows.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, Final

from django_tracing.semconv.categories import TARGET_KINDS, WORKS, breaker_state
from django_tracing.sqlite_file import is_damage
from django_tracing.traces.analysis.dependencies import TraceLinks, merge_links, trace_links
from django_tracing.traces.analysis.routes import Part, TraceRoute, merge_routes, trace_routes
from django_tracing.traces.model import Dependency, RouteStatistics
from django_tracing.traces.readers.sqlite.chunks import ChunkReader
from django_tracing.traces.readers.sqlite.rows import check_known, check_trace_id, describe, dump_json
from django_tracing.traces.readers.sqlite.writing import first_and_last
from django_tracing.traces.times import to_nanoseconds
from django_tracing.traces.values import parse_json

__all__ = ["FigureKeeper", "link_figures", "route_figures"]

_STORE: Final = "INSERT OR REPLACE INTO figures (trace, span_count, routes, links, breakers) VALUES (?, ?, ?, ?, ?)"
#: What figures of spans with values of wrong types may raise: the file may be damaged, or changed by other programs.
_UNUSABLE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
#: Above all sums of nanoseconds, and small enough to be converted to a float.
_MOST: Final = 2**100
#: The types of what :class:`TraceRoute` and :class:`TraceLinks` consist of.
_ROUTE: Final = (str, str, int, list, dict)
_LINK: Final = (str, str, str, int, int)
_BREAKER: Final = (str, int, int, str)
_LINK_KINDS: Final = frozenset({"service", *TARGET_KINDS})


# ----- Writing


def _encoded(routes: list[TraceRoute], links: TraceLinks) -> tuple[str, str, str]:
    # Most traces have no circuit breaker, and the links of many traces are the same text.
    return dump_json(routes), dump_json(links.links), dump_json(links.breakers) if links.breakers else ""


class FigureKeeper:
    """Computes the figures of traces to which spans were added, in pauses between writes.

    Reading their spans costs a share of what was written, so that a trace which grows for hours, or a file that
    another process filled, takes no process much time.
    """

    #: So many spans may be read before any is written.
    MOST_SPANS: Final = 1_000_000
    #: After so many, the next trace waits for the next step.
    SLICE: Final = 200
    #: So many spans may be read for each that is written.
    SHARE: Final = 2
    #: So many traces are examined at once: the latest, and as many of the others in turn.
    WINDOW: Final = 300
    #: So often in one step.
    WINDOWS: Final = 20

    def __init__(self) -> None:
        self._credit = self.MOST_SPANS
        self._grown: Collection[int] = ()
        self._next: int | None = None
        self._unreadable: set[int] = set()

    def note(self, written: int, grown: Collection[int]) -> None:
        """Note that ``written`` spans were stored. Those of ``grown`` traces may grow again soon."""
        self._credit = min(self._credit + self.SHARE * written, self.MOST_SPANS)
        self._grown = grown

    def work(self, connection: sqlite3.Connection) -> bool:
        """Compute and store some figures. Return whether there were any: then there may be more."""
        reader = ChunkReader(connection)
        rows: list[tuple[Any, ...]] = []
        read = 0
        with closing(self._windows(connection)) as windows:
            for seq, span_count, trace_id in chain.from_iterable(windows):
                if seq in self._grown or seq in self._unreadable:
                    continue
                if span_count > self._credit and self._credit < self.MOST_SPANS:
                    continue
                try:
                    check_trace_id(trace_id)
                    parts = _parts(reader, seq, trace_id)
                    # Not span_count, which may be any number in a damaged file.
                    read += len(parts)
                    self._credit -= len(parts)
                    rows.append((seq, span_count, *_encoded(*_computed(parts))))
                except (*_UNUSABLE, sqlite3.DatabaseError) as error:
                    if isinstance(error, sqlite3.DatabaseError) and not is_damage(error):
                        raise
                    # Whoever reads it gets the error. The spans that are written are not lost because of it.
                    if len(self._unreadable) < self.WINDOW:
                        self._unreadable.add(seq)
                if read >= self.SLICE:
                    break
                # Requests go on.
                time.sleep(0)
        connection.executemany(_STORE, rows)
        return bool(rows)

    def _windows(self, connection: sqlite3.Connection) -> Generator[list[tuple[int, int, str]], None, None]:
        """Yield traces whose figures are out of date, with the numbers of their spans: the latest, then some others.

        The others are examined in turn. A window is left when all of it was consumed.
        """
        first, last = first_and_last(connection)
        if last is None:
            return
        latest = last - self.WINDOW
        yield _outdated_between(connection, latest + 1, last)
        for _ in range(self.WINDOWS):
            above = latest if self._next is None else min(self._next, latest)
            if above < first:
                self._next = None
                return
            self._next = above
            yield _outdated_between(connection, above - self.WINDOW + 1, above)
            self._next = above - self.WINDOW


def _outdated_between(connection: sqlite3.Connection, first: int, last: int) -> list[tuple[int, int, str]]:
    return connection.execute(
        "SELECT t.seq, t.span_count, t.trace_id FROM traces t LEFT JOIN figures f ON f.trace = t.seq "
        "WHERE t.seq BETWEEN ? AND ? AND f.span_count IS NOT t.span_count AND typeof(t.span_count) = 'integer' "
        "ORDER BY t.seq DESC",
        (first, last),
    ).fetchall()


def _parts(reader: ChunkReader, seq: int, trace_id: str) -> list[Part]:
    parts = []
    for place in reader.places(seq, trace_id):
        span = reader.span(trace_id, place)
        work, target_kind, target = describe(span.kind, span.attributes, span.resource)
        parts.append(
            Part(
                *(span.span_id, span.parent_id, span.service, span.name, span.kind, span.start, span.end),
                *(span.failed, work, target_kind, target),
                breaker_state(span.attributes) if target_kind == "breaker" else "",
            )
        )
    return parts


def _computed(parts: Sequence[Part]) -> tuple[list[TraceRoute], TraceLinks]:
    """Compute the figures of a trace from its spans. Raise one of ``_UNUSABLE`` if they are damaged."""
    routes, links = trace_routes(parts), trace_links(parts)
    if not (_are_routes(routes) and _are_links(links.links, links.breakers)):
        raise ValueError("spans with values of wrong types")
    return routes, links


# ----- Reading


def route_figures(
    connection: sqlite3.Connection, service: str | None, start: float | None, end: float | None, deadline: float
) -> list[RouteStatistics]:
    """Return the statistics by route of the traces that started from ``start`` to ``end``."""

    reader = ChunkReader(connection)

    def traces() -> Iterator[tuple[str, Sequence[TraceRoute]]]:
        for seq, trace_id, *stored in _read(connection, ("routes",), start, end):
            check_trace_id(trace_id)
            found = _parsed_routes(stored[0]) if stored else None
            yield trace_id, _within(deadline, reader, seq, trace_id)[0] if found is None else found

    found = merge_routes(traces(), service)
    check_known(WORKS, *(work for route in found for work in route.time_by_work))
    return found


def link_figures(
    connection: sqlite3.Connection, start: float | None, end: float | None, deadline: float
) -> list[Dependency]:
    """Return the calls in the traces that started from ``start`` to ``end``, sorted by caller, kind and callee."""
    # The figures of many traces are the same text, which is parsed once.
    alike: dict[tuple[Any, ...], TraceLinks | None] = {}
    counted: Counter[tuple[Any, ...]] = Counter()
    found = []
    reader = ChunkReader(connection)
    for seq, trace_id, *stored in _read(connection, ("links", "breakers"), start, end):
        key = tuple(stored)
        if key not in alike:
            alike[key] = _parsed_links(*key) if key else None
        if alike[key] is None:
            check_trace_id(trace_id)
            found.append(_within(deadline, reader, seq, trace_id)[1])
        else:
            counted[key] += 1
    found += [links._replace(traces=counted[key]) for key, links in alike.items() if links is not None]
    merged = merge_links(found)
    check_known(_LINK_KINDS, *(link.kind for link in merged))
    return sorted(merged, key=lambda link: (link.caller, link.kind, link.callee))


def _read(
    connection: sqlite3.Connection, columns: Sequence[str], start: float | None, end: float | None
) -> Iterator[tuple[Any, ...]]:
    """Yield the number and the id of each trace, and ``columns`` of its figures unless they are out of date."""
    within, values = _time_condition(start, end)
    # As bytes: a text that can't be decoded would be an error of the whole query.
    read = ", ".join(f"CAST(f.{column} AS BLOB)" for column in columns)
    for seq, trace_id, current, *stored in connection.execute(
        f"SELECT t.seq, t.trace_id, f.span_count = t.span_count, {read} FROM traces t "  # noqa: S608 - our own names
        f"LEFT JOIN figures f ON f.trace = t.seq WHERE {within} ORDER BY t.seq",
        values,
    ):
        yield (seq, trace_id, *stored) if current else (seq, trace_id)


def _time_condition(start: float | None, end: float | None) -> tuple[str, list[int]]:
    """Return an SQL condition on the start of traces, and its parameters."""
    conditions = ["1"]
    values = []
    for sign, bound in ((">=", start), ("<=", end)):
        if bound is not None:
            conditions.append(f"t.start {sign} ?")
            values.append(to_nanoseconds(bound))
    return " AND ".join(conditions), values


def _within(deadline: float, reader: ChunkReader, seq: int, trace_id: str) -> tuple[list[TraceRoute], TraceLinks]:
    """Compute the figures of a trace, unless the time for reading is over."""
    if time.monotonic() > deadline:
        # As if SQLite's progress handler had stopped the query.
        raise sqlite3.OperationalError("interrupted")
    return _computed(_parts(reader, seq, trace_id))


# ----- Rows of figures that another program changed: the spans have the figures, too


def _parsed(stored: Any) -> Any:
    """Return what is stored as JSON; None if it is damaged."""
    try:
        return parse_json(stored.decode())
    except (AttributeError, RecursionError, ValueError):
        return None


def _parsed_routes(stored: Any) -> Sequence[TraceRoute] | None:
    """Return the routes of a row; None if it is damaged."""
    found = _parsed(stored)
    return found if _are_routes(found) else None


def _parsed_links(links: Any, breakers: Any) -> TraceLinks | None:
    """Return the links and the circuit breakers of a row; None if it is damaged."""
    found = TraceLinks(_parsed(links), _parsed(breakers) if breakers else [])
    return found if _are_links(found.links, found.breakers) else None


def _are_routes(found: Any) -> bool:
    if not _are_rows(found, _ROUTE):
        return False
    for _service, _name, errors, durations, times in found:
        if not durations or not _are_numbers((errors, *durations, *times.values())):
            return False
    return True


def _are_links(links: Any, breakers: Any) -> bool:
    return (
        _are_rows(links, _LINK)
        and _are_rows(breakers, _BREAKER)
        and all(_are_numbers(link[3:]) for link in links)
        # The latest call determines the state.
        and {callee for _caller, kind, callee, *_ in links if kind == "breaker"} <= {row[0] for row in breakers}
    )


def _are_rows(found: Any, types: tuple[type, ...]) -> bool:
    return found.__class__ is list and all(
        isinstance(row, (list, tuple)) and tuple(map(type, row)) == types for row in found
    )


def _are_numbers(found: Sequence[Any]) -> bool:
    return {*map(type, found)} == {int} and min(found) >= 0 and max(found) < _MOST
