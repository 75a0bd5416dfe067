"""Define tasks of django-tasks, and of Django's framework, for workers on Redis."""

from __future__ import annotations

from typing import Any

import django_tasks
from django import tasks
from django.conf import settings

from tests.e2e.jobs.tasks import done


@django_tasks.task(backend="rq", queue_name=f"{settings.QUEUE}-tasks")
def tasks_rq_job(number: int, **kwargs: Any) -> None:
    done("tasks_rq", number, **kwargs)


@tasks.task(backend="redis", takes_context=True)
def tasks_redis_job(context: tasks.TaskContext, number: int, **kwargs: Any) -> None:
    assert "_django_tracing" not in context.task_result.kwargs
    done("tasks_redis", number, **kwargs)


@tasks.task(backend="huey")
def tasks_huey_job(number: int, **kwargs: Any) -> None:
    done("tasks_huey", number, **kwargs)
