"""Count the stored traces that meet the conditions of each sampling rule."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final, NamedTuple

from django_tracing.exceptions import ReadError
from django_tracing.sampling.rules import RuleSet, TraceStart, start_of_work
from django_tracing.semconv import names
from django_tracing.semconv.requests import path_of
from django_tracing.traces.model import Span
from django_tracing.traces.readers.base import Reader

__all__ = ["Met", "count_met", "start_of"]

#: How many traces are read, how many spans of them, and for how many seconds.
_MOST_READ: Final = 100
_MOST_SPANS: Final = 20_000
_SECONDS: Final = 3.0


class Met(NamedTuple):
    """How many of the ``read`` traces meet the conditions of each rule, by the rule's id.

    Headers are not stored, so a rule with a header is missing.
    """

    counts: dict[int, int]
    read: int


def count_met(reader: Reader, rules: RuleSet, service: str) -> Met:
    """Count the newest traces that started in ``service``. Raise ReadError if none can be read."""
    deadline = time.monotonic() + _SECONDS
    counts: Counter[int] = Counter({compiled.rule.id: 0 for compiled in rules.compiled if not compiled.header})
    read = spans = 0
    now = time.time()
    for summary in reader.search(service=service, limit=_MOST_READ):
        if spans > _MOST_SPANS or time.monotonic() > deadline:
            break
        spans += summary.span_count
        try:
            trace = reader.trace(summary.trace_id)
        except ReadError:
            # The time for one page is over. What was counted is shown.
            if not read:
                raise
            break
        if trace is None or trace.root.service != service:
            continue
        read += 1
        start = start_of(trace.root)
        for compiled in rules.compiled:
            if compiled.rule.id in counts and not (compiled.failed(start, now) or compiled.user_failed(start)):
                counts[compiled.rule.id] += 1
    return Met(dict(counts), read)


def start_of(root: Span) -> TraceStart:
    """Return what started a stored trace, as rules compare it."""
    if root.kind == "server":
        start = TraceStart(
            method=_text(root, names.HTTP_METHOD, "http.request.method"),
            path=path_of(root.attributes),
            route=_text(root, names.HTTP_ROUTE),
        )
    else:
        start = start_of_work(root.name)
    return start._replace(user_id=_text(root, names.USER_ID), subscription=_text(root, names.USER_SUBSCRIPTION))


def _text(root: Span, *keys: str) -> str:
    """Return the first of the attributes that the span has, as text."""
    return next((str(root.attributes[key]) for key in keys if root.attributes.get(key) not in (None, "")), "")
