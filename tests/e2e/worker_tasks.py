"""Define tasks of Django's framework for a worker."""

from __future__ import annotations

from typing import Any

from django.core.cache import cache
from django.tasks import task

from django_tracing import get_correlation_id, set_span_attributes


@task
def send_invoice(number: int, **kwargs: Any) -> list[Any]:
    cache.set(f"invoice:{number}", "sent")
    set_span_attributes({"invoice.lines": 3})
    if number == 0:
        raise ValueError("password=hunter2")
    return [get_correlation_id(), kwargs]
