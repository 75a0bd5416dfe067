"""Log faults of this app, each once in a process."""

from __future__ import annotations

import logging
from contextlib import suppress

__all__ = ["log_once"]

_logger = logging.getLogger("django_tracing")
_logged: set[str] = set()


def log_once(key: str, message: str, *args: object) -> None:
    """Log a fault of this app as a warning, unless one with the same ``key`` was logged before."""
    if key not in _logged:
        _logged.add(key)
        with suppress(Exception):
            _logger.warning(message, *args, exc_info=True)
