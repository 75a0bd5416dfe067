"""Find out whether this process runs a test suite, whose spans are not sent by default."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["in_tests"]


def in_tests() -> bool:
    """Return whether Django's test environment is set up: by Django's runner, by pytest-django or by other code.

    ``django.test.utils.setup_test_environment`` stores there what it replaces, until it is torn down. The mail outbox
    is no sign of it: a staging site with the "locmem" backend has one after its first message.
    """
    state: Any = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
    return hasattr(state, "saved_data")
