"""Settings of a site with PostgreSQL, Redis, a breaker and outgoing calls, and with two tracers.

``OTHER_APP`` is where the other tracer's app is in INSTALLED_APPS: ``first``, ``last`` or nowhere. ``TRACED=no`` leaves
this app out.
"""

from __future__ import annotations

import os

from tests.e2e.settings import *  # noqa: F403
from tests.e2e.settings import INSTALLED_APPS as APPS
from tests.e2e.settings import MIDDLEWARE as MIDDLEWARE_OF_TESTS

ROOT_URLCONF = "tests.e2e.tracers.urls"
MIDDLEWARE = list(MIDDLEWARE_OF_TESTS)
INSTALLED_APPS = [app for app in APPS if app != "django_tracing" or os.environ.get("TRACED") != "no"]

_place = os.environ.get("OTHER_APP", "")
if _place:
    _apps = [f"tests.e2e.tracers.{_place}"]
    if os.environ["OTHER_TRACER"] == "elastic":
        _apps.append("elasticapm.contrib.django")
        ELASTIC_APM = {
            "SERVICE_NAME": "theirs",
            "SERVER_URL": os.environ["OTHER_RECEIVER"],
            "CENTRAL_CONFIG": False,
            "METRICS_INTERVAL": "0s",
            "CLOUD_PROVIDER": "none",
            "API_REQUEST_TIME": "200ms",
        }
        MIDDLEWARE.insert(0, "elasticapm.contrib.django.middleware.TracingMiddleware")
    INSTALLED_APPS = [*_apps, *INSTALLED_APPS] if _place == "first" else [*INSTALLED_APPS, *_apps]
