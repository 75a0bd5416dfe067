"""Send the spans that wait when a process ends: without ``atexit``, or too late to start a thread."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, Final

from django.utils import autoreload

from django_tracing.export.queue import QueueProcessor
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches

__all__ = ["flush_all", "flush_when_the_process_ends", "stop_with_subinterpreter"]

_logger = logging.getLogger("django_tracing")
_patches: Final = Patches()


def flush_when_the_process_ends(queues: Sequence[QueueProcessor], timeout: float) -> None:
    """Send what ``queues`` hold, within ``timeout`` seconds, before this process or a child of it ends.

    Called once, after the queues' own shutdown was registered with ``atexit``.
    """
    if sys.argv[1:2] == ["runserver"]:
        _before_runserver(queues, timeout)
    _before_uvicorn(queues, timeout)
    when_imported("celery.signals", _before_celery, tuple(queues), timeout)
    when_imported("rq.worker", _before_rq, tuple(queues), timeout)
    when_imported("huey.api", _before_huey, tuple(queues), timeout)
    when_imported("multiprocessing.util", _before_children, tuple(queues), timeout)
    # The last one that is registered is the first to run.
    atexit.register(_resolve_without_threads)


def _resolve_without_threads() -> None:
    """Let gevent look up names in the calling thread, now that the process ends.

    It uses a pool of threads, also for addresses, and Python 3.12 starts no thread in a process that ends.
    """
    if sys.version_info < (3, 12) or "gevent.monkey" not in sys.modules:
        return
    try:
        from gevent import get_hub
        from gevent.monkey import is_module_patched
        from gevent.resolver.blocking import Resolver

        if not is_module_patched("socket"):
            return
        hub = get_hub()
        hub.resolver = Resolver(hub)
    except Exception:
        _logger.debug("gevent goes on looking up names in threads.", exc_info=True)


def stop_with_subinterpreter(stop: Callable[[float], object], timeout: float) -> None:
    """Call ``stop(timeout)``, which stops a thread, when this interpreter ends, if it is not that of the process.

    One that ends while a thread of it runs aborts the whole process.
    """

    def stop_if_sub() -> None:
        # Asked at the end: a start imports nothing for it.
        with suppress(Exception):
            if _in_subinterpreter():
                stop(timeout)

    atexit.register(stop_if_sub)


def _in_subinterpreter() -> bool:
    """Return whether this is not the main interpreter of its process: that of mod_wsgi or uWSGI, for example."""
    for name in ("_interpreters", "_xxsubinterpreters"):
        with suppress(Exception):  # another Python has another name, or none
            interpreters = import_module(name)
            return bool(interpreters.get_current() != interpreters.get_main())
    return False


def flush_all(queues: Sequence[QueueProcessor], timeout: float) -> None:
    """Send what waits in all ``queues`` at the same time, within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    for queue in queues:
        # It starts to send.
        queue.force_flush(0)
    for queue in queues:
        queue.force_flush(max(int((deadline - time.monotonic()) * 1000), 0))


def _before_celery(queues: Sequence[QueueProcessor], timeout: float) -> None:
    """Flush ``queues`` when one of Celery's prefork processes has run its last task: it ends without ``atexit``."""
    from celery.signals import worker_process_shutdown

    def flush(**kwargs: Any) -> None:
        try:
            flush_all(queues, timeout)
        except Exception:
            _logger.debug("Spans could not be sent before a worker's process ended.", exc_info=True)

    worker_process_shutdown.connect(flush, weak=False, dispatch_uid="django_tracing.provider")


def _before_rq(queues: Sequence[QueueProcessor], timeout: float) -> None:
    """Flush ``queues`` when a process that RQ forked has stored its job's result: it ends by ``os._exit``."""
    from rq.worker import Worker

    for queue in queues:
        queue.share_log_times()
    # Other workers run jobs in their own process.
    _flush_after(Worker, "perform_job", queues, timeout, lambda worker: getattr(worker, "_is_horse", False))


def _before_huey(queues: Sequence[QueueProcessor], timeout: float) -> None:
    """Flush ``queues`` when Huey's consumer stops: a signal may make it replace its own process by a new one."""
    from huey.api import Huey

    if hasattr(Huey, "notify_interrupted_tasks"):
        _flush_after(Huey, "notify_interrupted_tasks", queues, timeout, lambda huey: True)


def _flush_after(
    owner: Any, name: str, queues: Sequence[QueueProcessor], timeout: float, last: Callable[[Any], bool]
) -> None:
    """Flush ``queues`` after each call of a method that is the ``last`` one of its process."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def flushing(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            try:
                if last(self):
                    flush_all(queues, timeout)
            except Exception:
                _logger.debug("Spans could not be sent before a worker's process ended.", exc_info=True)

    setattr(owner, name, flushing)


def _before_children(queues: Sequence[QueueProcessor], timeout: float) -> None:
    """Flush ``queues`` when a child of multiprocessing ends, as the workers of granian and hypercorn are.

    A forked child ends by ``os._exit``: before Python 3.13 without any ``atexit`` function, since then without those
    that its parent registered.
    """
    from multiprocessing import process, util

    def flush() -> None:
        if not any(queue.queued for queue in queues):
            return
        try:
            # hypercorn terminates its other workers when the first has ended: also one that is sending.
            ignored = (
                threading.current_thread() is threading.main_thread()
                and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            )
            if ignored:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try:
                flush_all(queues, timeout)
            finally:
                if ignored:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
        except Exception:
            _logger.debug("Spans could not be sent before a child process ended.", exc_info=True)

    def register(queue: QueueProcessor) -> None:
        if process.parent_process() is not None:
            # Whichever comes first: the second finds nothing. -100: after the finalizers of other code.
            atexit.register(flush)
            util.Finalize(None, flush, exitpriority=-100)

    register(queues[0])
    # Forking clears what is registered. multiprocessing refers to the queue weakly.
    util.register_after_fork(queues[0], register)


def _before_runserver(queues: Sequence[QueueProcessor], timeout: float) -> None:
    """Flush ``queues`` when SIGTERM ends Django's runserver, as it does when a container stops.

    Without the autoreloader, the signal's default ends the process at once. With it, the parent exits, which kills
    the child that serves by SIGKILL: the child gets SIGTERM first, for which Django lets it exit.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        return

    def end(number: int, frame: object) -> None:
        # Another thread: the one that was interrupted may hold the lock of a queue.
        thread = threading.Thread(target=flush_all, args=(queues, timeout), daemon=True)
        with suppress(Exception):
            thread.start()
            thread.join(timeout)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def passing_on(original: Callable[[], int]) -> Callable[[], int]:
        @functools.wraps(original)
        def restart_with_reloader() -> int:
            exits = signal.getsignal(signal.SIGTERM)

            def pass_on(number: int, frame: FrameType | None) -> None:
                # A second signal does what Django wants.
                signal.signal(signal.SIGTERM, exits)
                children = _children()
                for child in children:
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGTERM)
                if not children and callable(exits):
                    exits(number, frame)

            signal.signal(signal.SIGTERM, pass_on)
            return original()

        return restart_with_reloader

    # Django sets its own after this, if it reloads.
    signal.signal(signal.SIGTERM, end)
    _patches.start()
    _patches.wrap(autoreload, "restart_with_reloader", passing_on)


def _children() -> list[int]:
    """Return the processes that the main thread started; none if this system does not tell."""
    try:
        return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except (OSError, ValueError):
        return []


def _before_uvicorn(queues: Sequence[QueueProcessor], timeout: float) -> None:
    """Flush the queues when uvicorn shuts down.

    uvicorn then ends by the signal that stopped it, which runs no ``atexit``, and Django has no lifespan events.
    """
    module = sys.modules.get("uvicorn.server")
    server = getattr(module, "Server", None)
    if server is None:
        return
    import asyncio

    original = server.shutdown

    @functools.wraps(original)
    async def shutdown(*args: Any, **kwargs: Any) -> None:
        await original(*args, **kwargs)
        try:
            await asyncio.to_thread(flush_all, queues, timeout)
        except Exception:
            _logger.debug("Spans could not be sent before uvicorn ended.", exc_info=True)

    server.shutdown = shutdown
