"""Trace the tasks of Huey, as ``task.enqueue.NAME`` and ``task.run.NAME``.

Huey's messages have no place for metadata, and an additional argument would break the task in a worker without this
app. So the trace is an attribute of the mapping of the keyword arguments: of an ``OrderedDict``, which pickle writes
with its attributes, and reads in any process. Other serializers write the arguments alone: no trace is carried.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final

from django_tracing import spans
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.jobs import tracing as jobs
from django_tracing.instrumentation.patching import Patches
from django_tracing.semconv.names import TASK_RETRIES_LEFT

__all__ = ["install", "is_available", "uninstall"]

_patches: Final = Patches()
#: The name of the task by which Huey's own backend runs Django's tasks.
_OF_TASKS: Final = "djtasks.run"
#: Huey's signals with the status that they mean. The first of a run counts.
_STATUS: Final[Mapping[str, str]] = {
    "canceled": "cancelled",
    "interrupted": "interrupted",
    "locked": "locked",
    "rate-limited": "rate_limited",
    "timeout": "failed",
    "error": "failed",
    "retrying": "retrying",
}


def is_available() -> bool:
    return find_spec("huey") is not None


def install() -> None:
    """Trace every Huey, once it is imported."""
    if _patches.start():
        when_imported("huey.api", _patch)


def uninstall() -> None:
    """Stop tracing tasks."""
    _patches.stop()


def _patch() -> None:
    from huey.api import Huey

    _patches.wrap(Huey, "enqueue", _traced_enqueue)
    _patches.wrap(Huey, "_execute", _traced_execute)
    _patches.wrap(Huey, "_emit", _traced_emit)


class _Queued:
    """A task, and the Huey that has it."""

    __slots__ = ("huey", "task")

    def __init__(self, huey: Any, task: Any) -> None:
        self.huey = huey
        self.task = task


def _traced_enqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def enqueue(self: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(task, "revoke_id"):
            # A group or a chord: its tasks are enqueued one by one.
            return original(self, task, *args, **kwargs)
        with jobs.begin_enqueuing(_library, _Queued(self, task)):
            return original(self, task, *args, **kwargs)

    return enqueue


def _traced_execute(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def execute(self: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
        with jobs.begin_run(_library, _Queued(self, task)):
            return original(self, task, *args, **kwargs)

    return execute


def _traced_emit(original: Callable[..., Any]) -> Callable[..., Any]:
    """Find out how a task has ended: Huey catches its exception, and emits a signal."""

    @wraps(original)
    def emit(self: Any, signal: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
        if _patches.active and signal in _STATUS:
            running = jobs.current_run()
            try:
                if running is not None and running.is_of(_library, _describe(_Queued(self, task))):
                    error = next((arg for arg in args if isinstance(arg, BaseException)), None)
                    running.set_outcome(_STATUS[signal], error)
            except Exception:
                spans.log_once("huey-emit", "The outcome of a task could not be set on its span.")
        return original(self, signal, task, *args, **kwargs)

    return emit


def _describe(queued: _Queued) -> jobs.Job:
    task = queued.task
    path = f"{type(task).__module__}.{type(task).__name__}"
    return jobs.Job(path, str(task.id), str(queued.huey.name), {TASK_RETRIES_LEFT: int(task.retries or 0)})


def _carry(queued: _Queued, carrier: Mapping[str, str]) -> _Queued:
    kwargs: Any = queued.task.kwargs
    if isinstance(kwargs, dict):
        carrying: Any = OrderedDict(kwargs)
        setattr(carrying, jobs.CARRIER, dict(carrier))
        queued.task.kwargs = carrying
    return queued


def _carried(queued: _Queued) -> object:
    if type(queued.task).__name__ == _OF_TASKS:
        return jobs.CARRIED_ELSEWHERE
    return getattr(queued.task.kwargs, jobs.CARRIER, None)


_library: Final = jobs.Library("huey", _patches, _describe, _carry, _carried)
