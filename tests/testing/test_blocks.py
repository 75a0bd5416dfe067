"""Test which spans a block captures: nested blocks, threads and tasks."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.test import (
    AsyncClient,
    Client,
)
from opentelemetry import propagate

from django_tracing.api.propagation import bind_trace_context
from django_tracing.api.spans import create_span
from django_tracing.testing import capture_spans

client = Client(raise_request_exception=False)

# ----- Blocks, threads and tasks


def test_the_outer_block_captures_the_spans_of_the_inner_block() -> None:
    with capture_spans() as outer:
        client.get("/empty/")
        with capture_spans() as inner:
            client.get("/async/")
        client.get("/missing/")
    assert inner.names == ["GET /async/"]
    assert outer.names == ["GET /empty/", "GET /async/", "GET /missing/"]


def test_spans_of_threads_started_in_a_block_are_captured() -> None:
    def work() -> None:
        with create_span("thread"):
            pass

    with capture_spans() as spans, create_span("main"), ThreadPoolExecutor(2) as pool:
        pool.submit(work).result()
        pool.submit(bind_trace_context(work)).result()
    assert sorted(spans.names) == ["main", "thread", "thread"]
    assert sorted(span.parent.name if span.parent else "" for span in spans) == ["", "", "main"]


def test_blocks_in_two_threads_do_not_mix() -> None:
    barrier = threading.Barrier(2, timeout=10)

    def work(name: str) -> list[str]:
        with capture_spans() as spans:
            barrier.wait()
            for _ in range(50):
                with create_span(name):
                    pass
            barrier.wait()
        return spans.names

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(work, ["a", "b"])
    assert (a, b) == (["a"] * 50, ["b"] * 50)


async def test_blocks_in_two_tasks_do_not_mix() -> None:
    entered = [asyncio.Event(), asyncio.Event()]

    async def work(index: int, path: str) -> list[str]:
        async with capture_spans() as spans:
            entered[index].set()
            await entered[1 - index].wait()
            await AsyncClient().get(path)
        return spans.names

    assert await asyncio.gather(work(0, "/async/"), work(1, "/empty/")) == [["GET /async/"], ["GET /empty/"]]


async def test_a_task_still_running_from_an_earlier_block_is_not_in_the_next() -> None:
    go_on = asyncio.Event()

    async def left_running() -> None:
        with create_span("left"):
            await go_on.wait()
            with create_span("left.child"):
                pass

    async with capture_spans() as first:
        task = asyncio.create_task(left_running())
        await asyncio.sleep(0)
    async with capture_spans() as second:
        with create_span("own"):
            go_on.set()
            await task
    assert first.names == []
    assert "(not ended in the block: left)" in first.tree()
    assert second.names == ["own"]


async def test_a_server_started_in_an_earlier_block_is_captured_by_the_next() -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def serve() -> None:
        while path := await asked.get():
            await AsyncClient().get(path)

    async with capture_spans():
        task = asyncio.create_task(serve())
        await asyncio.sleep(0)
    async with capture_spans() as spans:
        await asked.put("/async/")
        await asked.put("")
        await task
    assert spans.names == ["GET /async/"]


def test_spans_of_an_existing_thread_belong_to_the_block_of_their_trace() -> None:
    headers: dict[str, str] = {}
    both = threading.Barrier(2, timeout=10)

    def other_test() -> list[str]:
        with capture_spans() as spans:
            both.wait()
            both.wait()
        return spans.names

    with ThreadPoolExecutor(1) as server, ThreadPoolExecutor(1) as other:
        server.submit(int).result()
        names = other.submit(other_test)
        with capture_spans() as spans:
            both.wait()
            with create_span("mine"):
                propagate.inject(headers)
                server.submit(client.get, "/empty/", headers=headers).result()
            both.wait()
        assert spans.names == ["mine", "GET /empty/"]
        assert spans[1].parent is spans[0]
        assert names.result() == []


def test_reading_waits_for_other_threads() -> None:
    started, read = threading.Event(), threading.Event()

    def work() -> None:
        with create_span("slow"):
            started.set()
            read.wait(10)

    with capture_spans() as spans:
        thread = threading.Thread(target=work)
        thread.start()
        started.wait(10)
        # Ends while find() waits.
        threading.Timer(0.05, read.set).start()
        assert spans.find("slow")
        thread.join()


def test_an_exception_leaves_the_block_unchanged() -> None:
    with pytest.raises(KeyError), capture_spans() as spans:
        client.get("/empty/")
        raise KeyError
    assert len(spans) == 1


def test_a_block_can_be_entered_once() -> None:
    block = capture_spans()
    with block:
        pass
    with pytest.raises(RuntimeError, match=r"Call capture_spans\(\) for each block"), block:
        pass
