"""A pytest plugin (``-p tests.servers``) that starts PostgreSQL and Redis before pytest-django reads the settings."""

from __future__ import annotations

import os

from example_project.servers import Server, start_postgres, start_redis

_servers: list[Server] = []

if "TEST_POSTGRES_URL" not in os.environ:
    for variable, start in (("TEST_POSTGRES_URL", start_postgres), ("TEST_REDIS_URL", start_redis)):
        _servers.append(start())
        os.environ[variable] = _servers[-1].url


def pytest_unconfigure() -> None:
    while _servers:
        _servers.pop().stop()
