"""Define the jobs of rq, huey, django-q2 and Dramatiq. Each writes down that it ran, and with what."""

from __future__ import annotations

import json
from typing import Any

import dramatiq
import redis
from django.conf import settings
from django.core.cache import cache
from huey.contrib.djhuey import task

from django_tracing import get_correlation_id


def done(library: str, number: int, **kwargs: Any) -> None:
    """Do what every job does: use the cache, write down what it was given, and fail for the number 0."""
    cache.set(f"blueprint:{number}", "done")
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.rpush(f"{settings.QUEUE}:ran", json.dumps([library, number, kwargs, get_correlation_id()]))
    client.close()
    if number == 0:
        raise ValueError("password=hunter2")


def rq_job(number: int, **kwargs: Any) -> None:
    done("rq", number, **kwargs)


def django_q_job(number: int, **kwargs: Any) -> None:
    done("django_q", number, **kwargs)


@task(retries=1)
def huey_job(number: int, **kwargs: Any) -> None:
    done("huey", number, **kwargs)


@dramatiq.actor(queue_name="shop", max_retries=1, min_backoff=50, max_backoff=50)
def dramatiq_job(number: int, **kwargs: Any) -> None:
    done("dramatiq", number, **kwargs)
