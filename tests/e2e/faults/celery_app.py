"""Set up Celery for the services: the gateway sends tasks, and a worker beside it runs them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import django
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.faults.settings")
django.setup()

app = Celery("faults", broker=os.environ["REDIS_URL"])
app.conf.broker_connection_retry_on_startup = True
app.conf.task_ignore_result = True
#: Each row has a queue of its own.
app.conf.task_default_queue = Path(os.environ["FAULTS_FOLDER"]).name


@app.task
def count(number: int, key: str) -> None:
    """Use the database and the cache, and tell the request that waits."""
    from django.core.cache import cache

    from example_project.blueprints.models import Blueprint

    cache.set("blueprint:counted", number, 60)
    client: Any = cache.client.get_client()  # type: ignore[attr-defined]
    client.rpush(key, number + Blueprint.objects.filter(pk__lt=0).count())


@app.task
def stall() -> None:
    """Stay inside a task."""
    with Path(os.environ["FAULTS_FOLDER"], "started").open("a") as file:
        file.write("x")
    time.sleep(60)
