"""Set up a Celery app in a Django project, as Celery's documentation does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import django
from celery import Celery

from tests.e2e.refreshes import write_down_refreshes

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.settings")
django.setup()
if "REFRESHES" in os.environ:
    write_down_refreshes(Path(os.environ["REFRESHES"]))

app = Celery("shop", broker=os.environ.get("TEST_REDIS_URL"), backend=os.environ.get("TEST_REDIS_URL"))
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = os.environ.get("CELERY_QUEUE", "shop")


@app.task
def send_invoice(number: int, token: str = "") -> list[Any]:
    from django.core.cache import cache

    from django_tracing import get_correlation_id

    cache.set(f"invoice:{number}", "sent")
    if number == 0:
        raise ValueError(f"password={token}")
    return [os.getpid(), get_correlation_id()]
