"""Read the chunks of the local store: the spans of one write, as OTLP encodes them, compressed.

A chunk is an ``ExportTraceServiceRequest`` with spans of several traces, so those of one are found by its id.
A file may be damaged or changed by other programs: whatever can't be read raises ValueError.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from django_tracing.caches import make_room
from django_tracing.protobuf import read_fields, read_key_value
from django_tracing.semconv.otlp import KIND_NUMBERS, STATUS_NUMBERS
from django_tracing.traces.model import Event, Link, Span
from django_tracing.traces.times import FARTHEST
from django_tracing.traces.values import shallow

__all__ = ["MOST_BYTES", "Chunk", "ChunkReader", "Head", "Place"]

#: A larger message is not read: a damaged file must not use up memory.
MOST_BYTES: Final = 64 * 1024 * 1024
#: How many bytes of decompressed chunks are kept, beside the latest one: the next trace is mostly in the same.
_KEPT_BYTES: Final = 1024 * 1024
#: How many decoded attributes are kept, and up to which length: most are those of many spans.
_KEPT_ATTRIBUTES: Final = 8192
_KEPT_LENGTH: Final = 256
_KINDS: Final[Mapping[int, Any]] = {number: kind for kind, number in KIND_NUMBERS.items()}
_STATUSES: Final[Mapping[int, Any]] = {number: status for status, number in STATUS_NUMBERS.items()}
_fixed64: Final = struct.Struct("<Q")
_SCALARS: Final = frozenset({str, int, float, bool})


class Place(NamedTuple):
    """Where a span is: in which chunk, in which of its sections, and from which byte to which."""

    chunk: int
    section: int
    start: int
    end: int


class Head(NamedTuple):
    """What is read of a span without its attributes. Sorted, heads are in the order in which ``Trace`` has spans."""

    start: int
    has_parent: bool
    minus_end: int
    place: Place


class _Section(NamedTuple):
    resource: dict[str, Any]
    service: str
    scope: str


#: Of each trace, by its id, the section of each span, and the bytes from which and to which it goes.
Places = dict[bytes, list[tuple[int, int, int]]]


class Chunk:
    """One decompressed chunk."""

    def __init__(self, blob: bytes) -> None:
        decompressor = zlib.decompressobj()
        try:
            self.data = decompressor.decompress(blob, MOST_BYTES)
        except (TypeError, zlib.error) as error:
            raise ValueError("a chunk is damaged") from error
        if not decompressor.eof:
            raise ValueError("a chunk is cut, or too large")
        self._content: tuple[list[_Section], Places] | None = None

    @property
    def sections(self) -> list[_Section]:
        return self._read()[0]

    @property
    def places(self) -> Places:
        """Where the spans of each trace are, by its id."""
        return self._read()[1]

    def _read(self) -> tuple[list[_Section], Places]:
        # When it is needed: a search for what the chunk does not contain needs none of it. As a whole: a chunk that
        # can't be read must not seem to have fewer spans the next time.
        if self._content is None:
            sections: list[_Section] = []
            places: Places = {}
            for tag, content, after in read_fields(self.data, 0, len(self.data)):
                if tag == 0x0A:
                    _read_resource_spans(self.data, content, after, sections, places)
            self._content = sections, places
        return self._content


def _read_resource_spans(data: bytes, at: int, end: int, sections: list[_Section], places: Places) -> None:
    resource: dict[str, Any] = {}
    for tag, content, after in read_fields(data, at, end):
        if tag == 0x0A:
            resource = _attributes(data, content, after, 0x0A)
        elif tag == 0x12:
            scope = _read_scope_spans(data, content, after, len(sections), places)
            sections.append(_Section(resource, str(resource.get("service.name", "")), scope))


def _read_scope_spans(data: bytes, at: int, end: int, section: int, places: Places) -> str:
    """Add the places of the spans, and return the name of the scope."""
    scope = ""
    for tag, content, after in read_fields(data, at, end):
        if tag == 0x12:
            # The id of the trace comes first.
            if data[content : content + 2] != b"\x0a\x10":
                raise ValueError("a span has no id of its trace")
            places.setdefault(data[content + 2 : content + 18], []).append((section, content, after))
        elif tag == 0x0A:
            for inner, begin, stop in read_fields(data, content, after):
                if inner == 0x0A:
                    scope = str(data[begin:stop], "utf-8")
    return scope


class ChunkReader:
    """Read spans with one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._chunks: dict[int, Chunk] = {}
        self._kept = 0
        self._decoded: dict[bytes, tuple[str, Any]] = {}

    def chunk(self, number: int) -> Chunk:
        """Return a chunk. Raise LookupError if there is none, and ValueError if it is damaged."""
        found = self._chunks.pop(number, None)
        if found is None:
            row = self.connection.execute("SELECT message FROM chunks WHERE id = ?", (number,)).fetchone()
            if row is None:
                raise LookupError("a chunk is missing")
            found = Chunk(row[0])
            self._kept += len(found.data)
            while self._chunks and self._kept > _KEPT_BYTES:
                self._kept -= len(self._chunks.pop(next(iter(self._chunks))).data)
        self._chunks[number] = found
        return found

    def chunks_of(self, seq: int) -> list[int]:
        """Return the numbers of the chunks with spans of a trace."""
        found = self.connection.execute("SELECT chunk FROM parts WHERE trace = ? ORDER BY chunk", (seq,)).fetchall()
        return [number for (number,) in found]

    def places(self, seq: int, trace_id: str) -> Iterator[Place]:
        """Yield where the spans of a trace are, in the order in which they were stored."""
        for number in self.chunks_of(seq):
            yield from self.places_in(number, trace_id)

    def places_in(self, number: int, trace_id: str) -> list[Place]:
        """Return where the spans of a trace are in one chunk."""
        return [Place(number, *place) for place in self.chunk(number).places.get(bytes.fromhex(trace_id), ())]

    def heads(self, seq: int, trace_id: str) -> list[Head]:
        """Return the heads of the spans of a trace, the earliest first."""
        found = []
        for place in self.places(seq, trace_id):
            parent, start, end = _head(self.chunk(place.chunk).data, place.start, place.end)
            found.append(Head(start, bool(parent), -max(start, end), place))
        found.sort()
        return found

    def ids(self, place: Place) -> tuple[str, str]:
        """Return the ids of a span and of its parent, which may be empty."""
        data, start = self.chunk(place.chunk).data, place.start
        if data[start + 18 : start + 20] != b"\x12\x08":
            raise ValueError("a span has no id")
        parent, _start, _end = _head(data, start, place.end)
        return data[start + 20 : start + 28].hex(), parent.hex()

    def section(self, place: Place) -> _Section:
        return self.chunk(place.chunk).sections[place.section]

    def span(self, trace_id: str, place: Place) -> Span:
        """Decode a span."""
        chunk = self.chunk(place.chunk)
        section = chunk.sections[place.section]
        known = self._decoded
        data, end = chunk.data, place.end
        span_id = parent_id = name = message = ""
        kind, status, began, ended = 1, 0, 0, 0
        attributes: dict[str, Any] = {}
        events: list[Event] = []
        links: list[Link] = []
        for tag, content, after in read_fields(data, place.start, end):
            if tag == 0x4A:
                raw = data[content:after]
                pair = known.get(raw)
                if pair is None:
                    pair = _key_value(data, content, after)
                    if len(raw) <= _KEPT_LENGTH and pair[1].__class__ in _SCALARS:
                        make_room(known, _KEPT_ATTRIBUTES)
                        known[raw] = pair
                attributes[pair[0]] = pair[1]
            elif tag == 0x12:
                span_id = data[content:after].hex()
            elif tag == 0x22:
                parent_id = data[content:after].hex()
            elif tag == 0x2A:
                name = str(data[content:after], "utf-8")
            elif tag == 0x30:
                kind = content
            elif tag == 0x39:
                began = _time(content)
            elif tag == 0x41:
                ended = _time(content)
            elif tag == 0x7A:
                status, message = _status(data, content, after)
            elif tag == 0x5A:
                events.append(_event(data, content, after))
            elif tag == 0x6A:
                links.append(_link(data, content, after))
        if len(span_id) != 16 or len(parent_id) not in (0, 16):
            raise ValueError("a span has no id")
        return Span(
            trace_id=trace_id,
            span_id=span_id,
            parent_id=parent_id,
            name=name,
            kind=_KINDS.get(kind, "internal"),
            service=section.service,
            start=began,
            end=max(began, ended),
            status=_STATUSES.get(status, "unset"),
            status_message=message,
            attributes=attributes,
            events=events,
            links=links,
            resource=section.resource,
            scope=section.scope,
        )


def _head(data: bytes, start: int, end: int) -> tuple[bytes, int, int]:
    """Return the parent's id of a span, its start and its end. Attributes come behind them, and are not read."""
    parent, began, ended = b"", 0, 0
    for tag, content, after in read_fields(data, start, end):
        if tag == 0x22:
            parent = data[content:after]
        elif tag == 0x39:
            began = _time(content)
        elif tag == 0x41:
            ended = _time(content)
        elif tag == 0x4A:
            break
    return parent, began, ended


def _time(content: bytes) -> int:
    (time,) = _fixed64.unpack(content)
    if time >= FARTHEST:
        raise ValueError("a time of the far future")
    return int(time)


def _key_value(data: bytes, at: int, end: int) -> tuple[str, Any]:
    key, value = read_key_value(data, at, end)
    return key, shallow(value)


def _attributes(data: bytes, at: int, end: int, tag: int) -> dict[str, Any]:
    return dict(
        _key_value(data, content, after) for found, content, after in read_fields(data, at, end) if found == tag
    )


def _status(data: bytes, at: int, end: int) -> tuple[int, str]:
    code, message = 0, ""
    for tag, content, after in read_fields(data, at, end):
        if tag == 0x18:
            code = content
        elif tag == 0x12:
            message = str(data[content:after], "utf-8")
    return code, message


def _event(data: bytes, at: int, end: int) -> Event:
    name, time = "", 0
    for tag, content, after in read_fields(data, at, end):
        if tag == 0x12:
            name = str(data[content:after], "utf-8")
        elif tag == 0x09:
            time = _time(content)
    return Event(name, time, _attributes(data, at, end, 0x1A))


def _link(data: bytes, at: int, end: int) -> Link:
    trace_id = span_id = ""
    for tag, content, after in read_fields(data, at, end):
        if tag == 0x0A:
            trace_id = data[content:after].hex()
        elif tag == 0x12:
            span_id = data[content:after].hex()
    if len(trace_id) != 32 or len(span_id) != 16:
        raise ValueError("a link has no ids")
    return Link(trace_id, span_id, _attributes(data, at, end, 0x22))
