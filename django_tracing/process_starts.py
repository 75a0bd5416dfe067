"""Prepare what is forked for a few tasks, and tell what a server's options prevent.

A worker that forks a process for each task reads the sampling rules for all of them: otherwise, each process would
connect to the database for one task.
"""

from __future__ import annotations

import functools
import logging
import sys
from contextlib import suppress
from typing import Any, Final

from django_tracing.faults import CONTAINED, log_once
from django_tracing.instrumentation.imports import when_imported
from django_tracing.spans import runtime

__all__ = ["read_rules_for_children", "warn_of_missing_threads"]

_logger = logging.getLogger("django_tracing")

#: A process that ends after so many tasks has the rules of its parent. Others read them themselves.
_FEW_TASKS: Final = 10


def read_rules_for_children() -> None:
    """Let the workers of Celery and django-q2 read the rules, where their processes end after a few tasks."""
    when_imported("celery.signals", _in_celery)
    when_imported("django_q.cluster", _in_django_q)


def _in_celery() -> None:
    from celery.signals import worker_init

    def start(sender: Any = None, **kwargs: Any) -> None:
        # Before the pool is forked. The other pools have no processes.
        if _are_few(getattr(sender, "max_tasks_per_child", None)):
            _start_reading()

    worker_init.connect(start, weak=False, dispatch_uid="django_tracing.process_starts")


def _in_django_q() -> None:
    from django_q.cluster import Sentinel
    from django_q.conf import Conf

    original = Sentinel.spawn_worker

    @functools.wraps(original)
    def spawn_worker(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _are_few(getattr(Conf, "RECYCLE", None)):
            _start_reading()
        return original(self, *args, **kwargs)

    Sentinel.spawn_worker = spawn_worker


def _are_few(tasks: object) -> bool:
    return isinstance(tasks, int) and 0 < tasks <= _FEW_TASKS


def _start_reading() -> None:
    refresher = runtime.current.refresher
    if refresher is not None:
        try:
            refresher.start()
        except Exception:
            log_once("worker-rules", "The sampling rules are not read for the processes of a worker.")


def warn_of_missing_threads() -> None:
    """Log a line if uWSGI runs this process without threads: spans are sent from one."""
    # uWSGI makes this module itself. Its newest versions have threads without the option.
    if getattr(sys.modules.get("uwsgi"), "has_threads", 1):
        return
    with suppress(*CONTAINED):
        _logger.warning(
            "uWSGI runs this process without threads, so spans are sent late, and lost if there is no room for them: "
            "start it with --enable-threads."
        )
