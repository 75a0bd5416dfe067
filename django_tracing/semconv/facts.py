"""Extract what the local store keeps of each span beside its encoding: what lists, searches and figures need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from django_tracing.semconv.categories import category_of, is_statement
from django_tracing.semconv.names import ERROR_PROPAGATED
from django_tracing.semconv.requests import NO_REQUEST, RequestFacts, request_facts

__all__ = ["FACTS_BYTES", "EncodedSection", "SpanFacts", "facts_of"]

#: About how much memory the facts of a span take, beside its encoding.
FACTS_BYTES: Final = 250
#: What a span with values of wrong types may raise.
_INVALID: Final = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)


class SpanFacts(NamedTuple):
    """What is known of a span without decoding it. Ids are integers, and 0 is no parent; times are nanoseconds."""

    trace_id: int
    span_id: int
    parent_id: int
    name: str
    start: int
    end: int
    failed: bool
    #: Whether the error was raised in a child, which has ended before.
    propagated: bool
    #: Whether the time is that of a database, and whether it is a statement.
    is_sql: bool
    is_statement: bool
    #: The request, if the span should name its trace.
    request: RequestFacts


class EncodedSection(NamedTuple):
    """Spans of one resource and one scope, and their facts in the same order."""

    service: str
    #: Fields of a ResourceSpans message.
    resource: bytes
    #: Fields of a ScopeSpans message.
    scope: bytes
    #: Fields of a ScopeSpans message, too.
    spans: bytes | bytearray
    facts: Sequence[SpanFacts]


def facts_of(
    trace_id: int,
    span_id: int,
    parent_id: int,
    name: str,
    kind: str,
    start: int,
    end: int,
    failed: bool,
    attributes: Mapping[str, Any],
    resource: Mapping[str, Any],
) -> SpanFacts:
    """Return the facts of a span with these values."""
    try:
        request = request_facts(kind, attributes)
    except _INVALID:
        request = NO_REQUEST
    is_sql = category_of(kind, attributes, resource) == "sql"
    return SpanFacts(
        *(trace_id, span_id, parent_id, name, start, end if end > start else start, failed),
        failed and attributes.get(ERROR_PROPAGATED) is True,
        is_sql,
        is_sql and is_statement(attributes),
        request,
    )
