"""Log faults of this app, each once in a process, and contain those of other packages' code."""

from __future__ import annotations

import logging
from contextlib import suppress
from types import TracebackType
from typing import Final

__all__ = ["CONTAINED", "ForeignExit", "contained", "log_once"]

_logger = logging.getLogger("django_tracing")
_logged: set[str] = set()

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


def log_once(key: str, message: str, *args: object) -> None:
    """Log a fault of this app as a warning, unless one with the same ``key`` was logged before."""
    if key not in _logged:
        _logged.add(key)
        with suppress(Exception):
            _logger.warning(message, *args, exc_info=True)
