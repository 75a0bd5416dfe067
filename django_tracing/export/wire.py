"""Encode spans in OTLP's wire format.

The message is ``ExportTraceServiceRequest`` of
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/collector/trace/v1/trace_service.proto
and decodes to the same as OpenTelemetry's encoder. Building protobuf's message objects costs ten times as much. A
span is encoded when it ends: waiting spans are bytes in a buffer, which the garbage collector does not have to visit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status

from django_tracing.caches import make_room
from django_tracing.export.counters import drop_attributes
from django_tracing.protobuf import encode_key_value, encode_value, field, utf8, varint
from django_tracing.recording.sdk import plain_attributes
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import UNSET, RecordingSpan
from django_tracing.redaction import redact_tracestate
from django_tracing.semconv.otlp import KIND_NUMBERS

__all__ = ["EncodedBatch", "encode_resource", "encode_scope", "encode_span", "encode_spans"]

_fixed64: Final = struct.Struct("<Q").pack
_fixed32: Final = struct.Struct("<I").pack
#: trace_id, span_id and parent_span_id with their tags and lengths; ids are big-endian, numbers little-endian.
_root_ids: Final = struct.Struct(">HQQHQ").pack
_child_ids: Final = struct.Struct(">HQQHQHQ").pack
_times: Final = struct.Struct("<BQBQ").pack
_LOW: Final = (1 << 64) - 1

_KINDS: Final = {kind: KIND_NUMBERS[kind.name.lower()] for kind in SpanKind}
#: Span.flags: bit 8 means that bit 9 is known, bit 9 that the parent is in another process.
_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200

#: Encoded attributes, with their length, that occur often, by key, type and value (1 and True are equal).
_attributes: Final[dict[tuple[str, type, Any], bytes]] = {}
_CACHED_ATTRIBUTES: Final = 4096
_CACHED_LENGTH: Final = 256
#: Encoded names of attributes.
_keys: Final[dict[str, bytes]] = {}
#: Name -> the kind of spans with that name, and both encoded. (A kind is an Enum, which is slow to hash.)
_names: Final[dict[str, tuple[SpanKind, bytes]]] = {}


def _sized(payload: bytes) -> bytes:
    return varint(len(payload)) + payload


class _Lost:
    """How many attributes of what is being encoded can't be encoded: a 128-bit integer, an object of another type."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def add_to(self, tag: bytes, dropped: int) -> bytes:
        """Encode the number of dropped attributes: of ``dropped`` ones, and of those that were just left out."""
        if self.count:
            dropped += self.count
            drop_attributes("unencodable", self.count)
            self.count = 0
        return tag + varint(dropped) if dropped else b""


def _attributes_fields(tag: int, holder: Any, lost: _Lost) -> bytes:
    """Encode each attribute of ``holder`` as a field of ``tag``. Values that can't be encoded are left out."""
    attributes = plain_attributes(holder)
    return _fields_of(tag, attributes, lost) if attributes else b""


def _fields_of(tag: int, attributes: Mapping[str, Any], lost: _Lost) -> bytes:
    marker = bytes((tag,))
    parts: list[bytes] = []
    for key, value in attributes.items():
        kind = value.__class__
        cached: bytes | None = None
        # Not for sequences: (1,) and (True,) are equal as well, and would be confused.
        cacheable = (key.__class__ is str and len(key) <= _CACHED_LENGTH) and (
            kind is bool or kind is int or (kind is str and len(value) <= _CACHED_LENGTH)
        )
        if cacheable:
            cached = _attributes.get((key, kind, value))
        if cached is None:
            try:
                cached = _sized(encode_key_value(key, value))
            except (TypeError, ValueError, RecursionError):
                lost.count += 1
                continue
            if cacheable:
                make_room(_attributes, _CACHED_ATTRIBUTES)
                _attributes[(key, kind, value)] = cached
        parts.append(marker)
        parts.append(cached)
    return b"".join(parts)


def _unrepeated(attributes: Mapping[str, Any], lost: _Lost) -> bytes:
    """Encode a span's attributes without the cache: they are new, or cached by the object that shares them."""
    parts: list[bytes] = []
    for key, value in attributes.items():
        name = _keys.get(key) or _key(key)
        kind = value.__class__
        if kind is str:
            text = value.encode("utf-8", "replace")
            length = len(text)
            # With every length below 128, one byte each.
            if length + len(name) < 124:
                parts.append(b"\x4a%c%b\x12%c\x0a%c%b" % (length + len(name) + 4, name, length + 2, length, text))
                continue
        elif kind is bool and len(name) < 120:
            parts.append(b"\x4a%c%b\x12\x02\x10%c" % (len(name) + 4, name, value))
            continue
        elif kind is int and 0 <= value < 128 and len(name) < 120:
            parts.append(b"\x4a%c%b\x12\x02\x18%c" % (len(name) + 4, name, value))
            continue
        try:
            parts.append(b"\x4a" + _sized(name + field(0x12, encode_value(value))))
        except (TypeError, ValueError, RecursionError):
            lost.count += 1
    return b"".join(parts)


def _key(key: str) -> bytes:
    encoded = field(0x0A, utf8(key))
    if len(_keys) < _CACHED_ATTRIBUTES:
        _keys[key] = encoded
    return encoded


def _flags(parent: SpanContext | None) -> int:
    return _HAS_IS_REMOTE | _IS_REMOTE if parent is not None and parent.is_remote else _HAS_IS_REMOTE


#: Field 16, flags.
_LOCAL_FLAGS: Final = b"\x85\x01" + _fixed32(_HAS_IS_REMOTE)
_REMOTE_FLAGS: Final = b"\x85\x01" + _fixed32(_HAS_IS_REMOTE | _IS_REMOTE)
#: With an empty status before them.
_LOCAL_END: Final = b"\x7a\x00" + _LOCAL_FLAGS
_REMOTE_END: Final = b"\x7a\x00" + _REMOTE_FLAGS


def _span(span: ReadableSpan) -> bytes:
    context = span.context
    assert context is not None
    parts = [b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")]
    add = parts.append
    if context.trace_state:
        add(field(0x1A, utf8(redact_tracestate(context.trace_state.to_header()))))
    parent = span.parent
    if parent is not None:
        add(b"\x22\x08" + parent.span_id.to_bytes(8, "big"))
    if span.name:
        add(field(0x2A, utf8(span.name)))
    add(b"\x30" + varint(_KINDS[span.kind]))
    if span.start_time:
        add(b"\x39" + _fixed64(span.start_time))
    if span.end_time:
        add(b"\x41" + _fixed64(span.end_time))
    lost = _Lost()
    add(_attributes_fields(0x4A, span, lost))
    add(lost.add_to(b"\x50", span.dropped_attributes))
    add(_events(span, lost))
    add(_links(span, lost))
    if span.status is not None:
        add(_status(span.status))
    add(b"\x85\x01" + _fixed32(_flags(parent)))
    return b"".join(parts)


def _events(span: ReadableSpan, lost: _Lost) -> bytes:
    parts: list[bytes] = []
    for event in span.events:
        payload = b"\x09" + _fixed64(event.timestamp) if event.timestamp else b""
        if event.name:
            payload += field(0x12, utf8(event.name))
        payload += _attributes_fields(0x1A, event, lost)
        payload += lost.add_to(b"\x20", event.dropped_attributes)
        parts.append(field(0x5A, payload))
    if span.dropped_events:
        parts.append(b"\x60" + varint(span.dropped_events))
    return b"".join(parts)


def _links(span: ReadableSpan, lost: _Lost) -> bytes:
    parts: list[bytes] = []
    for link in span.links:
        payload = (
            b"\x0a\x10"
            + link.context.trace_id.to_bytes(16, "big")
            + b"\x12\x08"
            + link.context.span_id.to_bytes(8, "big")
            + _attributes_fields(0x22, link, lost)
        )
        payload += lost.add_to(b"\x28", link.dropped_attributes)
        parts.append(field(0x6A, payload + b"\x35" + _fixed32(_flags(link.context))))
    if span.dropped_links:
        parts.append(b"\x70" + varint(span.dropped_links))
    return b"".join(parts)


def _status(status: Status) -> bytes:
    payload = field(0x12, utf8(status.description)) if status.description else b""
    if status.status_code.value:
        payload += b"\x18" + varint(status.status_code.value)
    return field(0x7A, payload)


def _recorded(spans: Iterable[RecordingSpan]) -> list[bytes]:
    """Encode our own spans, each as :func:`encode_span` does. Their shared attributes are encoded once.

    One function for many spans: separate calls would double the cost.
    """
    encoded: list[bytes] = []
    lost = _Lost()
    for span in spans:
        trace_id = span.trace_id
        parent_id = span.parent_id
        named = _names.get(span.span_name)
        parts: list[bytes] = [
            _child_ids(0x0A10, trace_id >> 64, trace_id & _LOW, 0x1208, span.span_id, 0x2208, parent_id)
            if parent_id
            else _root_ids(0x0A10, trace_id >> 64, trace_id & _LOW, 0x1208, span.span_id),
            named[1]
            if named is not None and named[0] is span.span_kind
            else _name_and_kind(span.span_name, span.span_kind),
            _times(0x39, span.start_ns, 0x41, span.end_ns),
        ]
        for part in span.shared:
            parts.append(part.encoded or _encode_shared(part, lost))
        if span.own:
            parts.append(_unrepeated(span.own, lost))
        if span.trace_state:
            parts.append(field(0x1A, utf8(redact_tracestate(span.trace_state.to_header()))))
        if span.dropped or lost.count:
            parts.append(lost.add_to(b"\x50", span.dropped))
        if span.made_events is not None:
            parts.append(_events(span, lost))
        if span.made_links is not None:
            parts.append(_links(span, lost))
        status = span.span_status
        if status is UNSET:
            parts.append(_REMOTE_END if span.remote else _LOCAL_END)
        else:
            parts += (_status(status), _REMOTE_FLAGS if span.remote else _LOCAL_FLAGS)
        body = b"".join(parts)
        length = len(body)
        # From 128 bytes to 16 KiB, as nearly all spans are, the length takes two bytes.
        if 0x80 <= length < 0x4000:
            encoded.append(b"\x12%c%c%b" % (length & 0x7F | 0x80, length >> 7, body))
        else:
            encoded.append(field(0x12, body))
    return encoded


def _encode_shared(part: SharedAttributes, lost: _Lost) -> bytes:
    part.encoded = encoded = _unrepeated(part.attributes, lost)
    return encoded


def _name_and_kind(name: str, kind: SpanKind) -> bytes:
    encoded = (field(0x2A, utf8(name)) if name else b"") + b"\x30" + varint(_KINDS[kind])
    make_room(_names, _CACHED_ATTRIBUTES)
    if len(name) <= _CACHED_LENGTH:
        _names[name] = kind, encoded
    return encoded


def encode_span(span: ReadableSpan) -> bytes:
    """Encode ``span`` as a field of a ScopeSpans message."""
    return _recorded((span,))[0] if isinstance(span, RecordingSpan) else field(0x12, _span(span))


def _field_end(encoded: bytearray, start: int) -> int:
    """Return the end of the length-delimited field at ``start``, whose tag has one byte."""
    length = shift = 0
    for place in range(start + 1, start + 11):
        byte = encoded[place]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return place + 1 + length


class _Section:
    """The encoded spans of one resource and one scope."""

    __slots__ = ("encoded", "resource", "scope")

    def __init__(self, resource: Resource, scope: InstrumentationScope | None) -> None:
        self.resource = resource
        self.scope = scope
        self.encoded = bytearray()


class EncodedBatch:
    """Build a message of encoded spans, by resource and scope."""

    __slots__ = ("_sections", "count", "size")

    #: Encode a span before it is added. Return the result and its size.
    @staticmethod
    def pack(span: ReadableSpan) -> tuple[bytes, int]:
        encoded = encode_span(span)
        return encoded, len(encoded)

    @staticmethod
    def pack_all(spans: Sequence[ReadableSpan]) -> tuple[list[bytes], int] | None:
        """Encode all ``spans`` at once. Return None unless all are our own and have the same factory."""
        factory = getattr(spans[0], "factory", None)
        for span in spans:
            if span.__class__ is not RecordingSpan or span.factory is not factory:
                return None
        encoded = _recorded(spans)  # type: ignore[arg-type]
        return encoded, sum(map(len, encoded))

    def __init__(self) -> None:
        # By identity: a provider's spans share one resource, whose hash is computed from a new JSON text each time.
        self._sections: dict[tuple[int, int], _Section] = {}
        self.count = 0
        self.size = 0

    def add(self, span: ReadableSpan, encoded: bytes, size: int) -> None:
        """Add the result of :meth:`pack` for ``span``."""
        self._section(span).encoded += encoded
        self.count += 1
        self.size += size

    def add_all(self, spans: Sequence[ReadableSpan], encoded: list[bytes], size: int) -> None:
        """Add the result of :meth:`pack_all` for ``spans``."""
        self._section(spans[0]).encoded += b"".join(encoded)
        self.count += len(spans)
        self.size += size

    def _section(self, span: ReadableSpan) -> _Section:
        resource, scope = span.resource, span.instrumentation_scope
        section = self._sections.get((id(resource), id(scope)))
        if section is None:
            section = self._sections[id(resource), id(scope)] = _Section(resource, scope)
        return section

    def split(self) -> tuple[EncodedBatch, EncodedBatch]:
        """Return two batches with half of the spans each. There must be two spans or more."""
        halves = EncodedBatch(), EncodedBatch()
        middle = self.count // 2
        taken = 0
        for key, section in self._sections.items():
            encoded = section.encoded
            end = 0
            while end < len(encoded) and taken < middle:
                end = _field_end(encoded, end)
                taken += 1
            for half, part in zip(halves, (encoded[:end], encoded[end:]), strict=True):
                if part:
                    half._sections[key] = _Section(section.resource, section.scope)
                    half._sections[key].encoded = part
                    half.size += len(part)
        halves[0].count = middle
        halves[1].count = self.count - middle
        return halves

    def message(self) -> list[bytes | bytearray]:
        """Return the ExportTraceServiceRequest in pieces, which have some hundred kilobytes in total."""
        grouped: dict[int, tuple[Resource, list[_Section]]] = {}
        for section in self._sections.values():
            grouped.setdefault(id(section.resource), (section.resource, []))[1].append(section)
        request: list[bytes | bytearray] = []
        for resource, sections in grouped.values():
            payload: list[bytes | bytearray] = [encode_resource(resource)]
            # Two tracers of the same name have equal scopes.
            merged: dict[InstrumentationScope | None, list[bytearray]] = {}
            for section in sections:
                merged.setdefault(section.scope or None, []).append(section.encoded)
            for scope, encoded in merged.items():
                described, schema = encode_scope(scope)
                payload += _long_field(0x12, [described, *encoded, schema])
            if resource.schema_url:
                payload.append(field(0x1A, utf8(resource.schema_url)))
            request += _long_field(0x0A, payload)
        return request


def encode_resource(resource: Resource) -> bytes:
    """Encode ``resource`` as a field of a ResourceSpans message."""
    return field(0x0A, _attributes_fields(0x0A, resource, _Lost()))


def encode_scope(scope: InstrumentationScope | None) -> tuple[bytes, bytes]:
    """Encode ``scope`` and its schema as fields of a ScopeSpans message."""
    described = b""
    schema = b""
    if scope:
        described = field(0x0A, utf8(scope.name)) if scope.name else b""
        if scope.version:
            described += field(0x12, utf8(scope.version))
        described += _attributes_fields(0x1A, scope, _Lost())
        if scope.schema_url:
            schema = field(0x1A, utf8(scope.schema_url))
    return field(0x0A, described), schema


def _long_field(tag: int, pieces: list[bytes | bytearray]) -> list[bytes | bytearray]:
    return [bytes((tag,)) + varint(sum(map(len, pieces))), *pieces]


def encode_spans(spans: Iterable[ReadableSpan]) -> bytes:
    """Encode ``spans`` as an ExportTraceServiceRequest, grouped by resource and scope."""
    batch = EncodedBatch()
    for span in spans:
        batch.add(span, *batch.pack(span))
    return b"".join(batch.message())
