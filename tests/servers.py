"""A pytest plugin (``-p tests.servers``) that starts PostgreSQL and Redis before pytest-django reads the settings."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from example_project.servers import Server, start_postgres, start_redis

_servers: list[Server] = []
#: ``gw0``, ``gw1``, ... in a worker of pytest-xdist.
worker = os.environ.get("PYTEST_XDIST_WORKER", "")

# Where the machine itself is traced, as some CI is, its variables would steer what the tests trace; and a proxy knows
# nothing of servers on 127.0.0.1.
_STEERING = ("OTEL_", "JAEGER_", "SERVICE_", "ENVIRONMENT", "TRACING_")
for _name in [*os.environ]:
    if _name.startswith(_STEERING) or _name.lower().endswith("_proxy"):
        del os.environ[_name]

# Workers of pytest-xdist inherit the environment, and get servers of their own: one test's cache.clear() is another's.
if "TEST_POSTGRES_URL" not in os.environ or worker:
    for variable, start in (("TEST_POSTGRES_URL", start_postgres), ("TEST_REDIS_URL", start_redis)):
        _servers.append(start())
        os.environ[variable] = _servers[-1].url
    if "REDIS_URL" in os.environ and worker:
        # One Redis for all of them, named by the environment: each worker has a database of it.
        os.environ["TEST_REDIS_URL"] = urlsplit(os.environ["REDIS_URL"])._replace(path=f"/{worker[2:]}").geturl()


def pytest_unconfigure() -> None:
    while _servers:
        _servers.pop().stop()
