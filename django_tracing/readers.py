"""Import what a reader of traces needs: the public names for readers of your own."""

from __future__ import annotations

from django_tracing.exceptions import ReadError
from django_tracing.traces.analysis.dependencies import links_of
from django_tracing.traces.analysis.routes import routes_of
from django_tracing.traces.model import (
    Dependencies,
    Dependency,
    Event,
    FoundSpan,
    Link,
    RouteStatistics,
    Span,
    SpanStream,
    Trace,
    TraceSummary,
)
from django_tracing.traces.query import trace_id_prefix
from django_tracing.traces.readers.base import LongReader, Reader, ReaderLimits
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite.store import LocalStore

__all__ = [
    "Dependencies",
    "Dependency",
    "Event",
    "FoundSpan",
    "JaegerReader",
    "Link",
    "LocalStore",
    "LongReader",
    "ReadError",
    "Reader",
    "ReaderLimits",
    "RouteStatistics",
    "Span",
    "SpanStream",
    "Trace",
    "TraceSummary",
    "links_of",
    "routes_of",
    "trace_id_prefix",
]
