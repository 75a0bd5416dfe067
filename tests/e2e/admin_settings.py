"""Settings of processes with the admin, see ``settings.py``."""

from __future__ import annotations

from tests.e2e.settings import *  # noqa: F403

ROOT_URLCONF = "tests.pages.urls"
