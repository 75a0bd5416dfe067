"""Convert and check the values of the local store's rows."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from django_tracing.semconv.categories import Category, category_of, target_of
from django_tracing.traces.model import TraceSummary, root_first
from django_tracing.traces.topmost import Topmost
from django_tracing.traces.values import parse_json

__all__ = [
    "SUMMARY_COLUMNS",
    "check_known",
    "check_trace_id",
    "check_types",
    "describe",
    "dump_json",
    "encodable",
    "summary_of_row",
]

SUMMARY_COLUMNS: Final = (
    'trace_id, name, service, services, start, "end", span_count, error_count, left_out, '
    "method, path, status_code, user, sql_count, sql_time, has_root, seq"
)


def describe(kind: str, attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> tuple[Category, str, str]:
    """Return the category of a span, and the kind and the name of what it calls."""
    target = target_of(kind, attributes)
    return category_of(kind, attributes, resource), *(
        ("", "") if target is None else (target.kind, encodable(target.name))
    )


def encodable(value: Any) -> str:
    text = value if value.__class__ is str else str(value)
    # A lone surrogate (an undecodable byte of a path) must not lose the whole batch.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


dump_json: Final = json.JSONEncoder(default=str, separators=(",", ":")).encode


#: The types of columns. SQLite holds any value in any column, and other programs may have changed the file: whatever
#: shows a trace relies on them.
_SUMMARY_TYPES: Final = (*(str,) * 4, *(int,) * 5, str, str, str, int, int)
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")


def check_types(found: Iterable[Any], *types: type) -> None:
    """Raise TypeError for a value that this app never writes into its column: the file is damaged."""
    if tuple(map(type, found)) != types:
        raise TypeError("a value of the wrong type")


def check_trace_id(trace_id: Any) -> None:
    """Raise TypeError or ValueError for what is no trace id. It becomes a part of addresses and names of files."""
    if not _TRACE_ID.fullmatch(trace_id):
        raise ValueError("not a trace id")


def summary_of_row(row: tuple[Any, ...], topmost: Topmost | None) -> TraceSummary:
    """Return the summary of a trace. ``topmost`` is given if the trace's root is not stored."""
    check_types((*row[:11], *row[12:15]), *_SUMMARY_TYPES)
    if row[11] is not None:
        # The status.
        check_types((row[11],), int)
    check_trace_id(row[0])
    trace_id, name, service, services, start, end, span_count, error_count, left_out, *more = row
    method, path, status_code, user, sql_count, sql_time, _has_root, _seq = more
    if topmost is not None:
        if topmost.name != name:
            # These are another span's.
            method, path, status_code = "", "", None
        name, service = topmost.name, topmost.service
    return TraceSummary(
        trace_id=trace_id,
        name=name,
        service=service,
        services=root_first(service, map(_text, parse_json(services))),
        start=start,
        duration=end - start,
        span_count=span_count,
        error_count=error_count,
        left_out=left_out,
        state="finished" if topmost is None else topmost.state,
        method=method,
        path=path,
        status_code=status_code,
        user=user,
        sql_count=sql_count,
        sql_time=sql_time,
    )


def check_known(known: Collection[Any], *found: Any) -> None:
    """Raise LookupError for a word that this app never writes: the file is damaged."""
    if not set(found) <= set(known):
        raise LookupError("an unknown word")


def _text(value: Any) -> str:
    check_types((value,), str)
    return value  # type: ignore[no-any-return]
