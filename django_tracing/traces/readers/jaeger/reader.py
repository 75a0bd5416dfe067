"""Traces from Jaeger's query API.

Two of its dialects together cover every version: v3 with its trace summaries (2.19 and later,
https://www.jaegertracing.io/docs/latest/architecture/apis/), and before that v1, the one of Jaeger's own UI, which
other backends offer too.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from heapq import heappush, heappushpop
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar, cast
from urllib.parse import quote, unquote, urlencode, urlsplit

from django_tracing.addresses import linkable, shown_address
from django_tracing.net import TimedResponse
from django_tracing.traces.analysis.dependencies import links_of
from django_tracing.traces.analysis.routes import parts_of, route_statistics
from django_tracing.traces.model import (
    DEEPEST,
    FARTHEST,
    MOST_SPANS,
    Dependencies,
    Dependency,
    Event,
    FoundSpan,
    Kind,
    Link,
    ReadError,
    RouteStatistics,
    Span,
    SpanStream,
    Status,
    Trace,
    TraceSummary,
    iso_time,
    root_first,
    shallow,
    to_nanoseconds,
    trace_id_prefix,
)
from django_tracing.traces.readers.jaeger.json_stream import JsonStream

__all__ = ["JaegerReader", "ReaderError"]

T = TypeVar("T")

#: How far back a search goes that gives no start, in seconds. Jaeger's storage looks through each day asked for.
LOOKBACK: Final = 24 * 3600.0
#: Clocks of other machines may run ahead by as much, in seconds.
CLOCK_SKEW: Final = 3600.0
#: An answer that is longer is not read, in bytes: the endpoint may be anything.
MAX_ANSWER: Final = 64 * 1024 * 1024
#: Among how many of the newest traces the beginning of an id is looked for.
PREFIX_DEPTH: Final = 200
#: How many of the newest traces are read whole, where there is nothing shorter to ask for.
WHOLE_TRACES: Final = 200
#: More spans than these are not kept of them.
WHOLE_SPANS: Final = 20_000
#: A download may take as long, in seconds; each read of it waits for ``timeout``.
DOWNLOAD_TIME: Final = 600.0
#: As many processes of a trace are looked at for the names of its services.
MOST_PROCESSES: Final = 1000
#: How often a search goes on to older traces, when some that Jaeger found are not what was asked for.
MAX_ROUNDS: Final = 5
#: Jaeger traces itself; nobody looks for that unless by name.
OWN_SERVICES: Final = frozenset({"jaeger", "jaeger-query", "jaeger-all-in-one"})


class ReaderError(ReadError):
    """Jaeger's query API could not be asked.

    ``reason`` is one of refused, dns, tls, timeout, unreachable, unauthorized, not_found (no query API at this
    address), not_jaeger (something else answers there), failed (it answers with an error of its own) and ambiguous.
    """


class JaegerReader:
    """Reads traces from the Jaeger whose UI and query API are at ``query_url``, e.g. ``http://localhost:16686``.

    The URL may have a path (``https://example.com/jaeger``) and credentials, which are sent as Basic authentication.
    ``timeout`` is in seconds, for each question; ``budget`` for all questions of this reader together, where given.
    Which dialect it speaks is found out with the first one. Proxies of the environment are not used, and redirects
    not followed. Every method raises :class:`ReaderError`.

    What is asked by ``search`` and ``trace`` is said in :class:`django_tracing.traces.model.Reader`. A search without
    ``start`` goes back :data:`LOOKBACK`; one without ``service`` asks Jaeger once for every service it knows.
    """

    def __init__(
        self,
        query_url: str,
        *,
        timeout: float = 5.0,
        budget: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        parts = urlsplit(query_url)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if self._secure else 80)
        self._base = parts.path.rstrip("/")
        #: The address for people, without what may be secret.
        self.query_url = shown_address(parts._replace(query="", fragment="").geturl().rstrip("/"))
        self._links = linkable(query_url)
        self.timeout = timeout
        self._deadline = None if budget is None else time.monotonic() + budget
        self._headers = {"Accept": "application/json", "User-Agent": "django-tracing-otel", **(headers or {})}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        self._dialect: str | None = None

    def __repr__(self) -> str:
        return f"JaegerReader({self.query_url!r})"

    def describe(self) -> str:
        """The address of Jaeger's UI, without credentials."""
        return self.query_url

    def trace_link(self, trace_id: str) -> str | None:
        """The page of the trace in Jaeger's UI; None where the address's path holds a secret."""
        return None if self._links is None else f"{self._links}/trace/{trace_id}"

    @property
    def dialect(self) -> str:
        """``"v3"`` or ``"v1"``, found out with one or two questions the first time."""
        if self._dialect is None:
            self._dialect = self._find_dialect()
        return self._dialect

    def services(self) -> list[str]:
        """Names of the services that sent spans, sorted."""
        if self.dialect == "v3":
            return self._ask("/api/v3/services", {}, lambda answer: _names(answer.get("services")))
        return self._ask("/api/services", {}, lambda answer: _names(answer["data"]))

    def operations(self, service: str) -> list[str]:
        """Names of the spans of ``service``, sorted."""
        if self.dialect == "v3":
            return self._ask(
                "/api/v3/operations",
                {"service": service},
                # One name may come with several kinds of span.
                lambda answer: _names({item["name"] for item in answer.get("operations") or ()}),
            )
        return self._ask(
            "/api/operations",
            {"service": service},
            lambda answer: _names({item["name"] for item in answer["data"] or ()}),
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
        # An end in the future asks for the same as none.
        until = min(time.time() + CLOCK_SKEW, float("inf") if end is None else end)
        since = until - LOOKBACK - CLOCK_SKEW if start is None else start
        wanted = dict(attributes or {})
        if errors:
            wanted["error"] = "true"
        if before is not None:
            # Jaeger counts microseconds.
            until = min(until, before[0] / 1e9 + 1e-6)
        ask = self._search_v3 if self.dialect == "v3" else self._search_v1
        found: dict[str, TraceSummary] = {}
        for name in self._services(service):
            oldest, depth = until, limit + (before is not None)
            for _ in range(MAX_ROUNDS):
                answer = ask(name, operation, min_duration, wanted, since, oldest, depth)
                # Jaeger compares the durations of single spans, and some of its storages forget about errors.
                kept = [
                    summary
                    for summary in answer
                    if (min_duration is None or summary.duration >= min_duration * 1e9)
                    and (max_duration is None or summary.duration <= max_duration * 1e9)
                    and (not errors or summary.error_count)
                    and (before is None or (summary.start, summary.trace_id) < before)
                ]
                found.update((summary.trace_id, summary) for summary in kept)
                if len(answer) < depth or len(kept) >= limit:
                    break
                # What was left out above made room for older ones.
                oldest, depth = min(summary.start for summary in answer) / 1e9, depth * 2
        newest = sorted(found.values(), key=lambda summary: (summary.start, summary.trace_id), reverse=True)
        return newest[:limit]

    def routes(
        self, *, service: str | None = None, start: float | None = None, end: float | None = None
    ) -> list[RouteStatistics]:
        traces = self._newest(service, start, end)
        return route_statistics(((trace.trace_id, parts_of(trace)) for trace in traces), service)

    def dependencies(self, *, start: float | None = None, end: float | None = None) -> Dependencies:
        """What Jaeger counted between services; what it does not count, from its newest traces."""
        until = min(time.time(), float("inf") if end is None else end)
        since = until - LOOKBACK if start is None else start
        traces = self._newest(None, start, end)
        links: dict[tuple[str, str, str], Dependency] = {
            (link.caller, link.kind, link.callee): link for link in links_of(traces)
        }
        query = {"endTs": str(int(until * 1e3)), "lookback": str(int((until - since) * 1e3))}
        for caller, callee, calls in self._ask("/api/dependencies", query, _counted_calls):
            key = (caller, "service", callee)
            seen = links.get(key)
            errors, examined = (seen.errors, seen.examined) if seen is not None else (0, 0)
            links[key] = Dependency(caller, callee, "service", calls, errors, examined)
        ordered = sorted(links.values(), key=lambda link: (link.caller, link.kind, link.callee))
        return Dependencies(ordered, sampled=len(traces))

    def _services(self, service: str | None) -> list[str]:
        return [name for name in self.services() if name not in OWN_SERVICES] if service is None else [service]

    def _newest(self, service: str | None, start: float | None, end: float | None) -> list[Trace]:
        """The newest traces with all their spans, of each service about as many."""
        # An end in the future asks for the same as none.
        until = min(time.time() + CLOCK_SKEW, float("inf") if end is None else end)
        since = until - LOOKBACK - CLOCK_SKEW if start is None else start
        services = self._services(service)
        depth = max(WHOLE_TRACES // max(len(services), 1), 10)
        spans: dict[str, dict[str, Span]] = {}
        room = WHOLE_SPANS
        for name in services:
            for span in self._whole(name, since, until, depth, room) if room > 0 else ():
                spans.setdefault(span.trace_id, {})[span.span_id] = span
                room -= 1
        return [Trace(trace_id, members.values()) for trace_id, members in spans.items()]

    def _whole(self, service: str, since: float, until: float, depth: int, room: int) -> list[Span]:
        path, query = (
            ("/api/v3/traces", _query_v3(service, since, until, depth))
            if self.dialect == "v3"
            else ("/api/traces", _query_v1(service, since, until, depth))
        )
        found: list[_Read] = []

        def walk(stream: JsonStream) -> list[Span]:
            try:
                for read in self._walk(stream):
                    found.append(read)
                    if len(found) >= room:
                        break
            except ReaderError:
                if not found:
                    raise
            # In the older dialect a trace says only at its end which processes its spans are of.
            return [read.span() for read in found if read.group.complete]

        return self._ask_for_spans(path, query, walk, none=[])

    def _search_v3(
        self,
        service: str,
        operation: str | None,
        min_duration: float | None,
        attributes: dict[str, str],
        since: float,
        until: float,
        depth: int,
    ) -> list[TraceSummary]:
        query = _query_v3(service, since, until, depth)
        if operation is not None:
            query["query.operationName"] = operation
        if min_duration is not None:
            query["query.durationMin"] = _duration(min_duration)
        if attributes:
            query["query.attributes"] = json.dumps(attributes)
        return self._ask(
            "/api/v3/trace-summaries",
            query,
            lambda answer: [_summary_v3(item) for item in answer.get("summaries") or ()],
        )

    def _search_v1(
        self,
        service: str,
        operation: str | None,
        min_duration: float | None,
        attributes: dict[str, str],
        since: float,
        until: float,
        depth: int,
    ) -> list[TraceSummary]:
        query = _query_v1(service, since, until, depth)
        if operation is not None:
            query["operation"] = operation
        if min_duration is not None:
            query["minDuration"] = _duration(min_duration)
        if attributes:
            query["tags"] = json.dumps(attributes)
        return self._ask_for_spans("/api/traces", query, _summaries_v1)

    def trace(self, trace_id: str) -> Trace | None:
        full = self._full_id(trace_id)
        if full is None:
            return None
        kept = _Kept(MOST_SPANS)

        def walk(stream: JsonStream) -> list[Span]:
            try:
                for read in self._walk(stream):
                    if read.trace_id == full:
                        kept.add(read)
            except ReaderError:
                # Longer than what is read of an answer, or than the time for it: what came is the most of it.
                if not kept.count:
                    raise
                kept.cut = True
            return kept.spans()

        nothing: list[Span] = []
        spans = self._ask_for_spans(self._trace_path(full), {}, walk, none=nothing)
        return Trace(full, spans, left_out=kept.count - len(spans), uncounted=kept.cut) if spans else None

    def span(self, trace_id: str, span_id: str) -> FoundSpan | None:
        """One span; None if there is none. Jaeger gives whole traces only: the others are read, and not kept."""
        full = self._full_id(trace_id)
        if full is None:
            return None
        kept = _Kept(1)
        found: list[_Read] = []

        def walk(stream: JsonStream) -> tuple[FoundSpan | None]:
            try:
                for read in self._walk(stream):
                    if read.trace_id == full:
                        kept.add(read)
                        if read.span_id == span_id and not found:
                            found.append(read)
            except ReaderError:
                if not found:
                    raise
            if not found:
                return (None,)
            # The earliest, and a root where there is one.
            trace = Trace(full, kept.spans())
            return (FoundSpan(found[0].span(), trace.root.name, trace.start),)

        nothing: tuple[FoundSpan | None] = (None,)
        (one,) = self._ask_for_spans(self._trace_path(full), {}, walk, none=nothing)
        return one

    def stream(self, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
        """All spans of a trace as Jaeger sends them, in its order."""
        full = self._full_id(trace_id)
        if full is None:
            return None
        spans = self._streamed(full)
        first = next(spans, None)
        return None if first is None else SpanStream(full, first.name, _closing(first, spans))

    def _streamed(self, full: str) -> Generator[Span, None, None]:
        path = self._trace_path(full)
        known: _Group | None = None
        if self.dialect == "v1":
            # Processes come behind the spans, and spans are not kept: the first time all is read for them.
            with self._stream_of(path) as stream:
                for read in () if stream is None else _walk_v1(stream):
                    known = read.group
        with self._stream_of(path) as stream:
            for read in () if stream is None else self._walk(stream):
                if known is not None:
                    read.group.processes = known.processes
                if read.trace_id == full:
                    yield read.span()

    @contextmanager
    def _stream_of(self, path: str) -> Iterator[JsonStream | None]:
        """The answer; None where Jaeger says that there is nothing."""
        try:
            with self._answer(path, {}, DOWNLOAD_TIME) as (status, read):
                if status != 200:
                    answer = _decoded(read)
                    if status != 404 or not isinstance(answer, dict):
                        raise self._failed(status, answer)
                yield JsonStream(read) if status == 200 else None
        except _NOT_JAEGER as error:
            raise self._strange(path) from error

    def _trace_path(self, full: str) -> str:
        return f"/api/v3/traces/{full}" if self.dialect == "v3" else f"/api/traces/{full}"

    def _walk(self, stream: JsonStream) -> Iterator[_Read]:
        return _walk_v3(stream) if self.dialect == "v3" else _walk_v1(stream)

    def _full_id(self, trace_id: str) -> str | None:
        """The whole of an id of which the beginning is given; None where no trace begins so."""
        full = trace_id_prefix(trace_id)
        if len(full) == 32:
            return full
        matching = [
            summary.trace_id for summary in self.search(limit=PREFIX_DEPTH) if summary.trace_id.startswith(full)
        ]
        if len(matching) > 1:
            raise ReaderError(f"Several traces begin with {full}. Give more of the id.", "ambiguous")
        return matching[0] if matching else None

    # ----- Asking

    def _find_dialect(self) -> str:
        # Without its parameters the newer question is refused as incomplete where it is known. What does not know it
        # may answer with anything, also with status 200 and a page, so that only JSON counts.
        status, answer = self._get("/api/v3/trace-summaries", {})
        if isinstance(answer, dict) and (status == 400 or "summaries" in answer):
            return "v3"
        older, answer = self._get("/api/services", {})
        if older == 200 and isinstance(answer, dict) and "data" in answer:
            return "v1"
        for code in (status, older):
            if code >= 500:
                raise self._failed(code, answer)
        if older == 404:
            raise ReaderError(
                f"There is no Jaeger query API at {self.query_url} (404). "
                f"Give QUERY_URL the address of Jaeger's UI, with its path where it has one.",
                "not_found",
            )
        raise ReaderError(
            f"What answers at {self.query_url} is not Jaeger's query API. "
            f"Give QUERY_URL the address of Jaeger's UI, with its path where it has one.",
            "not_jaeger",
        )

    def _ask(self, path: str, query: Mapping[str, str], decode: Callable[[Any], T], *, none: T | None = None) -> T:
        """What ``decode`` makes of the answer; ``none``, if given, where Jaeger says that there is nothing."""
        status, answer = self._get(path, query)
        if status == 404 and isinstance(answer, dict) and none is not None:
            return none
        if status >= 400:
            raise self._failed(status, answer)
        try:
            return decode(answer)
        except _NOT_JAEGER as error:
            raise self._strange(path) from error

    def _ask_for_spans(
        self, path: str, query: Mapping[str, str], walk: Callable[[JsonStream], T], *, none: T | None = None
    ) -> T:
        """What ``walk`` makes of the answer while it is read, as :meth:`_ask` otherwise."""
        with self._answer(path, query) as (status, read):
            if status != 200:
                answer = _decoded(read)
                if status == 404 and isinstance(answer, dict) and none is not None:
                    return none
                raise self._failed(status, answer)
            try:
                return walk(JsonStream(read))
            except _NOT_JAEGER as error:
                raise self._strange(path) from error

    def _failed(self, status: int, answer: Any) -> ReaderError:
        return ReaderError(f"{self.query_url} failed ({status}){_said(answer)}.", "failed")

    def _strange(self, path: str) -> ReaderError:
        return ReaderError(f"The answer of {self.query_url}{path} is not one of Jaeger's query API.", "not_jaeger")

    def _get(self, path: str, query: Mapping[str, str]) -> tuple[int, Any]:
        """The status and the JSON, None where it is none."""
        with self._answer(path, query) as (status, read):
            return status, _decoded(read)

    @contextmanager
    def _answer(
        self, path: str, query: Mapping[str, str], longest: float | None = None
    ) -> Iterator[tuple[int, Callable[[], bytes]]]:
        """The status, and what reads the answer's bytes: a piece with each call, none at the end.

        ``longest`` is how many seconds all of it may take, where that is not ``timeout``; of any length then.
        """
        target = quote(self._base, safe="/%") + path + (f"?{urlencode(query)}" if query else "")
        timeout = self.timeout
        if self._deadline is not None:
            timeout = min(timeout, self._deadline - time.monotonic())
            if timeout <= 0:
                raise self._too_long()
        connection: http.client.HTTPConnection
        if self._secure:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.response_class = TimedResponse
        try:
            try:
                connection.request("GET", target, headers=self._headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                raise self._explained(error) from error
            with response:
                self._refused(response.status, response.getheader("Location"))
                if longest is not None and isinstance(response, TimedResponse):
                    response.extend(longest)
                yield response.status, self._reading(response, longest)
        finally:
            connection.close()

    def _refused(self, status: int, location: str | None) -> None:
        if status in (401, 403):
            raise ReaderError(
                f"{self.query_url} asks for other credentials ({status}). "
                f"Put them into QUERY_URL (https://user:password@host).",
                "unauthorized",
            )
        if 300 <= status < 400:
            raise ReaderError(
                f"{self.query_url} sends readers elsewhere ({status}, to {_origin(location)}), as login pages do. "
                f"Give QUERY_URL an address that answers by itself.",
                "unauthorized",
            )

    def _reading(self, response: http.client.HTTPResponse, longest: float | None) -> Callable[[], bytes]:
        deadline = time.monotonic() + (self.timeout if longest is None else longest)
        length = 0

        def read() -> bytes:
            nonlocal length
            try:
                # read1 returns with what has come: a server that drips is given up in time.
                part = response.read1(1 << 16)
                if part and time.monotonic() > deadline:
                    raise TimeoutError
            except (OSError, http.client.HTTPException) as error:
                raise self._explained(error) from error
            length += len(part)
            if length > MAX_ANSWER and longest is None:
                raise ReaderError(
                    f"The answer of {self.query_url} is longer than {MAX_ANSWER >> 20} MiB. Ask for less.", "failed"
                )
            return part

        return read

    def _too_long(self) -> ReaderError:
        return ReaderError(
            f"{self.query_url} takes too long to answer. Ask for less: one service, or a shorter time.", "timeout"
        )

    def _explained(self, error: Exception) -> ReaderError:
        where = f"{self._host}:{self._port}"
        if isinstance(error, ssl.SSLError):
            detail = getattr(error, "verify_message", "") or error.reason or str(error)
            if "WRONG_VERSION_NUMBER" in detail or "RECORD_LAYER_FAILURE" in detail:
                return ReaderError(f"{where} does not speak TLS. Write QUERY_URL with http://.", "tls")
            return ReaderError(f"TLS with {where} failed: {detail}.", "tls")
        if isinstance(error, (socket.gaierror, UnicodeError)):
            return ReaderError(f"The host name {self._host} is unknown. Is QUERY_URL right?", "dns")
        if isinstance(error, ConnectionRefusedError):
            return ReaderError(f"Nothing listens on {where}. Does Jaeger run, and is QUERY_URL right?", "refused")
        if isinstance(error, TimeoutError):
            if self._deadline is not None and time.monotonic() >= self._deadline:
                return self._too_long()
            return ReaderError(f"{where} did not answer within {self.timeout:g} s.", "timeout")
        if isinstance(error, http.client.HTTPException):
            return ReaderError(
                f"What answers at {where} does not speak HTTP{' without TLS' if not self._secure else ''}. "
                f"Is QUERY_URL right?",
                "not_jaeger",
            )
        return ReaderError(f"{where} can't be reached: {error}.", "unreachable")


def _query_v3(service: str, since: float, until: float, depth: int) -> dict[str, str]:
    return {
        "query.serviceName": service,
        "query.startTimeMin": iso_time(to_nanoseconds(since)),
        "query.startTimeMax": iso_time(to_nanoseconds(until)),
        "query.searchDepth": str(depth),
    }


def _query_v1(service: str, since: float, until: float, depth: int) -> dict[str, str]:
    return {
        "service": service,
        "start": str(to_nanoseconds(since) // 1000),
        "end": str(to_nanoseconds(until) // 1000),
        "limit": str(depth),
    }


def _counted_calls(answer: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [
        (_text(item["parent"]), _text(item["child"]), int(item.get("callCount", 0)))
        for item in answer["data"] or ()
        if item["parent"] != item["child"]
    ]


def _duration(seconds: float) -> str:
    return f"{to_nanoseconds(seconds) // 1000}us"


def _origin(location: str | None) -> str:
    # The rest of it may hold tokens.
    parts = urlsplit(location or "")
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another page"


def _said(answer: Any) -> str:
    """What Jaeger says of an error, in either dialect."""
    text = ""
    if isinstance(answer, dict):
        if isinstance(answer.get("error"), dict):
            text = str(answer["error"].get("message", ""))
        elif isinstance(answer.get("errors"), list) and answer["errors"]:
            first = answer["errors"][0]
            text = str(first.get("msg", "")) if isinstance(first, dict) else str(first)
    return f": {text[:200]}" if text else ""


# ----- v3

#: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
_KINDS: Final[dict[Any, Kind]] = {2: "server", 3: "client", 4: "producer", 5: "consumer"}
_STATUSES: Final[dict[Any, Status]] = {1: "ok", 2: "error"}


def _trace_id(text: str) -> str:
    return _id(text, 32)


def _span_id(text: str) -> str:
    return _id(text, 16) if text else ""


def _id(text: str, digits: int) -> str:
    number = int(text, 16)
    if not 0 <= number < 16**digits:
        raise ValueError("an id of more digits")
    return f"{number:0{digits}x}"


def _text(value: Any) -> str:
    """``value``; raises TypeError for what is none. Later on it would be a fault of ours."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _moment(value: Any, scale: int = 1) -> int:
    """``value`` times ``scale`` in nanoseconds; raises ValueError for more than 64 bits."""
    nanoseconds = int(value) * scale
    if abs(nanoseconds) > FARTHEST:
        raise ValueError("a time of more than 64 bits")
    return nanoseconds


def _names(found: Iterable[Any] | None) -> list[str]:
    return sorted(map(_text, found or ()))


def _summary_v3(item: dict[str, Any]) -> TraceSummary:
    # Zeros and empty texts are left out.
    start = _moment(item.get("minStartTimeUnixNano", 0))
    root = _text(item.get("rootServiceName", ""))
    return TraceSummary(
        trace_id=_trace_id(item["traceId"]),
        name=_text(item.get("rootOperationName", "")),
        service=root,
        services=root_first(root, (_text(service.get("name", "")) for service in item.get("services") or ())),
        start=start,
        duration=max(0, _moment(item.get("maxEndTimeUnixNano", 0)) - start),
        span_count=int(item.get("spanCount", 0)),
        error_count=int(item.get("errorSpanCount", 0)),
    )


class _Group:
    """What many spans of an answer have in common. It may come behind them."""

    __slots__ = ("complete", "processes", "resource", "scope")

    def __init__(self, complete: bool) -> None:
        #: Whether all of it has come.
        self.complete = complete
        self.resource: dict[str, Any] = {}
        self.scope = ""
        self.processes: dict[Any, Any] = {}


class _Read(NamedTuple):
    """A span as it was read."""

    item: dict[str, Any]
    group: _Group
    scope: _Group
    trace_id: str
    span_id: str
    start: int
    is_root: bool
    make: Callable[[dict[str, Any], _Group, _Group], Span]

    def span(self) -> Span:
        return self.make(self.item, self.group, self.scope)


class _Kept:
    """The earliest ``most`` of many spans, and as many roots: clocks disagree, and a root may seem to be late."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self.cut = False
        self._earliest: list[tuple[int, int, _Read]] = []
        self._roots: list[_Read] = []

    def add(self, read: _Read) -> None:
        self.count += 1
        entry = (-read.start, -self.count, read)
        if len(self._earliest) < self.most:
            heappush(self._earliest, entry)
            return
        _start, _count, passed = heappushpop(self._earliest, entry)
        if passed.is_root and len(self._roots) < max(self.most // 100, 1):
            self._roots.append(passed)

    def spans(self) -> list[Span]:
        return [read.span() for read in (*(entry[2] for entry in self._earliest), *self._roots)]


def _closing(first: Span, spans: Generator[Span, None, None]) -> Iterator[Span]:
    """``first`` and the others; the connection ends with whoever takes them."""
    try:
        yield from chain((first,), spans)
    finally:
        spans.close()


#: What is raised of an answer that is none of Jaeger's.
_NOT_JAEGER: Final = (AttributeError, KeyError, TypeError, ValueError, RecursionError)


def _decoded(read: Callable[[], bytes]) -> Any:
    """The JSON, None where it is none."""
    body = b"".join(iter(read, b""))
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _walk_v3(stream: JsonStream) -> Iterator[_Read]:
    found = False
    for key in stream.members():
        if key == "result":
            found = True
            for inner in stream.members():
                if inner == "resourceSpans":
                    for _ in stream.items():
                        yield from _walk_resource(stream)
                else:
                    stream.value()
        else:
            stream.value()
    if not found:
        raise KeyError("result")


def _walk_resource(stream: JsonStream) -> Iterator[_Read]:
    group = _Group(complete=True)
    for key in stream.members():
        if key == "resource":
            group.resource = _attributes_v3((stream.value() or {}).get("attributes"))
        elif key == "scopeSpans":
            for _ in stream.items():
                scope = _Group(complete=True)
                for inner in stream.members():
                    if inner == "scope":
                        scope.scope = _text((stream.value() or {}).get("name", ""))
                    elif inner == "spans":
                        for _ in stream.items():
                            yield _read_v3(stream.value(), group, scope)
                    else:
                        stream.value()
        else:
            stream.value()


def _read_v3(item: dict[str, Any], group: _Group, scope: _Group) -> _Read:
    return _Read(
        item,
        group,
        scope,
        _trace_id(item["traceId"]),
        _span_id(item["spanId"]),
        _moment(item.get("startTimeUnixNano", 0)),
        not item.get("parentSpanId"),
        lambda item, group, scope: _span_v3(item, group.resource, scope.scope),
    )


def _span_v3(item: dict[str, Any], resource: dict[str, Any], scope: str) -> Span:
    status = item.get("status") or {}
    return Span(
        trace_id=_trace_id(item["traceId"]),
        span_id=_span_id(item["spanId"]),
        parent_id=_span_id(item.get("parentSpanId", "")),
        name=_text(item.get("name", "")),
        kind=_KINDS.get(item.get("kind"), "internal"),
        service=str(resource.get("service.name", "")),
        start=_moment(item.get("startTimeUnixNano", 0)),
        end=_moment(item.get("endTimeUnixNano", 0)),
        status=_STATUSES.get(status.get("code"), "unset"),
        status_message=_text(status.get("message", "")),
        attributes=_attributes_v3(item.get("attributes")),
        events=[
            Event(
                _text(event.get("name", "")),
                _moment(event.get("timeUnixNano", 0)),
                _attributes_v3(event.get("attributes")),
            )
            for event in item.get("events") or ()
        ],
        links=[
            Link(_trace_id(link["traceId"]), _span_id(link["spanId"]), _attributes_v3(link.get("attributes")))
            for link in item.get("links") or ()
        ],
        resource=resource,
        scope=scope,
    )


def _attributes_v3(items: Iterable[dict[str, Any]] | None, depth: int = DEEPEST) -> dict[str, Any]:
    return {_text(item["key"]): _value_v3(item.get("value") or {}, depth) for item in items or ()}


def _value_v3(value: dict[str, Any], depth: int = DEEPEST) -> Any:
    """An AnyValue in protobuf's JSON: integers of 64 bits are strings. What lies deeper than ``depth`` is …"""
    if not depth:
        return "…"
    for kind, item in value.items():
        if kind == "intValue":
            return int(item)
        if kind == "doubleValue":
            return float(item)
        if kind == "arrayValue":
            return [_value_v3(each, depth - 1) for each in item.get("values") or ()]
        if kind == "kvlistValue":
            return _attributes_v3(item.get("values"), depth - 1)
        return shallow(item)
    return None


# ----- v1

#: Tags that say what has a place of its own: https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/
_OWN_TAGS: Final = frozenset(
    {
        "span.kind",
        "error",
        "otel.status_code",
        "otel.status_description",
        "otel.scope.version",
        "otel.library.version",
        "internal.span.format",
        "w3c.tracestate",
    }
)
#: Where the name of a span's scope stands, from version to version.
_SCOPE_TAGS: Final = ("otel.scope.name", "otel.library.name")
_NAMED_KINDS: Final = frozenset({"server", "client", "producer", "consumer"})


def _walk_v1(stream: JsonStream) -> Iterator[_Read]:
    found = False
    for key in stream.members():
        if key == "data":
            found = True
            for _ in stream.items():
                group = _Group(complete=False)
                for inner in stream.members():
                    if inner == "spans":
                        for _ in stream.items():
                            yield _read_v1(stream.value(), group)
                    elif inner == "processes":
                        group.processes = stream.value() or {}
                    else:
                        stream.value()
                group.complete = True
        else:
            stream.value()
    if not found:
        raise KeyError("data")


def _read_v1(item: dict[str, Any], group: _Group) -> _Read:
    return _Read(
        item,
        group,
        group,
        _trace_id(item["traceID"]),
        _span_id(item["spanID"]),
        _moment(item["startTime"], 1000),
        not item.get("references"),
        lambda item, group, _scope: _span_v1(item, _process(item, group)),
    )


def _process(item: dict[str, Any], group: _Group) -> dict[str, Any]:
    return group.processes.get(item.get("processID")) or item.get("process") or {}


class _Sum:
    """A trace in one line, of its spans as they come."""

    def __init__(self, group: _Group) -> None:
        self.group = group
        self.count = self.errors = 0
        self.start = self.end = 0
        self.root: tuple[bool, int, _Read] | None = None
        self.processes: dict[Any, _Read] = {}

    def add(self, read: _Read) -> None:
        span = read.span()
        self.start = span.start if not self.count else min(self.start, span.start)
        self.end = span.end if not self.count else max(self.end, span.end)
        self.count += 1
        self.errors += span.failed
        if self.root is None or (bool(span.parent_id), span.start) < self.root[:2]:
            self.root = bool(span.parent_id), span.start, read
        if len(self.processes) < MOST_PROCESSES:
            self.processes.setdefault(str(read.item.get("processID")), read)

    def summary(self, trace_id: str) -> TraceSummary:
        assert self.root is not None
        root = self.root[2].span()
        return TraceSummary(
            trace_id=trace_id,
            name=root.name,
            service=root.service,
            services=root_first(root.service, (read.span().service for read in self.processes.values())),
            start=self.start,
            duration=max(0, self.end - self.start),
            span_count=self.count,
            error_count=self.errors,
        )


def _summaries_v1(stream: JsonStream) -> list[TraceSummary]:
    """The older dialect gives whole traces, of which no more is kept than a line."""
    sums: dict[str, _Sum] = {}
    for read in _walk_v1(stream):
        known = sums.get(read.trace_id)
        if known is None:
            known = sums[read.trace_id] = _Sum(read.group)
        known.add(read)
    found = [known.summary(trace_id) for trace_id, known in sums.items()]
    return sorted(found, key=lambda summary: (summary.start, summary.trace_id), reverse=True)


def _span_v1(item: dict[str, Any], process: dict[str, Any]) -> Span:
    tags = _tags(item.get("tags"))
    # Versions before 1.52 take the scope for a part of the process.
    resource = _tags(process.get("tags"))
    scopes = [found.pop(name, "") for found in (resource, tags) for name in _SCOPE_TAGS]
    resource.pop("otel.library.version", None)
    resource.pop("otel.scope.version", None)
    trace_id = _trace_id(item["traceID"])
    service = str(process.get("serviceName", ""))
    parent_id = ""
    links: list[Link] = []
    for reference in item.get("references") or ():
        other, span_id = _trace_id(reference["traceID"]), _span_id(reference["spanID"])
        if not parent_id and reference.get("refType") == "CHILD_OF" and other == trace_id:
            parent_id = span_id
        else:
            links.append(Link(other, span_id))
    code = str(tags.get("otel.status_code", "")).lower()
    failed = code == "error" or str(tags.get("error", "")).lower() == "true"
    start = _moment(item["startTime"], 1000)
    kind = tags.get("span.kind")
    return Span(
        trace_id=trace_id,
        span_id=_span_id(item["spanID"]),
        parent_id=parent_id,
        name=_text(item.get("operationName", "")),
        kind=cast(Kind, kind) if kind in _NAMED_KINDS else "internal",
        service=service,
        start=start,
        end=start + _moment(item.get("duration", 0), 1000),
        status="error" if failed else "ok" if code == "ok" else "unset",
        status_message=str(tags.get("otel.status_description", "")),
        attributes={key: value for key, value in tags.items() if key not in _OWN_TAGS},
        events=[_event_v1(log) for log in item.get("logs") or ()],
        links=links,
        resource={"service.name": service, **resource},
        scope=str(next(filter(None, scopes), "")),
    )


def _event_v1(log: dict[str, Any]) -> Event:
    fields = _tags(log.get("fields"))
    return Event(str(fields.pop("event", "")), _moment(log["timestamp"], 1000), fields)


def _tags(items: Iterable[dict[str, Any]] | None) -> dict[str, Any]:
    return {_text(item["key"]): _tag(item) for item in items or ()}


def _tag(item: dict[str, Any]) -> Any:
    kind, value = item.get("type"), item.get("value")
    # Integers that JavaScript can't hold come as text.
    if kind == "int64":
        return int(value)  # type: ignore[arg-type]
    return shallow(value)
