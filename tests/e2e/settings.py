"""Settings of processes that tests start: tracing is set by the environment, as in a container."""

from __future__ import annotations

import json
import os

from tests.settings import *  # noqa: F403

DEBUG = os.environ.get("DEBUG") == "1"
# Layers by the clock would make spans as the machine pleases.
TRACING = {
    "LAYERS": "off",
    # What keys begin with here: there is no model that is called so.
    "CACHE_KEY_PREFIXES": ["blueprint:", "chunk:"],
    **json.loads(os.environ.get("TRACING_SETTINGS", "{}")),
}
ALLOWED_HOSTS = ["*"]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django_tracing": {"handlers": ["console"], "level": "INFO"}},
}
