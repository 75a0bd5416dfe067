"""Settings of a project with PostgreSQL and Redis that calls another service, traced by OpenTelemetry's instrumentations."""

from __future__ import annotations

from tests.e2e.settings import *  # noqa: F403

ROOT_URLCONF = "tests.e2e.upstream_urls"
MIDDLEWARE = ["tests.e2e.upstream_urls.authenticate"]
