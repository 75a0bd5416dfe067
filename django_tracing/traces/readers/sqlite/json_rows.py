"""Encode spans that are JSON-able values, as older versions of the local store have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django_tracing.protobuf import encode_key_value, field, utf8, varint
from django_tracing.semconv.facts import EncodedSection, SpanFacts, facts_of
from django_tracing.semconv.otlp import KIND_NUMBERS, STATUS_NUMBERS
from django_tracing.traces.times import FARTHEST

__all__ = ["encode_rows"]

#: What a span with values of wrong types may raise.
_INVALID: Final = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)


def encode_rows(rows: Iterable[Mapping[str, Any]]) -> list[EncodedSection]:
    """Encode spans, without invalid ones. For the rows see ``export.local.span_row``."""
    sections: list[EncodedSection] = []
    for row in rows:
        try:
            resource, scope = row.get("resource") or {}, row.get("scope") or ""
            service = str(row.get("service", ""))
            encoded, facts = _encode(row, resource)
            head = (
                service,
                # The service is a part of the resource.
                field(0x0A, _attributes(0x0A, {**resource, "service.name": service} if service else resource)),
                field(0x0A, field(0x0A, utf8(scope)) if scope else b""),
            )
        except _INVALID:
            continue
        if not sections or sections[-1][:3] != head:
            sections.append(EncodedSection(*head, bytearray(), []))
        sections[-1].spans.extend(encoded)  # type: ignore[union-attr]
        sections[-1].facts.append(facts)  # type: ignore[attr-defined]
    return sections


def _encode(row: Mapping[str, Any], resource: Mapping[str, Any]) -> tuple[bytes, SpanFacts]:
    kind, status = str(row.get("kind")), str(row.get("status"))
    kind = kind if kind in KIND_NUMBERS else "internal"
    status = status if status in STATUS_NUMBERS else "unset"
    attributes = row.get("attributes") or {}
    start, end = int(row["start"]), int(row["end"])
    if not 0 <= start < FARTHEST > end:
        raise ValueError("a time of the far future")
    trace_id, span_id = int(row["trace_id"], 16), int(row["span_id"], 16)
    parent_id = int(row["parent_id"], 16) if row.get("parent_id") else 0
    name = str(row.get("name", ""))
    facts = facts_of(*(trace_id, span_id, parent_id, name, kind, start, end, status == "error", attributes, resource))
    message = str(row.get("status_message") or "")
    described = (field(0x12, utf8(message)) if message else b"") + (
        b"\x18" + varint(STATUS_NUMBERS[status]) if status != "unset" else b""
    )
    state = str(row.get("trace_state") or "")
    parts = [
        b"\x0a\x10" + trace_id.to_bytes(16, "big"),
        b"\x12\x08" + span_id.to_bytes(8, "big"),
        field(0x1A, utf8(state)) if state else b"",
        b"\x22\x08" + parent_id.to_bytes(8, "big") if parent_id else b"",
        field(0x2A, utf8(name)),
        b"\x30" + varint(KIND_NUMBERS[kind]),
        b"\x39" + start.to_bytes(8, "little"),
        b"\x41" + facts.end.to_bytes(8, "little"),
        _attributes(0x4A, attributes),
        *(field(0x5A, _event(event)) for event in row.get("events") or ()),
        *(field(0x6A, _link(link)) for link in row.get("links") or ()),
        field(0x7A, described),
    ]
    return field(0x12, b"".join(parts)), facts


def _event(event: Mapping[str, Any]) -> bytes:
    time = b"\x09" + int(event["time"]).to_bytes(8, "little")
    return time + field(0x12, utf8(str(event["name"]))) + _attributes(0x1A, event.get("attributes") or {})


def _link(link: Mapping[str, Any]) -> bytes:
    ids = b"\x0a\x10" + int(link["trace_id"], 16).to_bytes(16, "big")
    ids += b"\x12\x08" + int(link["span_id"], 16).to_bytes(8, "big")
    return ids + _attributes(0x22, link.get("attributes") or {})


def _attributes(tag: int, attributes: Mapping[str, Any]) -> bytes:
    return b"".join(field(tag, _attribute(str(key), value)) for key, value in attributes.items())


def _attribute(key: str, value: Any) -> bytes:
    try:
        return encode_key_value(key, value)
    except (TypeError, ValueError):
        # A number of more than 64 bits.
        return encode_key_value(key, str(value))
