"""Test reading what receivers answer, with protobuf's own encoding and with garbage."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from django_tracing.export.answers import quoted, rejected_spans, retry_delay
from django_tracing.export.errors import from_status, seconds_to_wait

rpc = pytest.importorskip("google.rpc.error_details_pb2")
status_pb2 = pytest.importorskip("google.rpc.status_pb2")


def encode(count: int, message: str) -> bytes:
    partial = ExportTracePartialSuccess(rejected_spans=count, error_message=message)
    return bytes(ExportTraceServiceResponse(partial_success=partial).SerializeToString())


@given(st.integers(0, 2**63 - 1), st.text(alphabet="abc ", max_size=100))
def test_a_partial_success(count: int, message: str) -> None:
    assert rejected_spans(encode(count, message)) == (count, " ".join(message.split()))


@pytest.mark.parametrize("length", [70_000, 5_000_000])
def test_a_message_of_any_length_does_not_hide_the_number(length: int) -> None:
    count, message = rejected_spans(encode(3, "too old " * (length // 8)))
    assert (count, message[:15]) == (3, "too old too old")


def test_a_negative_number_is_none() -> None:
    assert rejected_spans(encode(-5, "x")) == (0, "x")


@given(st.integers(0, 10**9), st.integers(0, 10**9 - 1))
def test_a_retry_info(seconds: int, nanoseconds: int) -> None:
    status = status_pb2.Status(code=8)
    status.details.add().Pack(rpc.QuotaFailure())
    info = rpc.RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = seconds, nanoseconds
    status.details.add().Pack(info)
    assert retry_delay(status.SerializeToString()) == pytest.approx(seconds + nanoseconds / 1e9)


def test_a_status_without_a_retry_info() -> None:
    status = status_pb2.Status(code=8)
    status.details.add().Pack(rpc.QuotaFailure())
    assert retry_delay(status.SerializeToString()) is None
    assert retry_delay(b"") is None


def test_a_negative_delay_is_none_at_all() -> None:
    info = rpc.RetryInfo()
    info.retry_delay.seconds, info.retry_delay.nanos = -7, -7
    status = status_pb2.Status()
    status.details.add().Pack(info)
    assert retry_delay(status.SerializeToString()) == 0


@given(st.binary(max_size=200), st.integers(0, 60))
def test_garbage_raises_nothing(garbage: bytes, place: int) -> None:
    good = encode(7, "some words of the receiver")
    for data in (garbage, good[:place] + garbage + good[place:], good[:place]):
        count, message = rejected_spans(data)
        assert 0 <= count < 1 << 63
        assert len(message) <= 201
        delay = retry_delay(data)
        assert delay is None or 0 <= delay < 1 << 41


@pytest.mark.parametrize("make", [lambda n: b"\x0a\x00" * n, lambda n: b"\xff" * n, lambda n: encode(1, "ab " * n)])
def test_long_answers_are_read_once(make: object) -> None:
    # Cut before they come here; this is about the number of steps, which would be billions.
    assert callable(make)
    rejected_spans(make(50_000))
    retry_delay(make(50_000))


def test_what_a_receiver_quotes_has_no_secret() -> None:
    assert "s3cret" not in quoted("no access with\nAuthorization: Basic dXNlcjpzM2NyZXQ= at http://u:s3cret@h/")


class TestRetryAfter:
    @pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("7", 7), (" 120\t", 120), ("999999999", 999999999)])
    def test_seconds(self, text: str, seconds: float) -> None:
        assert seconds_to_wait(text) == seconds

    @pytest.mark.parametrize("shift", [-100, 100, 5000])
    def test_a_date(self, shift: int) -> None:
        moment = time.time() + shift
        weekday = time.strftime("%A, %d-%b-%y %H:%M:%S GMT", time.gmtime(moment))
        for text in (formatdate(moment, usegmt=True), time.asctime(time.gmtime(moment)), weekday):
            assert seconds_to_wait(text) == pytest.approx(max(shift, 0), abs=5), text

    @pytest.mark.parametrize(
        "text",
        [None, "", "²", "٣", "-1", "1.5", "1e9", "nan", "inf", "soon", "9" * 10, "1" * 5000, "Mon, 99 Foo 2026",
         "Wed, 21 Oct 99999999999 07:28:00 GMT", "0x10", "1_0", "+5", "7, 8"],
    )  # fmt: skip
    def test_garbage_is_ignored(self, text: str | None) -> None:
        assert seconds_to_wait(text) is None
        assert from_status(503, "http://h", text).retry_after is None

    @given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9}"))
    def test_any_text(self, text: str) -> None:
        seconds = seconds_to_wait(text)
        assert seconds is None or seconds >= 0
