"""Trace Django's tasks (6.0 and later), as ``task.enqueue.NAME`` and ``task.run.NAME``.

The framework passes a task's arguments to another process, and nothing else. So the trace context is passed as one
more keyword argument, which is removed again before the task or a backend's listener sees it. A task that is enqueued
outside a trace gets no such argument.
"""

from __future__ import annotations

import sys
from asyncio import CancelledError
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import default_getter
from opentelemetry.trace import SpanKind

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.context.extraction import extract, inject
from django_tracing.context.request import HEADER, get_request_state, incoming_id
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.span import SPAN_KEY, context_of
from django_tracing.redaction import cut
from django_tracing.semconv.names import (
    OPERATION_TYPE,
    TASK_ATTEMPT,
    TASK_BACKEND,
    TASK_ID,
    TASK_NAME,
    TASK_PRIORITY,
    TASK_QUEUE,
    TASK_STATUS,
    Attributes,
)

__all__ = ["CARRIER", "install", "is_available", "uninstall"]

#: The keyword argument that carries the context.
CARRIER: Final = "_django_tracing"

_SIGNALS: Final = "django.tasks.signals"
_DISPATCH_UID: Final = "django_tracing.tasks"

_patches: Final = Patches()
#: The trace context of tasks that are about to run, by the task's id.
_carried: dict[str, Mapping[str, str]] = {}
_MOST_CARRIED: Final = 1000
#: The result object of the task that a worker has just announced.
_starting: ContextVar[Any] = ContextVar("django_tracing.task", default=None)


def is_available() -> bool:
    return find_spec("django.tasks") is not None


def install() -> None:
    """Trace every task, whatever its backend, once the framework is imported."""
    if not _patches.start():
        return
    when_imported("django.tasks.base", _patch_tasks)
    when_imported(_SIGNALS, _connect)


def uninstall() -> None:
    """Stop tracing tasks."""
    _patches.stop()
    if _SIGNALS in sys.modules:
        sys.modules[_SIGNALS].task_started.disconnect(dispatch_uid=_DISPATCH_UID)


def _patch_tasks() -> None:
    from django.tasks import base

    task: Any = base.Task
    result: Any = base.TaskResult
    for owner, name, traced in (
        (task, "enqueue", _traced_enqueue),
        (task, "aenqueue", _traced_aenqueue),
        (task, "call", _traced_call),
        (task, "acall", _traced_acall),
        (result, "__post_init__", _without_carrier),
    ):
        _patches.wrap(owner, name, traced)


def _connect() -> None:
    from django.tasks.signals import task_started

    if _patches.active:
        task_started.connect(_remember_start, dispatch_uid=_DISPATCH_UID)


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


def _start_enqueuing(task: Any) -> spans.StartedSpan | None:
    """Start the span of an enqueuing. Like that of a statement, it needs a parent."""
    try:
        if not _patches.active or spans.recording_span() is None:
            return None
        return spans.start_operation(f"task.enqueue.{cut(str(task.name), 80)}", _describe(task), SpanKind.PRODUCER)
    except Exception:
        spans.log_once("task-enqueue", "The enqueuing of a task could not be traced.")
        return None


def _with_carrier(kwargs: dict[str, Any], context: Context | None) -> dict[str, Any]:
    """Return ``kwargs`` with the trace context, if there is one, sampled or not."""
    try:
        if not _patches.active or not spans.span_context(context).is_valid:
            return kwargs
        carrier: dict[str, str] = {}
        inject(carrier, context)
        return {**kwargs, CARRIER: carrier} if carrier else kwargs
    except Exception:
        spans.log_once("task-carry", "A task was enqueued without the context of its trace.")
        return kwargs


def _end_enqueuing(started: spans.StartedSpan, result: Any) -> None:
    spans.set_attributes(started.span, {TASK_ID: str(getattr(result, "id", ""))})
    started.end()


def _traced_enqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def enqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = _start_enqueuing(self)
        if started is None:
            return original(self, *args, **_with_carrier(kwargs, None))
        token = spans.attach(started.context)
        try:
            result = original(self, *args, **_with_carrier(kwargs, started.context))
        except BaseException as error:
            spans.detach(token)
            started.end(error)
            raise
        spans.detach(token)
        _end_enqueuing(started, result)
        return result

    return enqueue


def _traced_aenqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def aenqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = _start_enqueuing(self)
        if started is None:
            return await original(self, *args, **_with_carrier(kwargs, None))
        token = spans.attach(started.context)
        try:
            result = await original(self, *args, **_with_carrier(kwargs, started.context))
        except BaseException as error:
            spans.detach(token)
            started.end(error)
            raise
        spans.detach(token)
        _end_enqueuing(started, result)
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
    # Another thread may remove one at the same time.
    with suppress(KeyError, StopIteration, RuntimeError):
        while len(_carried) >= _MOST_CARRIED:
            # The oldest: in a process that only enqueues, no task runs that would remove it.
            del _carried[next(iter(_carried))]
    _carried[task_id] = carrier


# ----- running


def _start_running(task: Any, kwargs: dict[str, Any]) -> spans.StartedSpan | None:
    result = _starting.get()
    # Some backends pass the arguments as they are.
    carrier = kwargs.pop(CARRIER, None)
    try:
        _starting.set(None)
        if result is not None and result.task.func is not task.func:
            # The result of a task that was announced and did not run, because another receiver of the signal raised.
            result = None
        if result is not None and carrier is None:
            carrier = _carried.pop(str(result.id), None)
        if not _patches.active:
            return None
        attributes = _describe(task)
        if result is not None:
            attributes[TASK_ID] = str(result.id)
            attributes[TASK_ATTEMPT] = int(result.attempts)
        name = f"task.run.{cut(str(task.name), 80)}"
        if not isinstance(carrier, dict):
            return spans.start_operation(name, attributes, SpanKind.CONSUMER)
        return _continue(name, attributes, carrier)
    except Exception:
        spans.log_once("task-run", "A task could not be traced; it runs without a span.")
        return None


def _continue(name: str, attributes: Attributes, carrier: Mapping[str, Any]) -> spans.StartedSpan | None:
    headers = {str(key): value for key, value in carrier.items() if isinstance(value, str)}
    here = spans.current_context()
    context = extract(headers, here, default_getter)
    caller = spans.span_context(context)
    if get_settings().tasks == "trace":
        current = here.get(SPAN_KEY)
        if context_of(current).trace_id == caller.trace_id and spans.recording_span() is current:
            # It runs at once, where it was enqueued: the current span is its parent, and its user is known.
            return spans.start_operation(name, attributes, SpanKind.CONSUMER)
        correlation_id = incoming_id({"HTTP_X_CORRELATION_ID": headers.get(HEADER)})
        return spans.start_operation(
            name, attributes, SpanKind.CONSUMER, context=context, correlation_id=correlation_id
        )
    state = get_request_state(here)
    correlation_id = incoming_id(
        {"HTTP_X_CORRELATION_ID": headers.get(HEADER) or (state.correlation_id if state is not None else None)}
    )
    # A trace of its own: neither the current span nor the enqueuing one is its parent.
    bare = Context({key: value for key, value in context.items() if key != SPAN_KEY})
    started = spans.start_operation(name, attributes, SpanKind.CONSUMER, context=bare, correlation_id=correlation_id)
    if started is not None and caller.trace_flags.sampled and started.span.is_recording():
        started.span.add_link(caller)
    return started


def _attach(started: spans.StartedSpan | None) -> Token[Context] | None:
    return None if started is None else spans.attach(started.context)


def _end_running(
    started: spans.StartedSpan | None, token: Token[Context] | None, error: BaseException | None
) -> None:
    spans.detach(token)
    if started is not None:
        cancelled = isinstance(error, CancelledError)
        status = "successful" if error is None else "cancelled" if cancelled else "failed"
        spans.set_attributes(started.span, {TASK_STATUS: status})
        started.end(error)


def _traced_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = _start_running(self, kwargs)
        token = _attach(started)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            _end_running(started, token, error)
            raise
        _end_running(started, token, None)
        return result

    return call


def _traced_acall(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = _start_running(self, kwargs)
        token = _attach(started)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            _end_running(started, token, error)
            raise
        _end_running(started, token, None)
        return result

    return acall
