"""Read traces from Jaeger's query API.

Two of its versions together cover every Jaeger: v3 with its trace summaries (Jaeger 2.19 and later,
https://www.jaegertracing.io/docs/latest/architecture/apis/), and before that v1, the API of Jaeger's own UI, which
other backends offer, too.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Final

from django_tracing.caches import make_room
from django_tracing.exceptions import JaegerError
from django_tracing.net import link_base
from django_tracing.traces.analysis.dependencies import links_of
from django_tracing.traces.analysis.routes import routes_of
from django_tracing.traces.model import (
    MOST_SPANS,
    Dependencies,
    Dependency,
    FoundSpan,
    RouteList,
    RouteStatistics,
    Sample,
    Span,
    SpanStream,
    Trace,
    TraceList,
    TraceSummary,
    root_first,
)
from django_tracing.traces.query import trace_id_prefix
from django_tracing.traces.readers.base import ReaderLimits
from django_tracing.traces.readers.jaeger import v1, v3
from django_tracing.traces.readers.jaeger.conversion import EarliestSpans, Group, QueryAPI, ReadSpan
from django_tracing.traces.readers.jaeger.http import QueryClient, Version
from django_tracing.traces.readers.jaeger.json_stream import JsonStream
from django_tracing.traces.readers.jaeger.sample import REQUESTS_AT_ONCE, newest_traces
from django_tracing.traces.readers.jaeger.windows import Ask, WindowSearch
from django_tracing.traces.times import to_nanoseconds
from django_tracing.traces.topmost import MOST_OUTLINED, Outline, Topmost, outline_of, topmost_of

__all__ = [
    "CLOCK_SKEW",
    "LOOKBACK",
    "OWN_SERVICES",
    "PREFIX_DEPTH",
    "JaegerReader",
]

#: How far back a search without a start goes, in seconds. Jaeger's storage looks through each day of it.
LOOKBACK: Final = 24 * 3600.0
#: How far the clocks of other machines may be ahead, in seconds.
CLOCK_SKEW: Final = 3600.0
#: The start of an id is looked for among this many of the newest traces.
PREFIX_DEPTH: Final = 200
#: Jaeger traces itself. Its own services are only read by name.
OWN_SERVICES: Final = frozenset({"jaeger", "jaeger-query", "jaeger-all-in-one"})

#: So many traces without a root get the name of their topmost span, the newest of a page.
MOST_NAMED: Final = 100
#: For so many seconds. The others are named when the page is loaded again.
NAMING_SECONDS: Final = 2.0
_MOST_KEPT: Final = 2000
#: By address, id and number of spans. The list is loaded again and again.
_topmosts: Final[dict[tuple[str, str, int], Topmost]] = {}

_APIS: Final[Mapping[Version, QueryAPI]] = {"v1": v1, "v3": v3}


class JaegerReader:
    """Reads traces from the Jaeger whose UI and query API are at ``query_url``, e.g. ``http://localhost:16686``.

    The URL may have a path (``https://example.com/jaeger``) and credentials, which are sent as Basic authentication.
    ``timeout`` is in seconds, for each request; ``budget`` for all requests of this reader together, if given.
    The version of the API is found out with the first request. Proxies of the environment are not used, and redirects
    are not followed. Every method raises :class:`~django_tracing.exceptions.JaegerError`.

    For the parameters of the methods see :class:`~django_tracing.traces.model.Reader`. A search without ``start``
    goes back :data:`LOOKBACK`; one without ``service`` sends a request for each service that Jaeger knows.
    """

    limits = ReaderLimits(per_service=True, newest_only=True, lookback=LOOKBACK, map_per_service=True)

    def __init__(
        self,
        query_url: str,
        *,
        timeout: float = 5.0,
        budget: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._client = QueryClient(query_url, timeout=timeout, budget=budget, headers=headers)
        self._links = link_base(query_url)
        self._version: Version | None = None

    def __repr__(self) -> str:
        return f"JaegerReader({self.query_url!r})"

    @property
    def query_url(self) -> str:
        """The address for people, without possible secrets."""
        return self._client.shown

    @property
    def timeout(self) -> float:
        """How long one request may take, in seconds."""
        return self._client.timeout

    def describe(self) -> str:
        """Return the address of Jaeger's UI, without credentials."""
        return self.query_url

    def trace_link(self, trace_id: str) -> str | None:
        """Return the page of the trace in Jaeger's UI. None if the address's path may hold a secret."""
        return None if self._links is None else f"{self._links}/trace/{trace_id}"

    @property
    def version(self) -> Version:
        """The version of the query API: ``"v3"`` or ``"v1"``. The first time, this sends one or two requests."""
        if self._version is None:
            self._version = self._client.find_version()
        return self._version

    @property
    def _api(self) -> QueryAPI:
        return _APIS[self.version]

    def services(self) -> list[str]:
        """Return the names of the services that sent spans, sorted."""
        return self._client.ask(self._api.SERVICES_PATH, {}, self._api.services)

    def operations(self, service: str) -> list[str]:
        """Return the names of the spans of ``service``, sorted."""
        return self._client.ask(self._api.OPERATIONS_PATH, {"service": service}, self._api.operations)

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
        # Clocks of other machines may be ahead, so an end in the future is the same as none.
        until = min(time.time() + CLOCK_SKEW, float("inf") if end is None else end)
        since = until - LOOKBACK - CLOCK_SKEW if start is None else start
        wanted = dict(attributes or {})
        if errors:
            wanted["error"] = "true"
        first, last = to_nanoseconds(since) // 1000, to_nanoseconds(until) // 1000 + 1
        past = end is not None
        if before is not None:
            last, past = min(last, before[0] // 1000 + 1), True

        def matches(summary: TraceSummary) -> bool:
            # Jaeger compares the times and durations of single spans, and some of its storages ignore "error".
            return (
                (min_duration is None or summary.duration >= min_duration * 1e9)
                and (max_duration is None or summary.duration <= max_duration * 1e9)
                and (not errors or summary.error_count > 0)
                and (before is None or (summary.start, summary.trace_id) < before)
                and (start is None or summary.start // 1000 >= first)
                and (end is None or summary.start // 1000 <= last)
            )

        search = WindowSearch(matches, limit, joint=len(wanted) + (operation is not None) > 1)
        reached = first
        for name in self._services(service):
            ask = self._asker(name, operation, min_duration, wanted)
            lowest = max(first, search.floor or first)
            reached = max(reached, search.run(ask, lowest, last)) if lowest < last else reached
            known = search.found.values()
            if past and (
                wanted
                or (operation is not None and not (known and all(each.name == operation for each in known)))
                or (service is not None and not (known and all(each.service == service for each in known)))
            ):
                # The spans that match may start after the page's traces.
                search.run_above(ask, last)
        newest = sorted(search.found.values(), key=lambda summary: (summary.start, summary.trace_id), reverse=True)
        if reached > first:
            # Older ones are known, too, but maybe not all of them.
            newest = [summary for summary in newest if summary.start // 1000 >= reached]
        return TraceList(
            self._named(newest[:limit]), reached * 1000 if len(newest) < limit and reached > first else None
        )

    def _named(self, summaries: list[TraceSummary]) -> list[TraceSummary]:
        """Complete the summaries of traces without a root: version 3 gives them no name."""
        nameless = [each for each in summaries if not each.name and not each.service and each.span_count]
        if not nameless:
            return summaries
        found: dict[str, Topmost] = {}
        deadline = time.monotonic() + NAMING_SECONDS

        def name(summary: TraceSummary) -> Topmost | None:
            return self._topmost(summary) if time.monotonic() < deadline else None

        with ThreadPoolExecutor(REQUESTS_AT_ONCE, "django_tracing.jaeger") as pool:
            for summary, topmost in zip(nameless, pool.map(name, nameless[:MOST_NAMED]), strict=False):
                if topmost is not None:
                    found[summary.trace_id] = topmost
        return [
            summary
            if (topmost := found.get(summary.trace_id)) is None
            else replace(
                summary,
                name=topmost.name,
                service=topmost.service,
                services=root_first(topmost.service, summary.services),
                state=topmost.state,
            )
            for summary in summaries
        ]

    def _topmost(self, summary: TraceSummary) -> Topmost | None:
        """Return the topmost span of a trace; None if it can't be read."""
        key = (self.query_url, summary.trace_id, summary.span_count)
        known = _topmosts.get(key)
        if known is not None:
            return known
        api = self._api
        outlines: list[Outline] = []

        def walk(stream: JsonStream) -> list[Outline]:
            for read in api.walk(stream):
                if read.trace_id == summary.trace_id:
                    outlines.append(outline_of(read.span()))
                    if len(outlines) >= MOST_OUTLINED:
                        break
            return outlines

        nothing: list[Outline] = []
        try:
            self._client.ask_for_spans(f"{api.TRACES_PATH}/{summary.trace_id}", {}, walk, none=nothing)
        except JaegerError:
            # The list is of use without it.
            return None
        if not outlines:
            return None
        topmost = topmost_of(outlines, whole=summary.span_count <= MOST_OUTLINED)
        if topmost.state != "running":
            make_room(_topmosts, _MOST_KEPT)
            _topmosts[key] = topmost
        return topmost

    def _asker(self, service: str, operation: str | None, min_duration: float | None, wanted: dict[str, str]) -> Ask:
        """Return a function that searches a window of time."""
        api = self._api
        shortest = min_duration

        def ask(lower: int, upper: int, depth: int) -> list[TraceSummary]:
            nonlocal shortest
            if lower > upper:
                return []
            query = api.query(service, lower / 1e6, upper / 1e6, depth, operation, shortest, wanted)
            try:
                answer = api.search(self._client, query)
            except JaegerError as error:
                # With Cassandra, Jaeger can't search for a duration and for attributes at once.
                if shortest is None or not wanted or error.reason != "failed":
                    raise
                answer = None
            if answer is None or (
                # With Cassandra, it searches for durations in whole hours, whatever the window is.
                shortest is not None
                and len(answer) >= depth
                and any(
                    summary.start > (upper + 1) * 1000 or summary.start + summary.duration < lower * 1000
                    for summary in answer
                )
            ):
                shortest = None
                answer = api.search(
                    self._client, api.query(service, lower / 1e6, upper / 1e6, depth, operation, None, wanted)
                )
            return answer

        return ask

    def routes(
        self, *, service: str | None = None, start: float | None = None, end: float | None = None
    ) -> list[RouteStatistics]:
        """Return the statistics of the newest traces."""
        traces = self._newest(service, start, end)
        return RouteList(routes_of(traces, service), Sample.of(traces))

    def dependencies(
        self, *, start: float | None = None, end: float | None = None, service: str | None = None
    ) -> Dependencies:
        """Return the calls between services, as Jaeger counts them. The rest is found in its newest traces.

        With ``service``: the traces that it is part of, and the calls from it and to it.
        """
        until = min(time.time(), float("inf") if end is None else end)
        since = until - LOOKBACK if start is None else start
        query = {"endTs": str(int(until * 1e3)), "lookback": str(int((until - since) * 1e3))}
        # The versions are found out before. Jaeger may count for as long as it sends traces.
        self._api  # noqa: B018
        with ThreadPoolExecutor(1, "django_tracing.jaeger") as pool:
            counting = pool.submit(self._client.ask, v1.DEPENDENCIES_PATH, query, v1.call_counts)
            traces = self._newest(service, start, end)
            counts = counting.result()
        links: dict[tuple[str, str, str], Dependency] = {
            (link.caller, link.kind, link.callee): link for link in links_of(traces)
        }
        for caller, callee, calls in counts:
            key = (caller, "service", callee)
            seen = links.get(key)
            if service is not None and seen is None and service not in (caller, callee):
                continue
            errors, examined = (seen.errors, seen.examined) if seen is not None else (0, 0)
            links[key] = Dependency(caller, callee, "service", calls, errors, examined)
        ordered = sorted(links.values(), key=lambda link: (link.caller, link.kind, link.callee))
        return Dependencies(ordered, sampled=len(traces), sample=Sample.of(traces))

    def _services(self, service: str | None) -> list[str]:
        return [name for name in self.services() if name not in OWN_SERVICES] if service is None else [service]

    def _newest(self, service: str | None, start: float | None, end: float | None) -> list[Trace]:
        until = min(time.time() + CLOCK_SKEW, float("inf") if end is None else end)
        since = until - LOOKBACK - CLOCK_SKEW if start is None else start
        return newest_traces(self._client, self._api, self._services(service), since, until)

    def trace(self, trace_id: str) -> Trace | None:
        full = self._full_id(trace_id)
        if full is None:
            return None
        api = self._api
        kept = EarliestSpans(MOST_SPANS)

        def walk(stream: JsonStream) -> list[Span]:
            try:
                for read in api.walk(stream):
                    if read.trace_id == full:
                        kept.add(read)
            except JaegerError:
                # The response is too long or too slow. Show what has arrived.
                if not kept.count:
                    raise
                kept.cut = True
            return kept.spans()

        nothing: list[Span] = []
        spans = self._client.ask_for_spans(f"{api.TRACES_PATH}/{full}", {}, walk, none=nothing)
        return Trace(full, spans, left_out=kept.count - len(spans), uncounted=kept.cut) if spans else None

    def span(self, trace_id: str, span_id: str) -> FoundSpan | None:
        """Return one span; None if there is none. Jaeger sends whole traces, so the others are read but not kept."""
        full = self._full_id(trace_id)
        if full is None:
            return None
        api = self._api
        kept = EarliestSpans(1)
        found: list[ReadSpan] = []

        def walk(stream: JsonStream) -> tuple[FoundSpan | None]:
            try:
                for read in api.walk(stream):
                    if read.trace_id == full:
                        kept.add(read)
                        if read.span_id == span_id and not found:
                            found.append(read)
            except JaegerError:
                if not found:
                    raise
            if not found:
                return (None,)
            # The earliest span, and a root if there is one.
            trace = Trace(full, kept.spans())
            return (FoundSpan(found[0].span(), trace.topmost.name, trace.start),)

        nothing: tuple[FoundSpan | None] = (None,)
        (one,) = self._client.ask_for_spans(f"{api.TRACES_PATH}/{full}", {}, walk, none=nothing)
        return one

    def stream(self, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
        """Return all spans of a trace, in the order in which Jaeger sends them."""
        full = self._full_id(trace_id)
        if full is None:
            return None
        spans = self._streamed(full)
        first = next(spans, None)
        return None if first is None else SpanStream(full, first.name, _closing(first, spans))

    def _streamed(self, full: str) -> Generator[Span, None, None]:
        path = f"{self._api.TRACES_PATH}/{full}"
        known: Group | None = None
        if self.version == "v1":
            # The processes follow the spans, which are not kept: read all of it once for the processes.
            with self._client.download(path) as stream:
                for read in () if stream is None else v1.walk(stream):
                    known = read.group
        with self._client.download(path) as stream:
            for read in () if stream is None else self._api.walk(stream):
                if known is not None:
                    read.group.processes = known.processes
                if read.trace_id == full:
                    yield read.span()

    def _full_id(self, trace_id: str) -> str | None:
        """Complete the start of an id; None if no trace has it."""
        full = trace_id_prefix(trace_id)
        if len(full) == 32:
            return full
        matching = [
            summary.trace_id for summary in self.search(limit=PREFIX_DEPTH) if summary.trace_id.startswith(full)
        ]
        if len(matching) > 1:
            raise JaegerError(f"Several traces start with {full}. Give more digits of the id.", "ambiguous")
        return matching[0] if matching else None


def _closing(first: Span, spans: Generator[Span, None, None]) -> Iterator[Span]:
    """Yield ``first`` and ``spans``. The connection is closed when the iterator is."""
    try:
        yield from chain((first,), spans)
    finally:
        spans.close()
