"""Whether this process runs a test suite, whose spans leave it only if somebody asks for that."""

from __future__ import annotations

import sys

__all__ = ["in_tests"]


def in_tests() -> bool:
    """Whether Django's test environment is set up: by Django's runner, by pytest-django or by anything else.

    ``django.test.utils.setup_test_environment`` makes the outbox, and ``teardown_test_environment`` deletes it.
    """
    return hasattr(sys.modules.get("django.core.mail"), "outbox")
