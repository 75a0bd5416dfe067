"""OTLP over HTTP: spans in protobuf's wire format, written directly, sent over one kept-alive connection.

The message is ``ExportTraceServiceRequest`` of
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/collector/trace/v1/trace_service.proto
and decodes to what upstream's encoder makes. Building protobuf's message objects costs ten times as much.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind

from django_tracing.export.errors import ExportError, checked_headers, from_os_error, from_status
from django_tracing.export.sdk import plain_attributes

__all__ = ["OTLPHTTPExporter", "encode_spans", "rejected_spans"]

_fixed64: Final = struct.Struct("<Q").pack
_double: Final = struct.Struct("<d").pack
_fixed32: Final = struct.Struct("<I").pack

_KINDS: Final = {
    SpanKind.INTERNAL: 1,
    SpanKind.SERVER: 2,
    SpanKind.CLIENT: 3,
    SpanKind.PRODUCER: 4,
    SpanKind.CONSUMER: 5,
}
#: Span.flags: bit 8 says that bit 9 is known, bit 9 that the parent is in another process.
_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200

#: What may stand in a URL's path and query as it is, percent signs of what is quoted already among it.
_URL_SAFE: Final = "/%:@!$&'()*+,;=?~"
#: UnicodeError: a host name that the rules of international names do not allow.
_TRANSPORT_ERRORS: Final = (OSError, http.client.HTTPException, UnicodeError)
#: How a kept-alive connection shows that its other end has closed it.
_STALE: Final = (ConnectionError, http.client.CannotSendRequest, ssl.SSLEOFError, ssl.SSLZeroReturnError)

#: Encoded attributes, with their length, that come again and again, by key, type and value (1 and True are equal).
_attributes: Final[dict[tuple[str, type, Any], bytes]] = {}
_CACHED_ATTRIBUTES: Final = 4096
_CACHED_LENGTH: Final = 256


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(tag: int, payload: bytes) -> bytes:
    """A length-delimited field; ``tag`` is the whole tag byte, e.g. 0x0A for field 1."""
    length = len(payload)
    if length < 0x80:
        return bytes((tag, length)) + payload
    return bytes((tag,)) + _varint(length) + payload


def _sized(payload: bytes) -> bytes:
    return _varint(len(payload)) + payload


def _utf8(text: str) -> bytes:
    # A lone surrogate (an undecodable byte of a path) must cost itself, not the batch.
    return text.encode("utf-8", "replace")


def _value(value: Any) -> bytes:
    """An AnyValue. Raises ValueError or TypeError for what OTLP has no place for."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        return _field(0x0A, _utf8(value))
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("an integer of more than 64 bits")
        return b"\x18" + _varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    if isinstance(value, bytes):
        return _field(0x3A, value)
    if isinstance(value, Mapping):
        return _field(0x32, b"".join(_field(0x0A, _key_value(str(key), item)) for key, item in value.items()))
    if isinstance(value, Sequence):
        return _field(0x2A, b"".join(_field(0x0A, _value(item)) for item in value))
    raise TypeError(f"a value of type {type(value).__name__}")


def _key_value(key: str, value: Any) -> bytes:
    return _field(0x0A, _utf8(key)) + _field(0x12, _value(value))


def _attributes_fields(tag: int, holder: Any) -> bytes:
    """Each attribute of ``holder`` as one field of ``tag``; what can't be encoded is left out."""
    attributes = plain_attributes(holder)
    if not attributes:
        return b""
    marker = bytes((tag,))
    parts: list[bytes] = []
    for key, value in attributes.items():
        kind = value.__class__
        cached: bytes | None = None
        # Sequences are left alone: (1,) and (True,) are equal too, and would be taken for one another.
        cacheable = kind is bool or kind is int or (kind is str and len(value) <= _CACHED_LENGTH)
        if cacheable:
            cached = _attributes.get((key, kind, value))
        if cached is None:
            try:
                cached = _sized(_key_value(key, value))
            except (TypeError, ValueError, RecursionError):
                continue
            if cacheable:
                if len(_attributes) >= _CACHED_ATTRIBUTES:
                    _attributes.clear()
                _attributes[(key, kind, value)] = cached
        parts.append(marker)
        parts.append(cached)
    return b"".join(parts)


def _flags(parent: SpanContext | None) -> int:
    return _HAS_IS_REMOTE | _IS_REMOTE if parent is not None and parent.is_remote else _HAS_IS_REMOTE


def _span(span: ReadableSpan) -> bytes:
    context = span.context
    assert context is not None
    parts = [b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big")]
    add = parts.append
    if context.trace_state:
        add(_field(0x1A, _utf8(",".join(f"{key}={value}" for key, value in context.trace_state.items()))))
    parent = span.parent
    if parent is not None:
        add(b"\x22\x08" + parent.span_id.to_bytes(8, "big"))
    if span.name:
        add(_field(0x2A, _utf8(span.name)))
    add(b"\x30" + _varint(_KINDS[span.kind]))
    if span.start_time:
        add(b"\x39" + _fixed64(span.start_time))
    if span.end_time:
        add(b"\x41" + _fixed64(span.end_time))
    add(_attributes_fields(0x4A, span))
    if span.dropped_attributes:
        add(b"\x50" + _varint(span.dropped_attributes))
    for event in span.events:
        payload = b"\x09" + _fixed64(event.timestamp) if event.timestamp else b""
        if event.name:
            payload += _field(0x12, _utf8(event.name))
        payload += _attributes_fields(0x1A, event)
        if event.dropped_attributes:
            payload += b"\x20" + _varint(event.dropped_attributes)
        add(_field(0x5A, payload))
    if span.dropped_events:
        add(b"\x60" + _varint(span.dropped_events))
    for link in span.links:
        payload = (
            b"\x0a\x10"
            + link.context.trace_id.to_bytes(16, "big")
            + b"\x12\x08"
            + link.context.span_id.to_bytes(8, "big")
            + _attributes_fields(0x22, link)
        )
        if link.dropped_attributes:
            payload += b"\x28" + _varint(link.dropped_attributes)
        add(_field(0x6A, payload + b"\x35" + _fixed32(_flags(link.context))))
    if span.dropped_links:
        add(b"\x70" + _varint(span.dropped_links))
    status = span.status
    if status is not None:
        payload = _field(0x12, _utf8(status.description)) if status.description else b""
        if status.status_code.value:
            payload += b"\x18" + _varint(status.status_code.value)
        add(_field(0x7A, payload))
    add(b"\x85\x01" + _fixed32(_flags(parent)))
    return b"".join(parts)


def encode_spans(spans: Iterable[ReadableSpan]) -> bytes:
    """An ExportTraceServiceRequest of ``spans``, grouped by resource and scope."""
    # By identity: a provider's spans share one resource, whose hash is a JSON text made anew at each look.
    grouped: dict[int, tuple[Resource, dict[int, tuple[InstrumentationScope | None, list[bytes]]]]] = {}
    for span in spans:
        resource, scope = span.resource, span.instrumentation_scope
        _, scopes = grouped.setdefault(id(resource), (resource, {}))
        scopes.setdefault(id(scope), (scope, []))[1].append(_field(0x12, _span(span)))
    request: list[bytes] = []
    for resource, scopes in grouped.values():
        payload = _field(0x0A, _attributes_fields(0x0A, resource))
        # A tracer asked for again may have a scope of its own that says the same.
        merged: dict[InstrumentationScope | None, list[bytes]] = {}
        for scope, encoded in scopes.values():
            merged.setdefault(scope or None, []).extend(encoded)
        for scope, encoded in merged.items():
            described = b""
            schema = b""
            if scope:
                described = _field(0x0A, _utf8(scope.name)) if scope.name else b""
                if scope.version:
                    described += _field(0x12, _utf8(scope.version))
                described += _attributes_fields(0x1A, scope)
                if scope.schema_url:
                    schema = _field(0x1A, _utf8(scope.schema_url))
            payload += _field(0x12, _field(0x0A, described) + b"".join(encoded) + schema)
        if resource.schema_url:
            payload += _field(0x1A, _utf8(resource.schema_url))
        request.append(_field(0x0A, payload))
    return b"".join(request)


class OTLPHTTPExporter(SpanExporter):
    """Sends spans to an OTLP/HTTP receiver, raising :class:`ExportError` for what was not taken.

    ``endpoint`` is the whole URL (``/v1/traces`` is added where its path is empty); credentials in it become Basic
    authentication. ``timeout`` is in seconds, for each connection attempt and each read. Proxies of the environment
    are not used: a collector is a neighbour. Not thread-safe, as no exporter has to be. Raises ValueError for a
    header that HTTP has no place for, without its value, which may be a secret.
    """

    def __init__(self, endpoint: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0) -> None:
        parts = urlsplit(endpoint)
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if self._secure else 80)
        path = quote(parts.path if parts.path not in ("", "/") else "/v1/traces", safe=_URL_SAFE)
        self._path = f"{path}?{quote(parts.query, safe=_URL_SAFE)}" if parts.query else path
        self.timeout = timeout
        #: Where to, for people: without credentials.
        shown_host = f"[{self._host}]" if ":" in self._host else self._host
        self._where = f"{shown_host}:{self._port}"
        self._url = f"{parts.scheme}://{self._where}{path}"
        self._headers = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": "django-tracing-otlp-exporter",
            **checked_headers(headers),
        }
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        self._tls: ssl.SSLContext | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._owner = 0
        self._shut_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends ``spans``; raises :class:`ExportError`."""
        if self._shut_down:
            return SpanExportResult.FAILURE
        self._send(encode_spans(spans))
        return SpanExportResult.SUCCESS

    def _send(self, body: bytes) -> None:
        fresh = self._connect()
        try:
            status, kind, retry_after, answer = self._post(body)
        except _TRANSPORT_ERRORS as error:
            if fresh or not isinstance(error, _STALE):
                raise self._failure(error) from None
            # The receiver dropped an idle connection: that says nothing of a new one.
            self._close()
            self._connect()
            try:
                status, kind, retry_after, answer = self._post(body)
            except _TRANSPORT_ERRORS as second:
                raise self._failure(second) from None
        if status >= 300:
            raise from_status(status, self._url, retry_after)
        if kind.startswith("text/html"):
            # Jaeger's UI, and many a proxy, answer anything with a page and 200.
            raise ExportError(
                f"{self._url} answers with a web page: it takes no spans.",
                reason="wrong_protocol",
                retryable=False,
                status=status,
            )
        rejected = rejected_spans(answer)
        if rejected:
            raise ExportError(
                f"{self._url} rejected {rejected} spans of a batch.",
                reason="rejected",
                retryable=False,
                status=status,
                rejected=rejected,
            )

    def _failure(self, error: OSError | http.client.HTTPException | UnicodeError) -> ExportError:
        self._close()
        if isinstance(error, OSError):
            return from_os_error(error, self._where)
        if isinstance(error, UnicodeError):
            return from_os_error(socket.gaierror(str(error)), self._where)
        return ExportError(f"{self._where} does not speak HTTP.", reason="wrong_protocol", retryable=False)

    def _connect(self) -> bool:
        """Makes sure there is a connection; True when it is a new one."""
        if self._connection is not None and self._owner == os.getpid():
            return False
        # A forked child must not speak on its parent's connection; closing its copy does not end the parent's.
        self._close()
        self._owner = os.getpid()
        if self._secure:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self.timeout, context=self._tls
            )
        else:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=self.timeout)
        return True

    def _post(self, body: bytes) -> tuple[int, str, str | None, bytes]:
        connection = self._connection
        assert connection is not None
        if connection.sock is not None:
            connection.sock.settimeout(self.timeout)
        connection.request("POST", self._path, body, self._headers)
        response = connection.getresponse()
        # Bounded: an endpoint that is something else may answer with anything.
        answer = response.read(65536)
        if response.read(1) or response.will_close:
            self._close()
        return response.status, response.getheader("Content-Type", ""), response.getheader("Retry-After"), answer

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def shutdown(self) -> None:
        self._shut_down = True
        self._close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def rejected_spans(answer: bytes) -> int:
    """ExportTraceServiceResponse.partial_success.rejected_spans; 0 for an answer that is none."""
    # Field 1, a message; in it field 1, a varint: protobuf writes fields in the order of their numbers.
    if answer[:1] != b"\x0a":
        return 0
    start = next((at for at, byte in enumerate(answer[1:11], 2) if byte < 0x80), 0)
    if not start or answer[start : start + 1] != b"\x08":
        return 0
    value = shift = 0
    for byte in answer[start + 1 : start + 11]:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    return 0
