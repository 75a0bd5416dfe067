"""Use the public API in strictly typed code. mypy checks this file (``make types``); it isn't run.

Each ignored line must be an error: otherwise mypy reports the comment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from typing_extensions import assert_type

from django_tracing import (
    add_span_event,
    bind_trace_context,
    create_span,
    current_trace_id,
    get_baggage,
    get_trace_context,
    record_span_error,
    set_baggage,
    set_span_attributes,
    trace,
    trace_cache_operation,
    trace_database_operation,
    trace_external_call,
    trace_function,
    trace_rate_limit_check,
    trace_url,
    use_trace_context,
)
from django_tracing.logs import TraceContextFilter, TracePageFilter, structlog_processor
from django_tracing.testing import capture_spans


@trace
def total(lines: list[int]) -> int:
    return sum(lines)


@trace("Orders.ship", attributes={"carrier": "post"}, capture=("order_id",))
async def ship(order_id: int, *, notify: bool = True) -> str:
    return f"shipped {order_id}"


@trace
class Invoices:
    def render(self, number: int) -> str:
        return str(number)

    @trace
    @classmethod
    def latest(cls) -> Invoices:
        return cls()


@trace("rows")
def rows() -> Iterator[int]:
    yield 1


@trace(capture=("start",))
async def pages(start: int) -> AsyncIterator[str]:
    yield str(start)


async def fetch() -> bytes:
    return b""


async def main() -> None:
    assert_type(total([1]), int)
    assert_type(await ship(1, notify=False), str)
    assert_type(Invoices().render(1), str)
    assert_type(Invoices.latest(), Invoices)
    assert_type(next(rows()), int)
    assert_type(await pages(1).__anext__(), str)
    assert_type(trace_function("size", lambda: 1), int)
    assert_type(await trace_function("fetch", fetch, {"a": 1}), bytes)
    with create_span("block", {"a": "b"}) as span:
        span.set_attributes({"c": 1.5})
        assert_type(span.is_recording, bool)
    async with create_span("block") as span:
        span.record_error(ValueError())
    assert_type(trace_cache_operation("get", "a:1", lambda: "x", system="redis"), str)
    assert_type(await trace_database_operation("select", "people", fetch), bytes)
    assert_type(trace_external_call("s", "GET", "http://s/", lambda headers: len(headers)), int)
    with trace_rate_limit_check("orders", user=1) as check:
        check.allowed, check.limit, check.remaining = True, 10, 9
    set_span_attributes({"a": 1})
    add_span_event("event")
    record_span_error(KeyError("x"))
    set_baggage("tenant", "t1")
    assert_type(get_baggage("tenant"), "str | None")
    assert_type(get_trace_context(), dict[str, str])
    assert_type(current_trace_id(), "str | None")
    assert_type(trace_url(), "str | None")
    async with use_trace_context([("traceparent", b"")]):
        pass
    assert_type(bind_trace_context(total)([1]), int)
    with capture_spans() as spans:
        assert_type(spans.names, list[str])
    assert_type(TraceContextFilter(), TraceContextFilter)
    assert_type(TracePageFilter(), TracePageFilter)
    structlog_processor(None, "info", {})


def wrong() -> None:
    total("no list")  # type: ignore[arg-type]
    create_span(7)  # type: ignore[arg-type]
    trace_function("size", lambda: 1).upper()  # type: ignore[attr-defined]
    trace("rows", captured=("a",))  # type: ignore[call-overload]
