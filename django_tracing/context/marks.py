"""Mark what a hook is inside of, for the calls that it leads to: a cache's own statements are not traced twice.

A mark is removed when its hook is left. A KeyboardInterrupt, or what a signal handler raises, may come between any
two instructions, also just before that. Where the process goes on (a shell, a notebook, a test run), what is marked
for ever would never be traced again. So the hooks that a request, a command or a block is inside of remove all marks
when they are left in such a way.
"""

from __future__ import annotations

from asyncio import CancelledError
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from django_tracing.faults import is_from_signal

__all__ = ["forget_marks", "is_interruption", "make_mark"]

T = TypeVar("T")

#: What ends an iteration, or work that is not wanted any more.
_NONE: Final = (CancelledError, GeneratorExit, StopIteration, StopAsyncIteration)

_marks: Final[list[tuple[ContextVar[Any], Any]]] = []


def make_mark(name: str, default: T) -> ContextVar[T]:
    """Return a context variable, which a hook sets while it calls what it wraps."""
    mark: ContextVar[T] = ContextVar(f"django_tracing.{name}", default=default)
    _marks.append((mark, default))
    return mark


def is_interruption(error: BaseException | None) -> bool:
    """Return whether ``error`` came from outside, and not from what is called: Ctrl-C, or a signal handler's."""
    try:
        if error is None or isinstance(error, _NONE):
            return False
        return not isinstance(error, Exception) or is_from_signal(error)
    except Exception:  # it can't be found out
        return False


def forget_marks() -> None:
    """Remove all marks: what they were set for was interrupted."""
    for mark, default in _marks:
        mark.set(default)
