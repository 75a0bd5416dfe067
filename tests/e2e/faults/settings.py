"""Configure a service of the example project with the settings of a row: ``FAULTS_TRACING`` is JSON for TRACING."""

from __future__ import annotations

import json
import os
from typing import Any

from example_project.servers import database_settings
from example_project.settings import *  # noqa: F403

ROOT_URLCONF = "tests.e2e.faults.urls"
# The load contains errors on purpose, whose stacks would hide what this app logs.
LOGGING = {**LOGGING, "loggers": {"django.request": {"level": "CRITICAL"}}}  # noqa: F405

if os.environ.get("FAULTS_UNTRACED"):
    INSTALLED_APPS = [name for name in INSTALLED_APPS if name != "django_tracing"]  # noqa: F405
    del TRACING  # noqa: F821
elif "FAULTS_TRACING" in os.environ:
    # After the app whose queue it watches.
    INSTALLED_APPS = [*INSTALLED_APPS, "tests.e2e.faults.witness.WitnessConfig"]  # noqa: F405
    TRACING = {**TRACING, "COMMANDS": True, **json.loads(os.environ["FAULTS_TRACING"].replace("{service}", SERVICE))}  # noqa: F405


class RulesRouter:
    """Keep the sampling rules in a database of their own."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "rules" if model._meta.app_label == "django_tracing" else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return (db == "rules") == (app_label == "django_tracing")


if "FAULTS_RULES" in os.environ:
    DATABASES = {**DATABASES, "rules": database_settings(os.environ["FAULTS_RULES"])}  # noqa: F405
    DATABASE_ROUTERS = [RulesRouter()]
