"""Settings of processes that tests start: the environment configures tracing, as in a container."""

from __future__ import annotations

import json
import os

from tests.settings import *  # noqa: F403

DEBUG = os.environ.get("DEBUG") == "1"
# With LAYERS = "slow", the spans would depend on the machine's speed.
TRACING = {
    "LAYERS": "off",
    # Prefixes of the keys used here; there are no models with these names.
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
