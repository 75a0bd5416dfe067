"""Convert spans to rows of the local store and back."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from django_tracing.semconv.categories import breaker_state, category_of, target_of
from django_tracing.semconv.names import ERROR_PROPAGATED
from django_tracing.semconv.requests import request_facts
from django_tracing.traces.model import (
    Event,
    Link,
    Span,
    TraceSummary,
    root_first,
)
from django_tracing.traces.times import FARTHEST
from django_tracing.traces.topmost import Outline, Topmost, make_outline
from django_tracing.traces.values import parse_json, shallow

__all__ = [
    "SPAN_COLUMNS",
    "SUMMARY_COLUMNS",
    "Resources",
    "check_known",
    "check_trace_id",
    "check_types",
    "describe",
    "describe_request",
    "dump_json",
    "encodable",
    "outline_of_row",
    "prepare_rows",
    "shallow_attributes",
    "span_of_row",
    "summary_of_row",
]

_KINDS: Final = frozenset({"internal", "server", "client", "producer", "consumer"})
_STATUSES: Final = frozenset({"unset", "ok", "error"})


#: What a span with values of wrong types may raise.
_INVALID: Final = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)


SUMMARY_COLUMNS: Final = (
    'trace_id, name, service, services, start, "end", span_count, error_count, left_out, '
    "method, path, status_code, user, sql_count, sql_time, has_root, seq"
)
SPAN_COLUMNS: Final = (
    's.span_id, s.parent_id, s.name, s.kind, s.service, s.start, s."end", s.status, s.attributes, s.more, '
    "r.attributes"
)


def describe(kind: str, attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> tuple[str, str, str]:
    target = target_of(kind, attributes)
    return category_of(kind, attributes, resource), *(
        ("", "") if target is None else (target.kind, encodable(target.name))
    )


def describe_request(kind: str, attributes: Mapping[str, Any]) -> tuple[str, str, int | None, str]:
    """Return the columns that a trace gets from the span that names it."""
    try:
        facts = request_facts(kind, attributes)
    except _INVALID:
        return "", "", None, ""
    return encodable(facts.method), encodable(facts.path), facts.status_code, encodable(facts.user)


def encodable(value: Any) -> str:
    text = value if value.__class__ is str else str(value)
    # A lone surrogate (an undecodable byte of a path) must not lose the whole batch.
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


dump_json: Final = json.JSONEncoder(default=str, separators=(",", ":")).encode


def prepare_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the columns of spans, without those of invalid ones."""
    encoded = _Encoded()
    return [prepared for prepared in (_prepare_row(row, encoded) for row in rows) if prepared is not None]


class _Encoded:
    """The JSON of what many spans of a batch share."""

    def __init__(self) -> None:
        # With the resource, or another one could get its id.
        self._resources: dict[int, tuple[Any, str]] = {}
        self._scopes: dict[str, str] = {}

    def resource(self, resource: Any) -> str:
        known = self._resources.get(id(resource))
        if known is None:
            known = self._resources[id(resource)] = (resource, dump_json(resource))
        return known[1]

    def more(self, row: Mapping[str, Any]) -> str:
        """Return what has no column of its own. Most spans have only a scope."""
        found = {key: row[key] for key in _MORE if row.get(key)}
        scope = found.get("scope")
        if len(found) != 1 or scope.__class__ is not str:
            return dump_json(found)
        known = self._scopes.get(scope)
        if known is None:
            known = self._scopes[scope] = dump_json(found)
        return known


_MORE: Final = ("status_message", "events", "links", "scope", "trace_state")


def _prepare_row(row: Mapping[str, Any], encoded: _Encoded) -> dict[str, Any] | None:
    try:
        kind, status = row.get("kind"), row.get("status")
        kind = kind if kind in _KINDS else "internal"
        attributes, resource = row.get("attributes") or {}, row.get("resource") or {}
        start, end = int(row["start"]), int(row["end"])
        if not -FARTHEST < start < FARTHEST > end:
            return None
        return {
            "trace_id": f"{int(row['trace_id'], 16):032x}",
            "span_id": f"{int(row['span_id'], 16):016x}",
            "parent_id": f"{int(row['parent_id'], 16):016x}" if row.get("parent_id") else "",
            "name": encodable(row.get("name", "")),
            "kind": kind,
            "service": encodable(row.get("service", "")),
            "start": start,
            "end": max(end, start),
            "status": status if status in _STATUSES else "unset",
            "propagated": attributes.get(ERROR_PROPAGATED) is True,
            "attributes": dump_json(attributes),
            "resource": encoded.resource(resource),
            "described": (described := describe(kind, attributes, resource)),
            "state": breaker_state(attributes) if described[1] == "breaker" else "",
            # Of one span of the trace, this becomes its request.
            "facts": (kind, attributes),
            "more": encoded.more(row),
        }
    except _INVALID:
        return None


#: The types of columns. SQLite holds any value in any column, and other programs may have changed the file: whatever
#: shows a trace relies on them.
_SPAN_TYPES: Final = (*(str,) * 5, int, int, *(str,) * 3)
_OUTLINE_TYPES: Final = (*(str,) * 5, int, int, str)
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


def outline_of_row(row: tuple[Any, ...]) -> Outline:
    """Return the outline of a span whose attributes are JSON. They are parsed only if they are needed."""
    check_types(row, *_OUTLINE_TYPES)
    span_id, parent_id, name, kind, service, start, end, attributes = row
    needed = '"request.name"' in attributes or '"operation.type":"' in attributes
    parsed = parse_json(attributes) if needed else {}
    return make_outline(span_id, parent_id, name, kind, service, start, end, parsed)


def check_known(known: Collection[Any], *found: Any) -> None:
    """Raise LookupError for a word that this app never writes: the file is damaged."""
    if not set(found) <= set(known):
        raise LookupError("an unknown word")


class Resources:
    """Parses each resource once: many spans have the same one."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}

    def __getitem__(self, text: str | None) -> dict[str, Any]:
        found = self._known.get(text or "{}")
        if found is None:
            found = self._known[text or "{}"] = shallow_attributes(parse_json(text or "{}"))
        return found


def shallow_attributes(found: dict[str, Any]) -> dict[str, Any]:
    """Return ``found`` without values that are nested so deeply that a function would use up Python's stack."""
    return {key: shallow(value) for key, value in found.items()}


def _text(value: Any) -> str:
    check_types((value,), str)
    return value  # type: ignore[no-any-return]


def _number(value: Any) -> int:
    check_types((value,), int)
    return value  # type: ignore[no-any-return]


def span_of_row(trace_id: str, row: tuple[Any, ...], resources: Resources) -> Span:
    check_types(row[:-1], *_SPAN_TYPES)
    span_id, parent_id, name, kind, service, start, end, status, attributes, more, resource = row
    rest = parse_json(more)
    check_known(_KINDS, kind)
    check_known(_STATUSES, status)
    return Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent_id,
        name=name,
        kind=kind,
        service=service,
        start=start,
        end=end,
        status=status,
        status_message=_text(rest.get("status_message", "")),
        attributes=shallow_attributes(parse_json(attributes)),
        events=[
            Event(_text(event["name"]), _number(event["time"]), shallow_attributes(event["attributes"]))
            for event in rest.get("events", ())
        ],
        links=[
            Link(_text(link["trace_id"]), _text(link["span_id"]), shallow_attributes(link["attributes"]))
            for link in rest.get("links", ())
        ],
        resource=resources[resource],
        scope=_text(rest.get("scope", "")),
    )
