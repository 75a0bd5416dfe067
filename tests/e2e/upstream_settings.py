"""A project on PostgreSQL and Redis that calls another service, for processes traced by other people's means."""

from __future__ import annotations

from tests.e2e.settings import *  # noqa: F403

ROOT_URLCONF = "tests.e2e.upstream_urls"
MIDDLEWARE = ["tests.e2e.upstream_urls.authenticate"]
