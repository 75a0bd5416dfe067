"""Test the spans of Huey's tasks, with its storage in memory."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest

pytest.importorskip("huey")

from huey import MemoryHuey, RetryTask
from huey.serializer import Serializer

from django_tracing import create_span, get_correlation_id
from django_tracing.instrumentation.jobs import huey as instrumentation
from tests.conftest import Spans

logging.getLogger("huey").setLevel(logging.CRITICAL)
huey = MemoryHuey("shop")


@huey.task()
def add(first: int, second: int = 0, **kwargs: Any) -> Any:
    with create_span("inside"):
        return first + second


@huey.task(retries=2)
def retried() -> str | None:
    if len(seen) < 2:
        seen.append(get_correlation_id())
        raise RetryTask() if len(seen) == 1 else ValueError("password=hunter2")
    return get_correlation_id()


@huey.task(context=True)
def with_task(task: Any = None) -> Any:
    # The task itself can be pickled while it runs.
    return len(pickle.dumps(task.kwargs))


@huey.task()
def locked() -> None:
    with huey.lock_task("one"):
        pass


seen: list[Any] = []


@pytest.fixture(autouse=True)
def empty() -> None:
    huey.flush()
    seen.clear()


def work(instance: MemoryHuey = huey) -> None:
    """Run all tasks, as a worker does."""
    while (task := instance.dequeue()) is not None:
        instance.execute(task)


def test_a_pipeline_is_one_trace(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        huey.enqueue(add.s(1, second=2).then(add, 3))
    work()
    runs = spans.named("task.run.add")
    enqueued = spans.named("task.enqueue.add")
    assert [span.parent and span.parent.span_id for span in runs] == [
        span.get_span_context().span_id for span in enqueued
    ]
    assert enqueued[1].parent is not None
    assert enqueued[1].parent.span_id == runs[0].get_span_context().span_id
    assert {(span.attributes or {})["correlation.id"] for span in runs} == {own}


def test_each_attempt_is_below_the_enqueuing(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        result = retried()
    work()
    assert result.get() == own
    enqueued = spans.one("task.enqueue.retried").get_span_context().span_id
    runs = spans.named("task.run.retried")
    assert [span.parent and span.parent.span_id for span in runs] == [enqueued] * 3
    statuses = [(span.attributes or {})["task.status"] for span in runs]
    assert statuses == ["retrying", "failed", "successful"]
    assert [len(span.events) for span in runs] == [0, 1, 0]
    assert "hunter2" not in runs[1].to_json()


def test_a_task_that_runs_at_once(spans: Spans) -> None:
    instance = MemoryHuey("shop", immediate=True)
    now = instance.task()(lambda: get_correlation_id())
    with create_span("request"):
        assert now().get() == get_correlation_id()
    assert len(spans.names) == 3


def test_groups_and_locks(spans: Spans) -> None:
    from huey.api import group

    with create_span("request"):
        huey.enqueue(group([add.s(1), add.s(2)]))
        with huey.lock_task("one"):
            locked()
            work()
    assert len(spans.named("task.enqueue.add")) == len(spans.named("task.run.add")) == 2
    run = spans.one("task.run.locked")
    assert (run.attributes or {})["task.status"] == "locked"
    assert run.status.is_unset


def test_a_task_gets_its_own_arguments_alone(spans: Spans) -> None:
    arguments = {"second": 2}
    with create_span("request"):
        result = add.schedule(args=(1,), kwargs=arguments, delay=-1)
        size = with_task()
    work()
    assert result.get() == 3
    assert size.get()
    assert type(arguments) is dict


def test_what_is_stored_is_read_without_this_app(spans: Spans) -> None:
    with create_span("request"):
        add(1, second=2)
    message = pickle.loads(huey.storage.dequeue())  # noqa: S301 - what this test has enqueued
    assert message.kwargs == {"second": 2}


def test_a_serializer_that_writes_the_arguments_alone(spans: Spans) -> None:
    class Plain(Serializer):
        def _serialize(self, data: Any) -> bytes:
            return pickle.dumps(data._replace(kwargs=dict(data.kwargs)) if hasattr(data, "kwargs") else data)

    instance = MemoryHuey("shop", serializer=Plain())
    task = instance.task()(add.func)
    with create_span("request"):
        result = task(1, second=2)
    work(instance)
    assert result.get() == 3
    assert spans.one("task.run.add").parent is None


def test_uninstall_restores_everything(spans: Spans) -> None:
    instrumentation.uninstall()
    try:
        for name in ("enqueue", "_execute", "_emit"):
            assert not hasattr(getattr(MemoryHuey, name), "__wrapped__")
        with create_span("request"):
            add(1)
        work()
        assert spans.names == ["request", "inside"]
    finally:
        instrumentation.install()
