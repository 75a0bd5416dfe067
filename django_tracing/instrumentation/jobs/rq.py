"""Trace the jobs of RQ, also as django-rq runs them, as ``task.enqueue.NAME`` and ``task.run.NAME``.

A job's ``meta`` carries the trace. A job that depends on others, is scheduled or is retried keeps what it carries, so
each of its runs is below the span that enqueued it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final

from django_tracing.faults import log_once
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.jobs import tracing as jobs
from django_tracing.instrumentation.patching import Patches
from django_tracing.semconv.names import TASK_RETRIES_LEFT, Attributes
from django_tracing.spans import runtime

__all__ = ["install", "is_available", "uninstall"]

_patches: Final = Patches()
#: The package whose jobs are Django's tasks.
_OF_TASKS: Final = "django_tasks_rq."
#: In place of ``meta`` that RQ could not read. It is written back unchanged, if nothing is added to it.
_UNREADABLE: Final = "unserialized"


def is_available() -> bool:
    return find_spec("rq") is not None


def install() -> None:
    """Trace every queue and every worker, once RQ is imported."""
    if _patches.start():
        when_imported("rq.queue", _patch_queue)
        when_imported("rq.job", _patch_job)
        when_imported("rq.worker", _patch_worker)


def uninstall() -> None:
    """Stop tracing jobs."""
    _patches.stop()


def _patch_queue() -> None:
    from rq.queue import Queue

    # All ways to enqueue end in these: the last one of jobs that are enqueued together, or again.
    for name in ("enqueue_job", "schedule_job", "_enqueue_job"):
        if hasattr(Queue, name):
            _patches.wrap(Queue, name, _traced_enqueue)


def _patch_job() -> None:
    from rq.job import Job

    _patches.wrap(Job, "perform", _traced_perform)


def _patch_worker() -> None:
    from rq.worker import Worker

    _patches.wrap(Worker, "fork_work_horse", _reading_rules)
    _patches.wrap(Worker, "main_work_horse", _without_reading_rules)


def _reading_rules(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let the worker read the sampling rules, whose processes have them from it."""

    @wraps(original)
    def fork_work_horse(self: Any, *args: Any, **kwargs: Any) -> Any:
        refresher = runtime.current.refresher
        if _patches.active and refresher is not None:
            try:
                refresher.start()
            except Exception:
                log_once("rq-rules", "The sampling rules are not read for the jobs of RQ.")
        return original(self, *args, **kwargs)

    return fork_work_horse


def _without_reading_rules(original: Callable[..., Any]) -> Callable[..., Any]:
    """Don't connect to the database and store a status in the process of each job."""

    @wraps(original)
    def main_work_horse(self: Any, *args: Any, **kwargs: Any) -> Any:
        refresher = runtime.current.refresher
        if _patches.active and refresher is not None:
            refresher.use_without_reading()
        return original(self, *args, **kwargs)

    return main_work_horse


def _traced_enqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def enqueue(self: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
        with jobs.begin_enqueuing(_library, _Queued(self, job)):
            return original(self, job, *args, **kwargs)

    return enqueue


def _traced_perform(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def perform(self: Any) -> Any:
        with jobs.begin_run(_library, _Queued(None, self)):
            return original(self)

    return perform


class _Queued:
    """A job, and the queue that it is put into; None where it runs."""

    __slots__ = ("job", "queue")

    def __init__(self, queue: Any, job: Any) -> None:
        self.queue = queue
        self.job = job


def _describe(queued: _Queued) -> jobs.Job:
    job = queued.job
    path = ""
    with suppress(Exception):  # its data cannot be read: RQ raises that error when it runs the job
        path = str(job.func_name or "")
    queue = job.origin if queued.queue is None else queued.queue.name
    left = job.retries_left
    more: Attributes = {TASK_RETRIES_LEFT: left} if type(left) is int else {}
    return jobs.Job(path, str(job.id), str(queue or ""), more)


def _carry(queued: _Queued, carrier: Mapping[str, str]) -> _Queued:
    # Another dict: the user's own may be used for other jobs too.
    meta = queued.job.meta
    if isinstance(meta, dict) and _UNREADABLE not in meta:
        queued.job.meta = {**meta, jobs.CARRIER: dict(carrier)}
    return queued


def _carried(queued: _Queued) -> object:
    if type(queued.job).__module__.startswith(_OF_TASKS):
        return jobs.CARRIED_ELSEWHERE
    meta = queued.job.meta
    return meta.get(jobs.CARRIER) if isinstance(meta, dict) else None


_library: Final = jobs.Library("rq", _patches, _describe, _carry, _carried)
