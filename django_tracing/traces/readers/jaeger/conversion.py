"""Convert the values that both versions of Jaeger's query API return."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import heappush, heappushpop
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from django_tracing.traces.model import Span, TraceSummary
from django_tracing.traces.readers.jaeger.json_stream import JsonStream
from django_tracing.traces.times import FARTHEST, to_nanoseconds

if TYPE_CHECKING:
    from django_tracing.traces.readers.jaeger.http import QueryClient

__all__ = [
    "EarliestSpans",
    "Group",
    "QueryAPI",
    "ReadSpan",
    "checked_text",
    "microseconds",
    "nanoseconds",
    "parse_span_id",
    "parse_trace_id",
    "sorted_names",
]


class QueryAPI(Protocol):
    """What a module does that knows a version of the query API. ``answer`` is the decoded JSON of a response."""

    @property
    def SERVICES_PATH(self) -> str: ...

    @property
    def OPERATIONS_PATH(self) -> str: ...

    @property
    def TRACES_PATH(self) -> str:
        """The path of whole traces. That of one trace has its id behind it."""
        ...

    def services(self, answer: Any) -> list[str]: ...

    def operations(self, answer: Any) -> list[str]: ...

    def query(
        self,
        service: str,
        since: float,
        until: float,
        depth: int,
        operation: str | None = None,
        min_duration: float | None = None,
        attributes: dict[str, str] | None = None,
    ) -> dict[str, str]:
        """Return the parameters of a search for at most ``depth`` traces. Times are seconds since the epoch."""
        ...

    def search(self, client: QueryClient, query: dict[str, str]) -> list[TraceSummary]: ...

    def walk(self, stream: JsonStream) -> Iterator[ReadSpan]:
        """Read the spans of a response one by one."""
        ...


def microseconds(seconds: float) -> str:
    """Return a duration as the query API takes it."""
    return f"{to_nanoseconds(seconds) // 1000}us"


def parse_trace_id(text: str) -> str:
    return _parse_id(text, 32)


def parse_span_id(text: str) -> str:
    return _parse_id(text, 16) if text else ""


def _parse_id(text: str, digits: int) -> str:
    number = int(text, 16)
    if not 0 <= number < 16**digits:
        raise ValueError("an id with too many digits")
    return f"{number:0{digits}x}"


def checked_text(value: Any) -> str:
    """Return ``value``; raise TypeError unless it is text. Later it would look like a bug of this app."""
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def nanoseconds(value: Any, scale: int = 1) -> int:
    """Return ``value`` times ``scale``; raise ValueError for more than 64 bits."""
    found = int(value) * scale
    if abs(found) > FARTHEST:
        raise ValueError("a time of more than 64 bits")
    return found


def sorted_names(found: Iterable[Any] | None) -> list[str]:
    return sorted(map(checked_text, found or ()))


class Group:
    """What many spans of a response have in common. In version 1 it follows the spans."""

    __slots__ = ("complete", "processes", "resource", "scope")

    def __init__(self, complete: bool) -> None:
        #: Whether all of it has been read.
        self.complete = complete
        self.resource: dict[str, Any] = {}
        self.scope = ""
        self.processes: dict[Any, Any] = {}


class ReadSpan(NamedTuple):
    """A span as it was read. Only the spans that are kept are converted."""

    item: dict[str, Any]
    group: Group
    scope: Group
    trace_id: str
    span_id: str
    start: int
    is_root: bool
    convert: Callable[[dict[str, Any], Group, Group, Collection[str] | None], Span]

    def span(self, keys: Collection[str] | None = None) -> Span:
        """Return the span. With ``keys``, it has only these attributes, and no events and links."""
        return self.convert(self.item, self.group, self.scope, keys)


class EarliestSpans:
    """Keeps the earliest ``most`` of many spans, and some later roots: if clocks disagree, a root may seem late."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        #: Whether the response was not read to its end.
        self.cut = False
        self._earliest: list[tuple[int, int, ReadSpan]] = []
        self._roots: list[ReadSpan] = []

    def add(self, read: ReadSpan) -> None:
        self.count += 1
        entry = (-read.start, -self.count, read)
        if len(self._earliest) < self.most:
            heappush(self._earliest, entry)
            return
        _start, _count, dropped = heappushpop(self._earliest, entry)
        if dropped.is_root and len(self._roots) < max(self.most // 100, 1):
            self._roots.append(dropped)

    def spans(self) -> list[Span]:
        return [read.span() for read in (*(entry[2] for entry in self._earliest), *self._roots)]
