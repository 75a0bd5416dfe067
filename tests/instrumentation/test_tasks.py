"""Test the spans of Django's tasks, with the backends that run or store them in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
from collections.abc import Iterator
from types import MemberDescriptorType
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings
from django.utils.crypto import get_random_string
from django.utils.module_loading import import_string
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span, current_trace_id, get_correlation_id, get_trace_context, use_trace_context
from django_tracing.instrumentation import tasks as instrumentation
from tests.conftest import Spans

if django.VERSION < (6, 0):
    pytest.skip("Django's tasks framework came with Django 6.0", allow_module_level=True)

from django.tasks import TaskContext, default_task_backend, task
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import Task, TaskResult, TaskResultStatus
from django.tasks.signals import task_started


@task
def add(first: int, second: int = 0) -> int:
    with create_span("inside"):
        return first + second


@task(takes_context=True)
def with_context(context: TaskContext, name: str) -> list[Any]:
    return [context.attempt, name, get_correlation_id()]


@task
async def slowly(**kwargs: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return kwargs


@task
def fail() -> None:
    raise ValueError("password=hunter2")


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.get_span_context().span_id


def test_a_task_that_runs_immediately_is_in_the_same_trace(spans: Spans) -> None:
    with create_span("request"):
        result = add.using(priority=7).enqueue(1, second=2)
    assert result.return_value == 3
    assert (result.args, result.kwargs) == ([1], {"second": 2}), "the carried context is not visible"
    enqueued, run = spans.one("task.enqueue.add"), spans.one("task.run.add")
    assert is_child(enqueued, spans.one("request"))
    assert is_child(run, enqueued)
    assert is_child(spans.one("inside"), run)
    assert (enqueued.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    attributes = dict(run.attributes or {})
    assert attributes.pop("correlation.id") == (enqueued.attributes or {})["correlation.id"]
    assert attributes == {
        "operation.type": "task",
        "task.id": result.id,
        "task.name": f"{__name__}.add",
        "task.queue": "default",
        "task.backend": "default",
        "task.priority": 7,
        "task.attempt": 1,
        "task.status": "successful",
    }
    assert (enqueued.attributes or {})["task.id"] == result.id


@pytest.fixture
def linked() -> Iterator[None]:
    with override_settings(TRACING={"EXPORTER": "none", "TASKS": "link"}):
        yield


@pytest.mark.usefixtures("linked")
def test_linked_traces(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        result = with_context.enqueue("ada")
    assert result.return_value == [1, "ada", own]
    enqueued, run = spans.one("task.enqueue.with_context"), spans.one("task.run.with_context")
    assert run.parent is None
    assert run.get_span_context().trace_id != enqueued.get_span_context().trace_id
    assert [link.context.span_id for link in run.links] == [enqueued.get_span_context().span_id]


def test_a_task_that_takes_its_context_receives_it(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        assert with_context.enqueue("ada").return_value == [1, "ada", own]
    assert spans.one("task.run.with_context")


async def test_async_tasks(spans: Spans) -> None:
    async with create_span("request"):
        result = await slowly.aenqueue(color="red")
    assert result.return_value == {"color": "red"}
    assert is_child(spans.one("task.run.slowly"), spans.one("task.enqueue.slowly"))
    spans.clear()
    assert await slowly.acall(a=1) == {"a": 1}
    assert await sync_to_async(slowly.call)(a=1) == {"a": 1}
    assert spans.names == ["task.run.slowly"] * 2


def test_a_failure_is_recorded_on_the_task_only(spans: Spans) -> None:
    with create_span("request"):
        result = fail.enqueue()
    assert result.status == TaskResultStatus.FAILED
    assert result.errors[0].exception_class is ValueError
    run = spans.one("task.run.fail")
    assert run.status.status_code is StatusCode.ERROR
    assert (run.attributes or {})["task.status"] == "failed"
    assert spans.one("task.enqueue.fail").status.status_code is StatusCode.UNSET
    assert "hunter2" not in run.to_json()


def test_outside_a_trace_a_run_starts_a_trace_and_nothing_is_carried(spans: Spans) -> None:
    assert add.enqueue(1).return_value == 1
    assert spans.names == ["inside", "task.run.add"]
    assert spans.one("task.run.add").parent is None


def test_the_run_of_an_unsampled_trace_is_not_sampled(spans: Spans) -> None:
    seen: list[Any] = []

    with use_trace_context({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}), create_span("request"):
        seen.append(current_trace_id())
        assert add.enqueue(1).return_value == 1
    assert seen == ["ab" * 16]
    assert spans.names == []


@override_settings(TASKS={"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}})
def test_the_carried_context_survives_in_a_backend_that_stores_tasks(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        result = with_context.enqueue("ada")
    assert result.kwargs == {}
    [kept] = default_task_backend.results
    assert kept.kwargs == {}
    spans.clear()
    # As a worker does in another process.
    instrumentation._starting.set(result)
    context = TaskContext(task_result=result)
    assert result.task.call(context, "ada")[1:] == ["ada", own]
    assert spans.one("task.run.with_context").parent is not None


def test_a_worker_that_passes_the_arguments_unchanged(spans: Spans) -> None:
    with create_span("request"):
        carrier = get_trace_context()
    assert add.call(1, second=2, **{instrumentation.CARRIER: carrier}) == 3
    assert is_child(spans.one("task.run.add"), spans.one("request"))


def test_an_invalid_carried_context_is_ignored(spans: Spans) -> None:
    assert add.call(1, **{instrumentation.CARRIER: "nonsense"}) == 1
    assert add.call(1, **{instrumentation.CARRIER: {"traceparent": 7, "baggage": None}}) == 1
    assert [span.parent for span in spans.named("task.run.add")] == [None] * 2


def test_enqueuing_with_wrong_arguments_fails_as_before(spans: Spans) -> None:
    with create_span("request"), pytest.raises(TypeError):
        add.enqueue(object())
    assert spans.one("task.enqueue.add").status.status_code is StatusCode.ERROR


def test_a_task_that_never_ran_does_not_affect_the_next(spans: Spans) -> None:
    def refuse(**kwargs: Any) -> None:
        raise RuntimeError("not now")

    task_started.connect(refuse)
    try:
        with create_span("request"), pytest.raises(RuntimeError):
            with_context.enqueue("ada")
    finally:
        task_started.disconnect(refuse)
    assert add.call(1) == 1
    run = spans.one("task.run.add")
    assert run.parent is None
    assert "task.id" not in (run.attributes or {})


def test_uninstall_restores_everything(spans: Spans) -> None:
    listening = len(task_started.receivers)
    instrumentation.uninstall()
    try:
        assert len(task_started.receivers) == listening - 1
        assert type(vars(Task)["func"]) is MemberDescriptorType
        assert not hasattr(add.func, "__wrapped__")
        for owner, name in ((Task, "enqueue"), (Task, "aenqueue"), (Task, "call"), (TaskResult, "__post_init__")):
            assert not hasattr(vars(owner)[name], "__wrapped__")
        with create_span("request"):
            assert add.enqueue(1).return_value == 1
        assert spans.names == ["inside", "request"]
    finally:
        instrumentation.install()
        instrumentation.install()
    assert len(task_started.receivers) == listening


# ----- backends that call the function themselves


class CallingBackend(BaseTaskBackend):
    """Run a task as the backends of Redis and Huey do, which don't use ``Task.call``."""

    supports_async_task = True
    supports_defer = False

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result: Any = TaskResult(
            task=task,
            id=get_random_string(12),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=list(args),
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=["worker"],
        )
        task_started.send(type(self), task_result=result)
        func = import_string(task.module_path).func
        value = func(*args, **kwargs)
        object.__setattr__(result, "_return_value", asyncio.run(value) if asyncio.iscoroutine(value) else value)
        object.__setattr__(result, "status", TaskResultStatus.SUCCESSFUL)
        return result


@pytest.fixture
def calling() -> Iterator[None]:
    with override_settings(TASKS={"default": {"BACKEND": f"{__name__}.CallingBackend"}}):
        yield


@pytest.mark.usefixtures("calling")
def test_a_backend_that_calls_the_function_passes_its_own_arguments_alone(spans: Spans) -> None:
    with create_span("request"):
        assert add.enqueue(1, second=2).return_value == 3
        assert slowly.enqueue(color="red").return_value == {"color": "red"}
    for name in ("add", "slowly"):
        enqueued, run = spans.one(f"task.enqueue.{name}"), spans.one(f"task.run.{name}")
        assert is_child(run, enqueued)
        attributes = run.attributes or {}
        assert attributes["task.id"] == (enqueued.attributes or {})["task.id"]
        assert (attributes["task.attempt"], attributes["task.queue"]) == (1, "default")
        assert attributes["task.name"] == f"{__name__}.{name}"


@pytest.mark.usefixtures("calling")
def test_a_backend_that_calls_the_function_outside_a_trace(spans: Spans) -> None:
    assert add.enqueue(1).return_value == 1
    assert spans.one("task.run.add").parent is None


def test_a_function_that_the_user_calls_is_no_run(spans: Spans) -> None:
    with create_span("request"):
        assert add.func(1, second=2) == 3
        assert asyncio.run(slowly.func(a=1)) == {"a": 1}
    assert "task.run.add" not in spans.names
    assert "task.run.slowly" not in spans.names


def test_a_tasks_function_looks_as_before() -> None:
    assert add.func is add.func is add.using(priority=3).func
    assert (add.func.__name__, add.func.__module__) == ("add", __name__)
    assert list(inspect.signature(add.func).parameters) == ["first", "second"]
    assert inspect.iscoroutinefunction(slowly.func)
    assert not inspect.iscoroutinefunction(add.func)
    assert add == add.using()
    assert hash(add) == hash(add.using())
    own = functools.wraps(add.func)(lambda *args: add.func(*args))
    assert dataclasses.replace(add, func=own).func(1) == 1
    assert dataclasses.replace(add, func=own).func.__wrapped__ is own
