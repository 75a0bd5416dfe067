"""Test context from and to messages, and across threads and tasks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from django_tracing import (
    bind_trace_context,
    create_span,
    current_trace_id,
    get_baggage,
    get_correlation_id,
    get_trace_context,
    set_baggage,
    use_trace_context,
)
from tests.api.asserts import is_child
from tests.conftest import Spans


@pytest.mark.parametrize("kind", [dict, lambda headers: [(k, v.encode()) for k, v in headers.items()]])
def test_a_consumer_continues_the_trace(spans: Spans, kind: Callable[[dict[str, str]], Any]) -> None:
    with create_span("publish"):
        set_baggage("tenant", "café & co")
        headers = get_trace_context()
    assert get_baggage("tenant") is None, "it ends with the block"
    assert {"traceparent", "baggage", "X-Correlation-ID"} <= headers.keys()
    with use_trace_context(kind(headers)), create_span("consume"):
        assert get_baggage("tenant") == "café & co"
        assert get_correlation_id() == headers["X-Correlation-ID"]
    assert is_child(spans.one("consume"), spans.one("publish"))
    assert get_correlation_id() is None


async def test_a_consumer_without_a_valid_context_starts_a_trace(spans: Spans) -> None:
    for headers in ({}, {"traceparent": "nonsense", "X-Correlation-ID": "a b"}, [("traceparent", 7)], 7):
        async with use_trace_context(headers), create_span("consume"):  # type: ignore[arg-type]
            assert get_correlation_id()
    assert [span.parent for span in spans.named("consume")] == [None] * 4


def test_a_consumer_keeps_the_decision_of_an_unsampled_caller(spans: Spans) -> None:
    with use_trace_context({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}), create_span("consume"):
        assert current_trace_id() == "ab" * 16
        assert get_trace_context()["traceparent"].startswith(f"00-{'ab' * 16}-")
        with create_span("step"):
            pass
    assert spans.names == []


# ----- Threads and tasks


def work() -> str | None:
    with create_span("work"):
        return current_trace_id()


def test_a_thread_pool(spans: Spans) -> None:
    with create_span("request"), concurrent.futures.ThreadPoolExecutor(4) as pool:
        own = current_trace_id()
        assert pool.submit(bind_trace_context(work)).result() == own
        assert list(pool.map(bind_trace_context(lambda _: work()), range(8))) == [own] * 8
        assert pool.submit(work).result() != own, "without the helper, a thread has no context"


def test_a_thread(spans: Spans) -> None:
    with create_span("request"):
        thread = threading.Thread(target=bind_trace_context(work))
        thread.start()
        thread.join()
    assert is_child(spans.one("work"), spans.one("request"))


async def test_asyncio_and_asgiref(spans: Spans) -> None:
    async def work_async() -> str | None:
        return work()

    with create_span("request"):
        own = current_trace_id()
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, bind_trace_context(work)) == own
        assert await asyncio.create_task(work_async()) == own
        assert await asyncio.to_thread(work) == own
        assert await sync_to_async(work)() == own
        bound = bind_trace_context(work_async)
    assert await bound() == own
    assert all(is_child(span, spans.one("request")) for span in spans.named("work"))
