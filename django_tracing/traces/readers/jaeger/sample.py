"""Read the newest traces with all their spans, for what Jaeger does not count itself: routes, failures, targets.

Jaeger sends all of each span, so the time that this takes depends on the number of spans: a few traces tell how many
traces may be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from django_tracing.exceptions import JaegerError
from django_tracing.semconv.categories import KEYS
from django_tracing.traces.model import Span, Trace
from django_tracing.traces.readers.jaeger.conversion import QueryAPI, ReadSpan
from django_tracing.traces.readers.jaeger.http import QueryClient
from django_tracing.traces.readers.jaeger.json_stream import JsonStream

__all__ = ["PROBED_TRACES", "REQUESTS_AT_ONCE", "WHOLE_SPANS", "WHOLE_TRACES", "newest_traces"]

#: So many requests are sent at once.
REQUESTS_AT_ONCE: Final = 4
#: How many traces are read, of all services together.
WHOLE_TRACES: Final = 200
#: About how many spans they may have. A page is to take less than a second.
WHOLE_SPANS: Final = 6000
#: So many traces are read first.
PROBED_TRACES: Final = 20
#: At least so many traces are read of each service.
_FEWEST: Final = 10


class _Period(NamedTuple):
    """A period in seconds since the epoch."""

    since: float
    until: float


def newest_traces(
    client: QueryClient, api: QueryAPI, services: Sequence[str], since: float, until: float
) -> list[Trace]:
    """Return the newest traces with all their spans, about the same number of each service.

    Their spans have only the attributes that statistics need. Times are seconds since the epoch.
    """
    count = max(len(services), 1)
    depth, room = max(WHOLE_TRACES // count, _FEWEST), max(WHOLE_SPANS // count, 1)
    period = _Period(since, until)
    spans: dict[str, dict[str, Span]] = {}
    with ThreadPoolExecutor(min(REQUESTS_AT_ONCE, count), "django_tracing.jaeger") as pool:
        for found in pool.map(lambda service: _of_service(client, api, service, period, depth, room), services):
            for span in found:
                spans.setdefault(span.trace_id, {})[span.span_id] = span
    return [Trace(trace_id, members.values()) for trace_id, members in spans.items()]


def _of_service(
    client: QueryClient, api: QueryAPI, service: str, period: _Period, depth: int, room: int
) -> list[Span]:
    first = min(PROBED_TRACES, depth)
    found = _read(client, api, service, period, first, 2 * room)
    traces = len({span.trace_id for span in found})
    wanted = min(depth, traces * room // max(len(found), 1))
    # A quarter more is not worth a second request.
    if traces < first or wanted <= first * 5 // 4:
        return found
    return _read(client, api, service, period, wanted, 2 * room)


def _read(client: QueryClient, api: QueryAPI, service: str, period: _Period, depth: int, most: int) -> list[Span]:
    found: list[ReadSpan] = []

    def walk(stream: JsonStream) -> list[Span]:
        try:
            for read in api.walk(stream):
                found.append(read)
                if len(found) >= most:
                    break
        except JaegerError:
            if not found:
                raise
        # In version 1 the services of a trace's spans follow the spans.
        return [read.span(KEYS) for read in found if read.group.complete]

    return client.ask_for_spans(api.TRACES_PATH, api.query(service, *period, depth), walk, none=[])
