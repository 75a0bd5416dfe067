"""Settings of servers whose sampling is steered from a database that they share."""

from __future__ import annotations

import os

from tests.e2e.settings import *  # noqa: F403

DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("RULES_DATABASE", ":memory:")}
}
