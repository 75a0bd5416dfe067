"""Trace the messages of Dramatiq, also as django-dramatiq runs them, as ``task.enqueue.NAME`` and ``task.run.NAME``.

A message's options carry the trace. A message that is delayed or retried keeps what it carries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final

from django_tracing import spans
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.jobs import tracing as jobs
from django_tracing.instrumentation.patching import Patches
from django_tracing.instrumentation.subclasses import wrap_methods
from django_tracing.semconv.names import TASK_ATTEMPT

__all__ = ["install", "is_available", "uninstall"]

_patches: Final = Patches()


def is_available() -> bool:
    return find_spec("dramatiq") is not None


def install() -> None:
    """Trace every broker and every worker, once Dramatiq is imported."""
    if _patches.start():
        when_imported("dramatiq.broker", _patch_brokers)
        when_imported("dramatiq.worker", _patch_workers)


def uninstall() -> None:
    """Stop tracing messages."""
    _patches.stop()


def _patch_brokers() -> None:
    from dramatiq.broker import Broker

    wrap_methods(_patches, Broker, {"enqueue": _traced_enqueue})
    _patches.wrap(Broker, "emit_after", _traced_emit_after)


def _patch_workers() -> None:
    from dramatiq import worker

    # Its name without the underscore came with Dramatiq 2.
    _patches.wrap(worker._WorkerThread, "process_message", _traced_process_message)


def _traced_enqueue(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def enqueue(self: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        with jobs.begin_enqueuing(_library, message) as carrying:
            return original(self, carrying, *args, **kwargs)

    return enqueue


def _traced_process_message(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def process_message(self: Any, message: Any) -> Any:
        with jobs.begin_run(_library, message):
            return original(self, message)

    return process_message


def _traced_emit_after(original: Callable[..., Any]) -> Callable[..., Any]:
    """Find out how a message was processed: the worker catches the exception, and emits a signal."""

    @wraps(original)
    def emit_after(self: Any, signal: str, *args: Any, **kwargs: Any) -> Any:
        if signal in ("process_message", "skip_message") and _patches.active:
            running = jobs.current_run()
            try:
                if running is not None and args and running.is_of(_library, _describe(args[0])):
                    running.set_outcome(*_outcome(signal, kwargs.get("exception")))
            except Exception:
                spans.log_once("dramatiq-emit", "The outcome of a message could not be set on its span.")
        return original(self, signal, *args, **kwargs)

    return emit_after


def _outcome(signal: str, error: BaseException | None) -> tuple[str | None, BaseException | None]:
    from dramatiq.errors import Retry

    if signal == "skip_message":
        return "skipped", None
    # Raised by the actor to be run again. It is no error.
    return ("retrying", None) if isinstance(error, Retry) else (None, error)


def _describe(message: Any) -> jobs.Job:
    retries = message.options.get("retries")
    attempt = retries + 1 if type(retries) is int else 1
    return jobs.Job(message.actor_name, message.message_id, message.queue_name, {TASK_ATTEMPT: attempt})


def _carry(message: Any, carrier: Mapping[str, str]) -> Any:
    return message.copy(options={jobs.CARRIER: dict(carrier)})


def _carried(message: Any) -> object:
    return message.options.get(jobs.CARRIER)


_library: Final = jobs.Library("dramatiq", _patches, _describe, _carry, _carried)
