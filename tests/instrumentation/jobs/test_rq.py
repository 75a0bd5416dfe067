"""Test the spans of RQ's jobs, on a real Redis."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest

pytest.importorskip("rq")

import redis
from rq import Queue, SimpleWorker
from rq.job import Job

from django_tracing import create_span, get_correlation_id
from django_tracing.instrumentation.jobs import rq as instrumentation
from tests.conftest import Spans


def remember(*args: Any, **kwargs: Any) -> Any:
    with create_span("inside"):
        return [list(args), kwargs, get_correlation_id()]


def fail() -> None:
    raise ValueError("password=hunter2")


@pytest.fixture
def connection(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queue(connection: Any) -> Queue:
    return Queue(f"shop-{uuid.uuid4().hex}", connection=connection)


def work(queue: Queue) -> None:
    SimpleWorker([queue], connection=queue.connection).work(burst=True, logging_level="CRITICAL")


def test_every_way_to_enqueue_a_job_is_in_the_trace(spans: Spans, queue: Queue) -> None:
    with create_span("request"):
        first = queue.enqueue(remember, 1, color="red", meta={"mine": 1})
        queue.enqueue_many([Queue.prepare_data(remember, (2,)), Queue.prepare_data(remember, (3,))])
        queue.enqueue(remember, 4, depends_on=first)
    work(queue)
    trace_id = spans.one("request").get_span_context().trace_id
    enqueued = {span.get_span_context().span_id for span in spans.named("task.enqueue.remember")}
    runs = spans.named("task.run.remember")
    assert len(enqueued) == len(runs) == 4
    assert {run.parent.span_id for run in runs if run.parent} == enqueued
    assert {run.get_span_context().trace_id for run in (*runs, *spans.named("inside"))} == {trace_id}
    first.refresh()
    assert first.meta["mine"] == 1
    assert first.return_value()[:2] == [[1], {"color": "red"}]


def test_a_scheduled_job_carries_the_trace(spans: Spans, queue: Queue) -> None:
    with create_span("request"):
        job = queue.enqueue_in(timedelta(hours=1), remember)
    spans.clear()
    Job.fetch(job.id, connection=queue.connection).perform()
    assert spans.one("task.run.remember").parent is not None


def test_a_queue_that_runs_jobs_at_once(spans: Spans, connection: Any) -> None:
    queue = Queue(f"shop-{uuid.uuid4().hex}", connection=connection, is_async=False)
    with create_span("request"):
        own = get_correlation_id()
        assert queue.enqueue(remember).return_value()[2] == own
        queue.enqueue(fail)
    run = spans.one("task.run.remember")
    assert run.parent is not None
    assert run.parent.span_id == spans.one("task.enqueue.remember").get_span_context().span_id
    failed = spans.one("task.run.fail")
    assert (failed.attributes or {})["task.status"] == "failed"
    assert "hunter2" not in failed.to_json()
    assert len(failed.events) == 1


def test_the_metadata_of_the_caller_is_not_changed(spans: Spans, queue: Queue) -> None:
    meta: dict[str, Any] = {"mine": 1}
    with create_span("request"):
        queue.enqueue(remember, meta=meta)
    assert meta == {"mine": 1}
    queue.enqueue(remember, meta=meta)
    assert meta == {"mine": 1}


def test_a_job_whose_data_cannot_be_read_fails_as_before(spans: Spans, queue: Queue) -> None:
    missing, unreadable = queue.enqueue("no.such.function"), queue.enqueue(remember)
    queue.connection.hset(unreadable.key, "data", b"nonsense")
    work(queue)
    assert (missing.get_status(), unreadable.get_status()) == ("failed", "failed")
    assert (spans.one("task.run.function").attributes or {})["task.status"] == "failed"


def test_uninstall_restores_everything(spans: Spans, queue: Queue) -> None:
    instrumentation.uninstall()
    try:
        assert not hasattr(Queue.enqueue_job, "__wrapped__")
        assert not hasattr(Job.perform, "__wrapped__")
        with create_span("request"):
            assert queue.enqueue(remember).meta == {}
        work(queue)
        assert [name for name in spans.names if not name.startswith("redis.")] == ["request", "inside"]
    finally:
        instrumentation.install()
