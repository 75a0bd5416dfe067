"""Let one diagnosis at a time run on a machine: each may take seconds, and whoever starts it waits for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Final

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["alone"]

#: A file that all processes of a site can open, and that is there without being created.
_FILE: Final = __file__


class _Process:
    """The diagnosis of this process."""

    def __init__(self) -> None:
        self.lock = Lock()

    def after_fork_in_child(self) -> None:
        # A thread of the parent may have held the lock.
        self.lock = Lock()


_process: Final = _Process()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.after_fork_in_child)


@contextmanager
def alone() -> Iterator[bool]:
    """Yield whether no other diagnosis is running, in this process or in another one of this installation.

    It never waits. Where files cannot be locked (Windows, some network file systems), only this process counts.
    """
    lock = _process.lock
    if not lock.acquire(blocking=False):
        yield False
        return
    held = None
    try:
        with suppress(OSError):
            held = os.open(_FILE, os.O_RDONLY)
        yield held is None or _is_locked(held)
    finally:
        if held is not None:
            # A process that was forked meanwhile has a copy of the descriptor: closing this one releases nothing.
            if fcntl is not None:
                with suppress(OSError):
                    fcntl.flock(held, fcntl.LOCK_UN)
            os.close(held)
        lock.release()


def _is_locked(held: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
