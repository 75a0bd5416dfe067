"""Write and read protobuf's wire format (https://protobuf.dev/programming-guides/encoding/), and OTLP's values in it.

Building protobuf's message objects costs ten times as much.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Final

__all__ = [
    "MOST_DEPTH",
    "encode_key_value",
    "encode_value",
    "field",
    "read_fields",
    "read_key_value",
    "utf8",
    "varint",
]

#: To how many levels nested values are read.
MOST_DEPTH: Final = 32
_double: Final = struct.Struct("<d")
_fixed64: Final = struct.Struct("<Q")
_fixed32: Final = struct.Struct("<I")
#: Wire types.
_VARINT: Final = 0
_FIXED64: Final = 1
_SIZED: Final = 2
_FIXED32: Final = 5


# ----- Writing


def varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def field(tag: int, payload: bytes) -> bytes:
    """Return a length-delimited field; ``tag`` is the whole tag byte, e.g. 0x0A for field 1."""
    length = len(payload)
    if length < 0x80:
        return bytes((tag, length)) + payload
    return bytes((tag,)) + varint(length) + payload


def utf8(text: str) -> bytes:
    # A lone surrogate (an undecodable byte of a path) must not break the batch.
    return text.encode("utf-8", "replace")


def encode_value(value: Any) -> bytes:
    """Encode an AnyValue. Raise ValueError or TypeError for values that OTLP does not support."""
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, str):
        return field(0x0A, utf8(value))
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("an integer of more than 64 bits")
        return b"\x18" + varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + _double.pack(value)
    if isinstance(value, bytes):
        return field(0x3A, value)
    if isinstance(value, Mapping):
        return field(0x32, b"".join(field(0x0A, encode_key_value(str(key), item)) for key, item in value.items()))
    if isinstance(value, Sequence):
        return field(0x2A, b"".join(field(0x0A, encode_value(item)) for item in value))
    raise TypeError(f"a value of type {type(value).__name__}")


def encode_key_value(key: str, value: Any) -> bytes:
    """Encode a KeyValue. Raise ValueError or TypeError for values that OTLP does not support."""
    # In a mapping, a key may be empty. It is not written then.
    return (field(0x0A, utf8(key)) if key else b"") + field(0x12, encode_value(value))


# ----- Reading


def read_fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, Any, int]]:
    """Yield the tag of each field from ``at`` to ``end``, its value, and the end of the value.

    The value of a length-delimited field is where its content begins. Raise ValueError if the data is damaged.
    """
    if not 0 <= at <= end <= len(data):
        raise ValueError("a field ends behind the message")
    value: Any
    while at < end:
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _read_varint(data, at - 1, end)
        kind = tag & 7
        if kind == _SIZED:
            # Most are shorter than 128 bytes.
            if at < end and data[at] < 0x80:
                value = at + 1
                at = value + data[at]
            else:
                length, value = _read_varint(data, at, end)
                at = value + length
        elif kind == _VARINT:
            value, at = _read_varint(data, at, end)
        elif kind == _FIXED64:
            value = data[at : at + 8]
            at += 8
        elif kind == _FIXED32:
            value = data[at : at + 4]
            at += 4
        else:
            raise ValueError("a field of an unknown type")
        if at > end:
            raise ValueError("a field ends behind the message")
        yield tag, value, at


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, min(at + 10, end)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("a number without an end")


def read_key_value(data: bytes, at: int, end: int) -> tuple[str, Any]:
    """Read a KeyValue as JSON has it: bytes become hexadecimal digits, NaN and infinities text. Raise ValueError."""
    return _key_value(data, at, end, MOST_DEPTH)


def _key_value(data: bytes, at: int, end: int, depth: int) -> tuple[str, Any]:
    key, value = "", None
    for tag, content, after in read_fields(data, at, end):
        if tag == 0x0A:
            key = str(data[content:after], "utf-8")
        elif tag == 0x12:
            value = _value(data, content, after, depth)
    return key, value


def _value(data: bytes, at: int, end: int, depth: int) -> Any:
    value: Any = None
    for tag, content, after in read_fields(data, at, end):
        if tag == 0x0A:
            value = str(data[content:after], "utf-8")
        elif tag == 0x10:
            value = bool(content)
        elif tag == 0x18:
            value = content - (1 << 64) if content >= 1 << 63 else content
        elif tag == 0x21:
            (number,) = _double.unpack(content)
            value = number if isfinite(number) else str(number)
        elif tag == 0x3A:
            value = data[content:after].hex()
        elif tag in (0x2A, 0x32):
            value = _nested(data, content, after, depth, mapping=tag == 0x32)
    return value


def _nested(data: bytes, at: int, end: int, depth: int, *, mapping: bool) -> Any:
    if not depth:
        return "…"
    members = [(content, after) for tag, content, after in read_fields(data, at, end) if tag == 0x0A]
    if mapping:
        return dict(_key_value(data, content, after, depth - 1) for content, after in members)
    return [_value(data, content, after, depth - 1) for content, after in members]
