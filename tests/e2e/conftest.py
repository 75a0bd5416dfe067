"""Start the services that the servers of these tests connect to."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _servers(postgres_url: str, redis_url: str) -> None:
    """Start PostgreSQL and Redis. Processes started by a test find their addresses in the environment."""
