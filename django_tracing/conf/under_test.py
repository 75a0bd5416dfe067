"""Whether this process runs a test suite, whose spans leave it only if somebody asks for that."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["in_tests"]


def in_tests() -> bool:
    """Whether Django's test environment is set up: by Django's runner, by pytest-django or by anything else.

    ``django.test.utils.setup_test_environment`` keeps there what it replaces, until it is torn down. Not the outbox
    tells: a site that sends no mail, as a staging site with the "locmem" backend, has one with its first message.
    """
    state: Any = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
    return hasattr(state, "saved_data")
