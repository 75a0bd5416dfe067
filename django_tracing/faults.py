"""Log faults when they begin and once an hour while they last, and contain those of other packages' code."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from threading import RLock
from types import TracebackType
from typing import Final, Protocol

__all__ = ["CONTAINED", "ForeignExit", "Lasting", "Times", "contained", "fault_counts", "log_hourly", "log_once"]

_logger = logging.getLogger("django_tracing")

#: Seconds between two lines about a trouble that lasts.
_AGAIN: Final = 3600.0
#: A trouble that comes and goes begins no more often than this in the log.
_SOON: Final = 60.0
_NEVER: Final = float("-inf")
#: More kinds of faults are neither counted nor logged: a key should be a constant, but other packages choose theirs.
_MOST_FAULTS: Final = 200
_LONGEST_KEY: Final = 100

#: What code of others may raise in a request without ending the request. Exceptions that stop a thread or a greenlet
#: from outside (gevent.Timeout, asyncio.CancelledError) are not among them.
CONTAINED: Final = (Exception, SystemExit, GeneratorExit)


class ForeignExit(Exception):
    """Code of another package has raised an exception that would have ended this process, or its start."""


class contained:  # noqa: N801 - it is used as a function
    """Raise a :class:`ForeignExit` for a BaseException that is neither an Exception nor KeyboardInterrupt.

    For blocks that import or call what a setting or an entry point names: ``sys.exit()`` in a module, for example.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, (Exception, KeyboardInterrupt)):
            return
        code = f"({error.code!r})" if isinstance(error, SystemExit) and isinstance(error.code, (int, str)) else ""
        raise ForeignExit(f"it raised {type(error).__name__}{code}") from error


class Times(Protocol):
    """When something was last logged, by its kind: a dict, or what processes share."""

    def get(self, kind: str, default: float, /) -> float: ...

    def __setitem__(self, kind: str, seconds: float, /) -> None: ...


class Lasting:
    """Decide when a trouble is logged: when it begins, once an hour while it lasts, and when it ends.

    One that ends and begins again within a minute of its last line is logged when it lasts for longer. Not
    thread-safe: its owner has a lock, or one thread.

    ``times`` has the time of the last line under ``kind``. If other processes share it, there is one line an hour for
    all of them.
    """

    __slots__ = ("_is_logged", "_is_shared", "_kind", "_times", "count", "is_first", "unlogged")

    def __init__(self, times: Times | None = None, kind: str = "") -> None:
        self._kind = kind
        self._is_shared = times is not None
        self._times: Times = {} if times is None else times
        #: How often it happened since it began, and how often since its last line.
        self.count = 0
        self.unlogged = 0
        #: Whether its last line is the first one since it began.
        self.is_first = False
        self._is_logged = False

    def happens(self) -> bool:
        """Count one more time. Return whether to log a line now."""
        self.count += 1
        now = time.monotonic()
        since = now - self._times.get(self._kind, _NEVER)
        if since < (_AGAIN if self._is_logged or self._is_shared else _SOON):
            self.unlogged += 1
            return False
        self.is_first = not self._is_logged
        self._is_logged = True
        self._times[self._kind] = now
        return True

    def ends(self) -> int:
        """Note that it has ended. Return how often it happened if that was logged; 0 if there is nothing to log."""
        count = self.count if self._is_logged else 0
        self.count = self.unlogged = 0
        self._is_logged = False
        return count

    def since_last_line(self) -> int:
        """Return how often it happened between the last two lines, and begin to count again."""
        unlogged, self.unlogged = self.unlogged, 0
        return unlogged


class _Faults:
    """The faults of this process by their key."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin again. In a forked child, the parent's threads held the lock."""
        # Reentrant: a signal handler, or a log handler, may fail while another fault is counted.
        self.lock = RLock()
        self.by_key: dict[str, Lasting] = {}

    def forked(self) -> None:
        """Count the child's own faults. What the parent has logged is not logged again by each child."""
        self.lock = RLock()
        for fault in list(self.by_key.values()):
            fault.count = fault.unlogged = 0


_faults: Final = _Faults()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_faults.forked)


def log_once(key: str, message: str, *args: object) -> None:
    """Log the current exception as a warning, once, and once an hour if the fault of that ``key`` happens again.

    Never raises. The lines after the first one have the number of times. ``fault_counts`` counts all of them.
    """
    _log(key, message, args, exc_info=True)


def log_hourly(key: str, message: str, *args: object) -> None:
    """Log a warning as :func:`log_once` does, without an exception: what it quotes may be secret."""
    _log(key, message, args, exc_info=False)


def fault_counts() -> dict[str, int]:
    """Return how often each fault has happened in this process, by its key."""
    with _faults.lock:
        return {key: fault.count for key, fault in _faults.by_key.items() if fault.count}


def _log(key: str, message: str, args: tuple[object, ...], *, exc_info: bool) -> None:
    key = key[:_LONGEST_KEY]
    with _faults.lock:
        fault = _faults.by_key.get(key)
        if fault is None:
            if len(_faults.by_key) >= _MOST_FAULTS:
                return
            fault = _faults.by_key[key] = Lasting()
        if not fault.happens():
            return
        again = fault.since_last_line()
    if again:
        # Without arguments, a percent sign stands for itself.
        message = message if args else message.replace("%", "%%")
        message += " It happened %d more times since it was last logged."
        args = (*args, again)
    # Not with the lock: a log handler may be slow. A filter of the user's log may raise.
    with suppress(Exception):
        _logger.warning(message, *args, exc_info=exc_info)
