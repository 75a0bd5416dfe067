"""Trace Django's tasks (6.0 and later, or django-tasks), as ``task.enqueue.NAME`` and ``task.run.NAME``.

The framework passes a task's arguments to another process, and nothing else. So the trace context is passed as one
more keyword argument, which is removed again before the task or a backend's listener sees it. A task that is enqueued
outside a trace gets no such argument.

Backends run a task by ``Task.call``, or they call its function themselves (those of Huey, Redis and Celery do). So
``Task.func`` gives a function that removes the argument too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from inspect import iscoroutinefunction
from types import FunctionType, MemberDescriptorType
from typing import Any, Final

from opentelemetry.trace import SpanKind

from django_tracing import spans
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.jobs.tracing import CARRIER, Enqueuing, Run, carrier_of, start_run
from django_tracing.instrumentation.patching import Patches
from django_tracing.redaction import cut
from django_tracing.semconv.names import (
    OPERATION_TYPE,
    TASK_ATTEMPT,
    TASK_BACKEND,
    TASK_ID,
    TASK_NAME,
    TASK_PRIORITY,
    TASK_QUEUE,
    Attributes,
)

__all__ = ["CARRIER", "install", "is_available", "uninstall"]

#: Django's own, and the package of the same interface for earlier versions.
_FRAMEWORKS: Final = ("django.tasks", "django_tasks")
#: The packages of backends that run tasks by ``Task.call``.
_CALLING: Final = ("django.tasks.", "django_tasks.", "django_tasks_db.", "django_tasks_rq.")
_DISPATCH_UID: Final = "django_tracing.tasks"
#: For queues of jobs by which a backend may enqueue its tasks: they make no spans of these.
_SYSTEM: Final = "django_tasks"

#: The attribute of a task's function that holds its wrapper.
_WRAPPER: Final = "_django_tracing_wrapper"

_patches: Final = Patches()
#: The trace context of tasks that are about to run, by the task's id.
_carried: dict[str, Mapping[str, str]] = {}
_MOST_CARRIED: Final = 1000
#: No backend makes longer ones. They come from the queue.
_LONGEST_ID: Final = 255
#: The result object of the task that a worker has just announced.
_starting: ContextVar[Any] = ContextVar("django_tracing.task", default=None)


def is_available() -> bool:
    return any(find_spec(name) is not None for name in _FRAMEWORKS)


def install() -> None:
    """Trace every task, whatever its backend, once the framework is imported."""
    if not _patches.start():
        return
    for framework in _FRAMEWORKS:
        when_imported(f"{framework}.base", _patch_tasks, framework)
        when_imported(f"{framework}.signals", _connect, framework)


def uninstall() -> None:
    """Stop tracing tasks."""
    _patches.stop()
    for framework in _FRAMEWORKS:
        signals = sys.modules.get(f"{framework}.signals")
        if signals is not None:
            signals.task_started.disconnect(dispatch_uid=_DISPATCH_UID)


def _patch_tasks(framework: str) -> None:
    base = import_module(f"{framework}.base")
    for owner, name, traced in (
        (base.Task, "enqueue", _traced_enqueue),
        (base.Task, "aenqueue", _traced_aenqueue),
        (base.Task, "call", _traced_call),
        (base.Task, "acall", _traced_acall),
        (base.TaskResult, "__post_init__", _without_carrier),
    ):
        _patches.wrap(owner, name, traced)
    if isinstance(vars(base.Task).get("func"), MemberDescriptorType):
        _patches.wrap(base.Task, "func", _Function)


def _connect(framework: str) -> None:
    if _patches.active:
        signals = import_module(f"{framework}.signals")
        signals.task_started.connect(_remember_start, dispatch_uid=_DISPATCH_UID)


def _remember_start(*, task_result: Any = None, **kwargs: Any) -> None:
    _starting.set(task_result)


# ----- enqueuing


def _describe(task: Any) -> Attributes:
    return {
        OPERATION_TYPE: "task",
        TASK_NAME: cut(str(task.module_path), 100),
        TASK_QUEUE: cut(str(task.queue_name), 100),
        TASK_BACKEND: cut(str(task.backend), 100),
        TASK_PRIORITY: int(task.priority),
    }


def _begin_enqueuing(task: Any, kwargs: dict[str, Any]) -> Enqueuing:
    """Start the span of an enqueuing, which needs a parent. The block gets ``kwargs``, with the trace, if any."""
    started: spans.StartedSpan | None = None
    try:
        if not _patches.active:
            return Enqueuing(kwargs)
        if spans.recording_span() is not None:
            name = f"task.enqueue.{cut(str(task.name), 80)}"
            started = spans.start_operation(name, _describe(task), SpanKind.PRODUCER)
        # Sampled or not.
        carrier = carrier_of(None if started is None else started.context) if _is_removed(task) else None
        return Enqueuing({**kwargs, CARRIER: carrier} if carrier else kwargs, _SYSTEM, started)
    except Exception:
        spans.log_once("task-enqueue", "The enqueuing of a task could not be traced.")
        return Enqueuing(kwargs, _SYSTEM, started)


def _is_removed(task: Any) -> bool:
    """Return whether the task's function never sees the additional argument."""
    # Before Python 3.11, the tasks of django-tasks have no slots.
    return hasattr(type(task), "func") or f"{type(task.get_backend()).__module__}.".startswith(_CALLING)


def _traced_enqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def enqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        enqueuing = _begin_enqueuing(self, kwargs)
        with enqueuing as carrying:
            result = original(self, *args, **carrying)
            enqueuing.set_id(str(getattr(result, "id", "")))
        return result

    return enqueue


def _traced_aenqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def aenqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        enqueuing = _begin_enqueuing(self, kwargs)
        with enqueuing as carrying:
            result = await original(self, *args, **carrying)
            enqueuing.set_id(str(getattr(result, "id", "")))
        return result

    return aenqueue


def _without_carrier(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def post_init(self: Any) -> None:
        kwargs = self.kwargs
        # Also when tracing has been switched off since: what was added has to be removed.
        if isinstance(kwargs, dict) and CARRIER in kwargs:
            carrier = kwargs[CARRIER]
            object.__setattr__(self, "kwargs", {key: value for key, value in kwargs.items() if key != CARRIER})
            if isinstance(carrier, dict):
                _remember_carried(str(self.id), carrier)
        original(self)

    return post_init


def _remember_carried(task_id: str, carrier: Mapping[str, str]) -> None:
    if len(task_id) > _LONGEST_ID:
        return
    # Another thread may remove one at the same time.
    with suppress(KeyError, StopIteration, RuntimeError):
        while len(_carried) >= _MOST_CARRIED:
            # The oldest: in a process that only enqueues, no task runs that would remove it.
            del _carried[next(iter(_carried))]
    _carried[task_id] = carrier


# ----- running


def _start_running(task: Any, kwargs: dict[str, Any]) -> Run:
    """Start the span of a run of a task, or of a task's function, and remove from ``kwargs`` what was added."""
    result = _starting.get()
    # Some backends pass the arguments as they are.
    carrier = kwargs.pop(CARRIER, None)
    try:
        _starting.set(None)
        called = task if isinstance(task, FunctionType) else _plain(task.func)
        if result is not None and _plain(result.task.func) is not called:
            # The result of a task that was announced and did not run, because another receiver of the signal raised.
            result = None
        if result is not None:
            remembered = _carried.pop(str(result.id), None)
            carrier = remembered if carrier is None else carrier
        if not _patches.active:
            return Run()
        described = result.task if result is not None and task is called else task
        attributes = _describe(described) if described is not called else _describe_function(called)
        if result is not None:
            attributes[TASK_ID] = str(result.id)
            attributes[TASK_ATTEMPT] = int(result.attempts)
        return Run(start_run(f"task.run.{cut(str(called.__name__), 80)}", attributes, carrier))
    except Exception:
        spans.log_once("task-run", "A task could not be traced; it runs without a span.")
        return Run()


def _describe_function(function: Any) -> Attributes:
    return {OPERATION_TYPE: "task", TASK_NAME: cut(f"{function.__module__}.{function.__qualname__}", 100)}


class _Function:
    """The attribute ``func`` of tasks: the function, with a wrapper that removes what was added to its arguments."""

    __slots__ = ("_slot",)

    def __init__(self, slot: Any) -> None:
        self._slot = slot

    def __get__(self, task: Any, owner: Any = None) -> Any:
        return self if task is None else _removing(self._slot.__get__(task, owner))

    def __set__(self, task: Any, function: Any) -> None:
        self._slot.__set__(task, _plain(function))


def _plain(function: Any) -> Any:
    """Return the function that a wrapper of ours is of; others as they are."""
    inner = getattr(function, "__wrapped__", None)
    return inner if isinstance(inner, FunctionType) and vars(inner).get(_WRAPPER) is function else function


def _is_run(function: Any, kwargs: Mapping[str, Any]) -> bool:
    """Return whether a backend calls a task's ``function``, and has not called ``Task.call``."""
    if CARRIER in kwargs:
        return True
    announced = getattr(_starting.get(), "task", None)
    return announced is not None and _plain(getattr(announced, "func", None)) is function


def _removing(function: Any) -> Any:
    """Return the one wrapper of a task's ``function``, whose call is a run if it is a backend's."""
    if type(function) is not FunctionType:
        return function
    ours = vars(function).get(_WRAPPER)
    # The user's own wrapper may have a copy of what is stored with a function.
    if ours is not None and _plain(ours) is function:
        return ours
    if iscoroutinefunction(function):

        @wraps(function)
        async def removing(*args: Any, **kwargs: Any) -> Any:
            if not _is_run(function, kwargs):
                return await function(*args, **kwargs)
            with _start_running(function, kwargs):
                return await function(*args, **kwargs)
    else:

        @wraps(function)
        def removing(*args: Any, **kwargs: Any) -> Any:
            if not _is_run(function, kwargs):
                return function(*args, **kwargs)
            with _start_running(function, kwargs):
                return function(*args, **kwargs)

    setattr(function, _WRAPPER, removing)
    return removing


def _traced_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _start_running(self, kwargs):
            return original(self, *args, **kwargs)

    return call


def _traced_acall(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _start_running(self, kwargs):
            return await original(self, *args, **kwargs)

    return acall
