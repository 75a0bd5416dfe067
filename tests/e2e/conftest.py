"""What the servers of these tests connect to."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _servers(postgres_url: str, redis_url: str) -> None:
    """Start PostgreSQL and Redis: a process that a test starts finds their addresses in its environment."""
