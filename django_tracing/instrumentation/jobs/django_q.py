"""Trace the tasks of django-q2, as ``task.enqueue.NAME`` and ``task.run.NAME``.

A task's dictionary carries the trace. Django-q2's signals give that dictionary; ``async_task`` itself is not wrapped,
because code that was imported before this app has its own reference to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final

from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.jobs import tracing as jobs
from django_tracing.instrumentation.patching import Patches
from django_tracing.instrumentation.subclasses import wrap_methods

__all__ = ["install", "is_available", "uninstall"]

_patches: Final = Patches()
_DISPATCH_UID: Final = "django_tracing.django_q"
#: The enqueuing that a broker is about to be called for.
_announced: Final[ContextVar[jobs.Enqueuing | None]] = ContextVar("django_tracing.django_q.enqueuing", default=None)
#: The task that the worker has announced, and its run.
_starting: Final[ContextVar[Any]] = ContextVar("django_tracing.django_q.task", default=None)
_run: Final[ContextVar[jobs.Run | None]] = ContextVar("django_tracing.django_q.run", default=None)


def is_available() -> bool:
    return find_spec("django_q") is not None


def install() -> None:
    """Trace every broker and every worker, once django-q2 is imported."""
    if _patches.start():
        when_imported("django_q.signals", _connect)
        when_imported("django_q.brokers", _patch_brokers)
        when_imported("django_q.timeout", _patch_runs)
        when_imported("django_q.monitor", _patch_chains)


def uninstall() -> None:
    """Stop tracing tasks. What is connected to the signals does nothing."""
    _patches.stop()


def _connect() -> None:
    from django_q.signals import pre_enqueue, pre_execute

    pre_enqueue.connect(_before_enqueuing, weak=False, dispatch_uid=_DISPATCH_UID)
    pre_execute.connect(_before_running, weak=False, dispatch_uid=_DISPATCH_UID)


def _patch_brokers() -> None:
    from django_q.brokers import Broker

    wrap_methods(_patches, Broker, {"enqueue": _traced_enqueue})


def _patch_runs() -> None:
    from django_q.timeout import TimeoutHandler

    # The worker catches a task's exception around this block, and passes on its text alone.
    _patches.wrap(TimeoutHandler, "__enter__", _traced_enter)
    _patches.wrap(TimeoutHandler, "__exit__", _traced_exit)


def _patch_chains() -> None:
    from django_q import monitor

    for name in ("save_task", "save_cached"):
        _patches.wrap(monitor, name, _in_trace_of_task)


# ----- enqueuing


def _before_enqueuing(*, task: Any = None, **kwargs: Any) -> None:
    # One that runs at once, in the same context, is not enqueued.
    if _patches.active and isinstance(task, dict) and not task.get("sync"):
        _announced.set(jobs.begin_enqueuing(_library, task))


def _traced_enqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def enqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        announced = _announced.get()
        if announced is None:
            return original(self, *args, **kwargs)
        _announced.set(None)
        with announced:
            return original(self, *args, **kwargs)

    return enqueue


# ----- running


def _before_running(*, task: Any = None, **kwargs: Any) -> None:
    _starting.set(task if isinstance(task, dict) else None)


def _traced_enter(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def enter(self: Any) -> Any:
        entered = original(self)
        task = _starting.get()
        if task is not None and _patches.active:
            _starting.set(None)
            running = jobs.begin_run(_library, task)
            running.__enter__()
            _run.set(running)
        return entered

    return enter


def _traced_exit(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def exit_(self: Any, kind: Any, error: Any, traceback: Any) -> Any:
        # First: no alarm may interrupt what follows.
        result = original(self, kind, error, traceback)
        running = _run.get()
        if running is not None:
            _run.set(None)
            running.__exit__(kind, error, traceback)
        return result

    return exit_


def _in_trace_of_task(original: Callable[..., Any]) -> Callable[..., Any]:
    """Enqueue the next task of a chain, which the process that stores results does, in the trace of the last one."""

    @wraps(original)
    def save(task: Any, *args: Any, **kwargs: Any) -> Any:
        if not _patches.active or not isinstance(task, dict) or not task.get("chain"):
            return original(task, *args, **kwargs)
        with jobs.in_trace_of(_library, task):
            return original(task, *args, **kwargs)

    return save


def _describe(task: Any) -> jobs.Job:
    from django_q.conf import Conf

    func = task.get("func")
    path = func if isinstance(func, str) else f"{getattr(func, '__module__', '')}.{getattr(func, '__qualname__', '')}"
    return jobs.Job(path, str(task.get("id", "")), str(task.get("cluster") or Conf.CLUSTER_NAME))


def _carry(task: Any, carrier: Mapping[str, str]) -> Any:
    task[jobs.CARRIER] = dict(carrier)
    return task


def _carried(task: Any) -> object:
    return task.get(jobs.CARRIER)


_library: Final = jobs.Library("django_q", _patches, _describe, _carry, _carried)
