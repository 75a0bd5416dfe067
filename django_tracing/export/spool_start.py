"""Let a process send what waits in the spool although it makes no spans: a worker without work, for example.

A queue's thread starts with the first span. Here, one look into the folder when the process starts finds out whether
there is another reason. If there is, a thread waits for a moment before it starts the queue's: a process that forks
its workers, as gunicorn does with ``--preload``, does so in that time, and then it is theirs to send.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from threading import Event, Thread
from typing import Final

from django_tracing.export.queue import QueueProcessor

__all__ = ["SpoolStart"]

#: Seconds to wait: random, so that not all processes of a host begin at once.
_SHORTEST: Final = 2.0
_LONGEST: Final = 4.0
#: A fork waits at most so long for the end of the thread, in seconds: it only has to wake up.
_FORK_TIMEOUT: Final = 0.2


class SpoolStart:
    """Start ``queue`` soon if there is something in its spool: in this process, or in the ones forked from it."""

    def __init__(self, queue: QueueProcessor) -> None:
        self._queue = queue
        self._thread: Thread | None = None
        self._cancelled = Event()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork, after_in_child=self.look)

    def look(self) -> None:
        """Look into the spool once. Never raises."""
        spool = self._queue.spool
        try:
            if spool is None or not spool.has_batches():
                return
        except OSError:
            # There is no folder yet, or no permission: check_tracing tells.
            return
        self._cancelled = Event()
        thread = Thread(target=self._wait, args=(self._cancelled,), name="django_tracing.spool", daemon=True)
        # No more threads: the first span tries again.
        with suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _wait(self, cancelled: Event) -> None:
        if not cancelled.wait(random.uniform(_SHORTEST, _LONGEST)):  # noqa: S311 - not for security
            self._queue.send_spooled()

    def _before_fork(self) -> None:
        # Not to be a process with threads, as far as that depends on this app.
        thread, self._thread = self._thread, None
        if thread is not None:
            self._cancelled.set()
            thread.join(_FORK_TIMEOUT)
