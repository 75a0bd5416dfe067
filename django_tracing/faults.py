"""Log faults of this app once a process."""

from __future__ import annotations

import logging
from contextlib import suppress

__all__ = ["log_once"]

_logger = logging.getLogger("django_tracing")


_logged: set[str] = set()


def log_once(key: str, message: str, *args: object) -> None:
    """Logs a fault of our own once a process (``key`` tells faults apart): a warning, never a flood."""
    if key not in _logged:
        _logged.add(key)
        with suppress(Exception):
            _logger.warning(message, *args, exc_info=True)
