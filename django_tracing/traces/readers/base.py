"""Define what a reader of traces does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    # At run time the model imports this module: Reader is public under both names.
    from django_tracing.traces.model import (
        Dependencies,
        FoundSpan,
        RouteStatistics,
        SpanStream,
        Trace,
        TraceSummary,
    )

__all__ = ["NO_LIMITS", "LongReader", "Reader", "ReaderLimits", "limits_of"]


class ReaderLimits(NamedTuple):
    """What a reader can't read from its backend. Pages and commands adapt to it."""

    #: A search is sent for each service, so the pages start with the project's own service.
    per_service: bool = False
    #: Routes and the service map are computed from the newest traces only.
    newest_only: bool = False
    #: How many seconds a search goes back that has no start. None: to the oldest trace.
    lookback: float | None = None
    #: ``dependencies`` takes ``service``, too: the service map starts with the project's own service.
    map_per_service: bool = False


#: The limits of readers without an attribute ``limits``.
NO_LIMITS: Final = ReaderLimits()


def limits_of(reader: object) -> ReaderLimits:
    """Return the limits of ``reader``. A reader that has none, or something else under that name, has no limits."""
    try:
        limits = getattr(reader, "limits", None)
    except Exception:
        return NO_LIMITS
    return limits if isinstance(limits, ReaderLimits) else NO_LIMITS


class Reader(Protocol):
    """Reads traces from a backend. All methods raise :class:`~django_tracing.exceptions.ReadError`.

    ``start`` and ``end`` are seconds since the epoch and limit when traces began. Two more methods are optional, see
    :class:`LongReader`, and so is an attribute ``limits``, see :class:`ReaderLimits`.
    """

    def describe(self) -> str:
        """What is read, for people: a path, a URL. Without credentials."""
        ...

    def trace_link(self, trace_id: str) -> str | None:
        """Return the page of the trace in the backend's own UI; None if it has none."""
        ...

    def services(self) -> list[str]:
        """Return the names of the services that sent spans, sorted."""
        ...

    def operations(self, service: str) -> list[str]:
        """Return the names of the spans of ``service``, sorted."""
        ...

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
        """Return the newest traces that have one span of ``service`` and ``operation`` with all ``attributes``.

        Durations are those of the trace, in seconds; ``errors`` asks for at least one failed span. Attribute values
        are compared as text (``{"cache.hit": "true", "http.status_code": "404"}``), and a failed span has
        ``{"error": "true"}``. ``before`` is the start (nanoseconds) and the id of a trace: return older ones.
        """
        ...

    def trace(self, trace_id: str) -> Trace | None:
        """Return the trace whose id starts with ``trace_id`` (6 hex digits or more); None if there is none.

        If several ids start with it, raise ReadError. Of a long trace, return the earliest
        :data:`~django_tracing.traces.model.MOST_SPANS` spans and how many are left out.
        """
        ...

    def routes(
        self, *, service: str | None = None, start: float | None = None, end: float | None = None
    ) -> list[RouteStatistics]:
        """Return the durations of requests, tasks and commands, by service and name."""
        ...

    def dependencies(self, *, start: float | None = None, end: float | None = None) -> Dependencies:
        """Which services call each other, and which databases, caches and circuit breakers they call."""
        ...


class LongReader(Reader, Protocol):
    """A reader that can read a single span, and the spans of a trace one by one.

    Without these methods, pages and downloads read the whole trace.
    """

    def span(self, trace_id: str, span_id: str) -> FoundSpan | None:
        """Return one span; None if there is none."""
        ...

    def stream(self, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
        """Return all spans of a trace, the earliest first; None if there is no such trace.

        If ``grouped``, spans of one resource and scope follow each other. Raise what is known to be wrong at once,
        not when the spans are read.
        """
        ...
