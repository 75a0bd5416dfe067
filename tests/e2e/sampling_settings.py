"""Settings of servers that read sampling rules from a shared database."""

from __future__ import annotations

import os

from tests.e2e.settings import *  # noqa: F403

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("RULES_DATABASE", ":memory:")}
}
