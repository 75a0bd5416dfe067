"""Start the services that the servers of these tests connect to, and a site whose admin shows traces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.e2e.browser import chromium, sign_in, watched_page


@pytest.fixture(scope="session", autouse=True)
def _servers(postgres_url: str, redis_url: str) -> None:
    """Start PostgreSQL and Redis. Processes started by a test find their addresses in the environment."""


@pytest.fixture
def store(settings: Any, tmp_path: Path) -> Iterator[LocalStore]:
    """The store that the admin of ``traces_page`` shows."""
    # The pages show the path, which no phone has room for.
    path = tmp_path / ("long" * 20) / "traces.sqlite3"
    settings.TRACING = {"EXPORTER": "local", "LOCAL_STORE": str(path), "SERVICE_NAME": "shop"}
    store = LocalStore(path)
    yield store
    store.close()


@pytest.fixture
def traces_site(settings: Any, store: LocalStore, live_server: Any) -> str:
    """The address of the list of traces, with a policy as strict as the admin itself allows."""
    from django.contrib.auth.models import User

    settings.ROOT_URLCONF = "tests.pages.urls"
    if django.VERSION >= (6, 0):
        settings.MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware", *settings.MIDDLEWARE]
        settings.SECURE_CSP = {"default-src": ["'self'"], "img-src": ["'self'", "data:"]}
    User.objects.create_superuser("root", "root@example.com", "secret")
    return f"{live_server.url}/admin/django_tracing/trace/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for all tests of a module: starting one takes most of a second. Each test has a context of its own."""
    with pytest.MonkeyPatch.context() as patch, chromium() as started:
        # Playwright's own loop runs in this thread; Django's ORM is used between its calls.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield started


@pytest.fixture
def traces_page(browser: Any, traces_site: str) -> Iterator[Any]:
    """A browser's page, signed in, on the list of traces."""
    with watched_page(browser) as page:
        sign_in(
            page,
            f"{traces_site.partition('/admin/')[0]}/admin/login/?next=/admin/django_tracing/trace/",
            "root",
            "secret",
        )
        yield page
