"""Test the spans of the tasks of django-tasks, which has the interface of Django's framework on earlier versions."""

from __future__ import annotations

from typing import Any

import django
import pytest
from django.test import override_settings

pytest.importorskip("django_tasks")

from django_tasks import task, task_backends

from django_tracing import create_span, get_correlation_id
from tests.conftest import Spans

TASKS = {"default": {"BACKEND": "django_tasks.backends.immediate.ImmediateBackend"}}


@task()
def remember(number: int, **kwargs: Any) -> list[Any]:
    return [number, kwargs, get_correlation_id()]


@override_settings(TASKS=TASKS)
def test_a_task_is_in_the_trace(spans: Spans) -> None:
    assert type(task_backends["default"]).__module__ == "django_tasks.backends.immediate"
    with create_span("request"):
        own = get_correlation_id()
        result = remember.enqueue(1, color="red")
    assert (result.return_value, result.kwargs) == ([1, {"color": "red"}, own], {"color": "red"})
    enqueued, run = spans.one("task.enqueue.remember"), spans.one("task.run.remember")
    assert run.parent is not None
    assert run.parent.span_id == enqueued.get_span_context().span_id
    assert (run.attributes or {})["task.id"] == result.id


@pytest.mark.skipif(django.VERSION >= (6, 0), reason="Huey's backend is for Django's own framework then")
@override_settings(
    TASKS={"default": {"BACKEND": "huey.contrib.djhuey.tasks_backend.HueyBackend"}}, HUEY={"immediate": True}
)
def test_a_task_of_hueys_backend_gets_its_own_arguments_alone(spans: Spans) -> None:
    pytest.importorskip("huey.contrib.djhuey.tasks_backend")
    with create_span("request"):
        result = remember.enqueue(1, color="red")
    assert result.status == "SUCCESSFUL", result.errors
