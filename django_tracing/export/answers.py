"""Read what a receiver answers: the spans that it rejected, and how long it asks to wait.

The bytes are from any program. Reading takes linear time and never raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django_tracing.redaction import cut, redact_text

__all__ = ["fields", "messages", "quoted", "rejected_spans", "retry_delay"]


#: How many bytes of an answer are read. gRPC lets a receiver send 4 MiB.
_LONGEST: Final = 65536


def quoted(text: str) -> str:
    """Return a receiver's ``text`` for a message. It may repeat headers of the request, which are secret."""
    return cut(redact_text(" ".join(text[:2000].split())), 200)


def rejected_spans(answer: bytes) -> tuple[int, str]:
    """Return the rejected spans of an ExportTraceServiceResponse, and the receiver's reason; 0 for other answers."""
    count, message = 0, b""
    answer = answer[:_LONGEST]
    # Field 1, partial_success. In it, field 1 is the number and field 2 the message.
    for partial in messages(answer, 1, is_cut=True):
        for number, value in fields(partial, is_cut=True):
            if number == 1 and isinstance(value, int):
                count = value
            elif number == 2 and isinstance(value, bytes):
                message = value
    # A negative number of 64 bits is no number of spans.
    return (count if count < 1 << 63 else 0), quoted(message[:8000].decode("utf-8", "replace"))


def retry_delay(details: bytes) -> float | None:
    """Return the seconds of the RetryInfo in a google.rpc.Status; None if there is none.

    https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto
    """
    for detail in messages(details, 3):
        kind = next(messages(detail, 1), b"")
        if kind.endswith(b"/google.rpc.RetryInfo"):
            duration = next(messages(next(messages(detail, 2), b""), 1), b"")
            parts = {number: value for number, value in fields(duration) if isinstance(value, int)}
            seconds, nanoseconds = parts.get(1, 0), parts.get(2, 0)
            return seconds + nanoseconds / 1e9 if seconds < 1 << 40 and nanoseconds < 10**9 else 0.0
    return None


def messages(data: bytes, wanted: int, *, is_cut: bool = False) -> Iterator[bytes]:
    """Yield the contents of the length-delimited fields with the number ``wanted``."""
    for number, value in fields(data, is_cut=is_cut):
        if number == wanted and isinstance(value, bytes):
            yield value


def fields(data: bytes, *, is_cut: bool = False) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message, up to the first that is malformed.

    If the message ``is_cut``, its last text or message may be shorter than its length.
    """
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            value: int | bytes
            value, place = _varint(data, place)
        elif kind in (1, 2, 5):
            length = 8 if kind == 1 else 4
            if kind == 2:
                length, place = _varint(data, place)
            if place < 0 or (length > len(data) - place and not (is_cut and kind == 2)):
                return
            value = data[place : place + length]
            place += length
        else:
            return
        if place < 0:
            return
        yield tag >> 3, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at ``place`` and the place behind it, which is -1 if there is no number."""
    value = shift = 0
    if place >= 0:
        for at in range(place, min(place + 10, len(data))):
            value |= (data[at] & 0x7F) << shift
            if data[at] < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at + 1
            shift += 7
    return 0, -1
