"""Send what waits before the processes of workers end that run no ``atexit`` functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django_tracing.faults import CONTAINED, log_once
from django_tracing.instrumentation.imports import when_imported

__all__ = ["flush_before_workers_end"]


def flush_before_workers_end(flush: Callable[[], None]) -> None:
    """Call ``flush`` when a process of Celery or RQ has run its last job. It imports neither.

    Huey, django-q2 and Dramatiq start their processes with multiprocessing, which the provider knows.
    """
    when_imported("celery.signals", _before_celery_ends, flush)
    when_imported("rq.worker", _before_rq_ends, flush)


def _before_celery_ends(flush: Callable[[], None]) -> None:
    """Flush when one of Celery's prefork processes has run its last task."""
    from celery.signals import worker_process_shutdown

    def ends(**kwargs: Any) -> None:
        _contained(flush)

    worker_process_shutdown.connect(ends, weak=False, dispatch_uid="django_tracing.provider")


def _before_rq_ends(flush: Callable[[], None]) -> None:
    """Flush when a process that RQ forked has run its job and stored the result. It ends by ``os._exit``."""
    from rq.worker import Worker

    original = Worker.perform_job

    @wraps(original)
    def perform_job(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            # Other workers run jobs in their own process.
            if getattr(self, "_is_horse", False):
                _contained(flush)

    Worker.perform_job = perform_job


def _contained(flush: Callable[[], None]) -> None:
    try:
        flush()
    except CONTAINED:
        log_once("worker-ends", "Spans could not be sent before a worker's process ended.")
