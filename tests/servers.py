"""Give the tests PostgreSQL and Redis: a pytest plugin (``-p tests.servers``).

The addresses are chosen before pytest-django reads the settings. The servers start when the first test asks for the
fixture ``postgres_url`` (each test with the mark ``django_db`` does) or ``redis_url``.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import pytest

from example_project import servers

#: ``gw0``, ``gw1``, ... in a worker of pytest-xdist.
worker = os.environ.get("PYTEST_XDIST_WORKER", "")

# Where the machine itself is traced, as some CI is, its variables would steer what the tests trace; and a proxy knows
# nothing of servers on 127.0.0.1.
_STEERING = ("OTEL_", "JAEGER_", "SERVICE_", "ENVIRONMENT", "TRACING_")
for _name in [*os.environ]:
    if _name.startswith(_STEERING) or _name.lower().endswith("_proxy"):
        del os.environ[_name]


def _choose(variable: str, new: servers.Server) -> servers.Server:
    # Workers of pytest-xdist inherit the environment, and get servers of their own: one test's cache.clear() would
    # clear another's cache.
    if variable in os.environ and not worker:
        return servers.Server(os.environ[variable])
    os.environ[variable] = new.url
    return new


_postgres = _choose("TEST_POSTGRES_URL", servers.postgres())
_redis = _choose("TEST_REDIS_URL", servers.redis())
if "REDIS_URL" in os.environ and worker:
    # One Redis for all of them, named by the environment: each worker has a database of it.
    os.environ["TEST_REDIS_URL"] = urlsplit(os.environ["REDIS_URL"])._replace(path=f"/{worker[2:]}").geturl()


def pytest_unconfigure() -> None:
    _redis.stop()
    _postgres.stop()


def _started(server: servers.Server, variable: str) -> str:
    try:
        server.start()
    except servers.CannotStart as error:
        if "TEST_SERVERS_REQUIRED" in os.environ:
            raise
        pytest.skip(str(error))
    return os.environ[variable]


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """Start the PostgreSQL of TEST_POSTGRES_URL; give its address. Skip the test where there is none."""
    return _started(_postgres, "TEST_POSTGRES_URL")


@pytest.fixture(scope="session")
def redis_url() -> str:
    """Start the Redis of TEST_REDIS_URL; give its address. Skip the test where there is none."""
    return _started(_redis, "TEST_REDIS_URL")
