"""Fixtures of the tests of the pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.auth.models import User
from django.test import AsyncClient, Client

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import blueprint_trace


@pytest.fixture(autouse=True)
def path(settings: Any, tmp_path: Path) -> Path:
    settings.ROOT_URLCONF = "tests.pages.urls"
    if django.VERSION >= (6, 0):
        settings.MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware", *settings.MIDDLEWARE]
        settings.SECURE_CSP = {"default-src": ["'self'"]}
    path = tmp_path / "traces.sqlite3"
    settings.TRACING = {"EXPORTER": "local", "LOCAL_STORE": str(path), "SERVICE_NAME": "shop", "LAYERS": "off"}
    return path


@pytest.fixture
def store(path: Path) -> Iterator[LocalStore]:
    store = LocalStore(path)
    store.write(blueprint_trace())
    yield store
    store.close()


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def async_root(root: Client) -> AsyncClient:
    client = AsyncClient()
    client.cookies = root.cookies
    return client
