"""Settings of worker processes: Django's tasks in a database, Celery's over Redis."""

from __future__ import annotations

import os

from tests.e2e.settings import *  # noqa: F403
from tests.e2e.settings import INSTALLED_APPS, TRACING

INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks_db"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("TASKS_DATABASE", ":memory:")}
}
# The status of the processes is stored beside it, not in this folder.
TRACING = {"LOCAL_STORE": f"{DATABASES['default']['NAME']}.traces.sqlite3", **TRACING}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
