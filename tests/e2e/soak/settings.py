"""Configure a service of the example project for the soak: as for a row of faults, with more paths."""

from __future__ import annotations

import logging

from tests.e2e.faults.settings import *  # noqa: F403

ROOT_URLCONF = "tests.e2e.soak.urls"
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
# What a view logs gets the ids of its request, and is written nowhere.
logging.getLogger("soak").addHandler(logging.NullHandler())
logging.getLogger("soak").propagate = False
