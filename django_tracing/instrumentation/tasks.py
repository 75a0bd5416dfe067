"""Django's own tasks (6.0 and later): ``task.enqueue.NAME`` and ``task.run.NAME``.

The framework hands a task's arguments from one process to another, and nothing else: so the context of the trace goes
along as one more keyword argument, which is taken out again before anybody sees it. It goes only where there is a
context: a task that is enqueued outside a trace carries nothing.
"""

from __future__ import annotations

import sys
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

_installed = False
#: What is patched: owner, name, what was there, what we put there.
_patches: list[tuple[Any, str, Any, Any]] = []
#: What came with tasks that are about to run, by the task's id.
_carried: dict[str, Mapping[str, str]] = {}
_MOST_CARRIED: Final = 1000
#: The result of the task that a worker has just announced.
_starting: ContextVar[Any] = ContextVar("django_tracing.task", default=None)


def is_available() -> bool:
    return find_spec("django.tasks") is not None


def install() -> None:
    """Traces every task, whatever its backend; the framework is not imported for it."""
    global _installed
    if _installed:
        return
    _installed = True
    when_imported("django.tasks.base", _patch_tasks)
    when_imported(_SIGNALS, _connect)


def uninstall() -> None:
    """Puts the framework back; what somebody else has put around ours stays, and ours in it does nothing."""
    global _installed
    _installed = False
    for patch in list(_patches):
        owner, name, original, ours = patch
        if vars(owner).get(name) is ours:
            setattr(owner, name, original)
            _patches.remove(patch)
    if _SIGNALS in sys.modules:
        sys.modules[_SIGNALS].task_started.disconnect(dispatch_uid=_DISPATCH_UID)


def _patch_tasks() -> None:
    from django.tasks import base

    if not _installed:
        return
    task: Any = base.Task
    result: Any = base.TaskResult
    for owner, name, traced in (
        (task, "enqueue", _traced_enqueue),
        (task, "aenqueue", _traced_aenqueue),
        (task, "call", _traced_call),
        (task, "acall", _traced_acall),
        (result, "__post_init__", _without_carrier),
    ):
        # Ours is still there, under somebody else's patch, when it could not be taken off.
        if not any(patched is owner and known == name for patched, known, _, _ in _patches):
            original = vars(owner)[name]
            ours = traced(original)
            _patches.append((owner, name, original, ours))
            setattr(owner, name, ours)


def _connect() -> None:
    from django.tasks.signals import task_started

    if _installed:
        task_started.connect(_remember_start, dispatch_uid=_DISPATCH_UID)


def _remember_start(*, task_result: Any = None, **kwargs: Any) -> None:
    _starting.set(task_result)


# ----- on its way


def _describe(task: Any) -> Attributes:
    return {
        OPERATION_TYPE: "task",
        TASK_NAME: cut(str(task.module_path), 100),
        TASK_QUEUE: cut(str(task.queue_name), 100),
        TASK_BACKEND: cut(str(task.backend), 100),
        TASK_PRIORITY: int(task.priority),
    }


def _enqueuing(task: Any) -> spans.StartedSpan | None:
    """The span of an enqueuing; like a statement's, it needs a parent."""
    try:
        if not _installed or spans.recording_span() is None:
            return None
        return spans.start_operation(f"task.enqueue.{cut(str(task.name), 80)}", _describe(task), SpanKind.PRODUCER)
    except Exception:
        spans.log_once("task-enqueue", "The enqueuing of a task could not be traced.")
        return None


def _carrying(kwargs: dict[str, Any], context: Context | None) -> dict[str, Any]:
    """``kwargs`` with the context of the trace, where there is one, sampled or not."""
    try:
        if not _installed or not spans.span_context(context).is_valid:
            return kwargs
        carrier: dict[str, str] = {}
        inject(carrier, context)
        return {**kwargs, CARRIER: carrier} if carrier else kwargs
    except Exception:
        spans.log_once("task-carry", "A task goes without the context of its trace.")
        return kwargs


def _enqueued(begun: spans.StartedSpan, result: Any) -> None:
    spans.set_attributes(begun.span, {TASK_ID: str(getattr(result, "id", ""))})
    begun.end()


def _traced_enqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def enqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = _enqueuing(self)
        if begun is None:
            return original(self, *args, **_carrying(kwargs, None))
        token = spans.attach(begun.context)
        try:
            result = original(self, *args, **_carrying(kwargs, begun.context))
        except BaseException as error:
            spans.detach(token)
            begun.end(error)
            raise
        spans.detach(token)
        _enqueued(begun, result)
        return result

    return enqueue


def _traced_aenqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def aenqueue(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = _enqueuing(self)
        if begun is None:
            return await original(self, *args, **_carrying(kwargs, None))
        token = spans.attach(begun.context)
        try:
            result = await original(self, *args, **_carrying(kwargs, begun.context))
        except BaseException as error:
            spans.detach(token)
            begun.end(error)
            raise
        spans.detach(token)
        _enqueued(begun, result)
        return result

    return aenqueue


def _without_carrier(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def post_init(self: Any) -> None:
        kwargs = self.kwargs
        # Also when tracing is switched off meanwhile: what was put in is to be taken out.
        if isinstance(kwargs, dict) and CARRIER in kwargs:
            carrier = kwargs[CARRIER]
            object.__setattr__(self, "kwargs", {key: value for key, value in kwargs.items() if key != CARRIER})
            if isinstance(carrier, dict):
                _remember_carried(str(self.id), carrier)
        original(self)

    return post_init


def _remember_carried(task_id: str, carrier: Mapping[str, str]) -> None:
    # Another thread may take one out meanwhile.
    with suppress(KeyError, StopIteration, RuntimeError):
        while len(_carried) >= _MOST_CARRIED:
            # The oldest: of a process that only enqueues, nobody comes for it.
            del _carried[next(iter(_carried))]
    _carried[task_id] = carrier


# ----- running


def _running(task: Any, kwargs: dict[str, Any]) -> spans.StartedSpan | None:
    result = _starting.get()
    # Of a backend that hands the arguments on as they are.
    carrier = kwargs.pop(CARRIER, None)
    try:
        _starting.set(None)
        if result is not None and result.task.func is not task.func:
            # Of a task that was announced and never ran: another receiver of the signal raised, say.
            result = None
        if result is not None and carrier is None:
            carrier = _carried.pop(str(result.id), None)
        if not _installed:
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
            # It runs at once, where it was enqueued: what is current is its parent, with the user that is known.
            return spans.start_operation(name, attributes, SpanKind.CONSUMER)
        correlation_id = incoming_id({"HTTP_X_CORRELATION_ID": headers.get(HEADER)})
        return spans.start_operation(
            name, attributes, SpanKind.CONSUMER, context=context, correlation_id=correlation_id
        )
    state = get_request_state(here)
    correlation_id = incoming_id(
        {"HTTP_X_CORRELATION_ID": headers.get(HEADER) or (state.correlation_id if state is not None else None)}
    )
    # A trace of its own: what is current here, or came along, is not its parent.
    bare = Context({key: value for key, value in context.items() if key != SPAN_KEY})
    begun = spans.start_operation(name, attributes, SpanKind.CONSUMER, context=bare, correlation_id=correlation_id)
    if begun is not None and caller.trace_flags.sampled and begun.span.is_recording():
        begun.span.add_link(caller)
    return begun


def _attach(begun: spans.StartedSpan | None) -> Token[Context] | None:
    return None if begun is None else spans.attach(begun.context)


def _ran(begun: spans.StartedSpan | None, token: Token[Context] | None, error: BaseException | None) -> None:
    spans.detach(token)
    if begun is not None:
        spans.set_attributes(begun.span, {TASK_STATUS: "successful" if error is None else "failed"})
        begun.end(error)


def _traced_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = _running(self, kwargs)
        token = _attach(begun)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            _ran(begun, token, error)
            raise
        _ran(begun, token, None)
        return result

    return call


def _traced_acall(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = _running(self, kwargs)
        token = _attach(begun)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            _ran(begun, token, error)
            raise
        _ran(begun, token, None)
        return result

    return acall
