"""Two services and the admin from one code base: SERVICE_NAME selects the one that a process runs.

All settings come from the environment; without any, the gateway uses SQLite and a cache in memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import django

from example_project.servers import database_settings

BASE_DIR = Path(__file__).parent.parent
SERVICE = os.environ.get("SERVICE_NAME", "api-gateway")
BLUEPRINT_SERVICE_URL = os.environ.get("BLUEPRINT_SERVICE_URL", "http://127.0.0.1:3001")
IAC_GENERATOR_URL = os.environ.get("IAC_GENERATOR_URL", "http://127.0.0.1:3002")
REDIS_URL = os.environ.get("REDIS_URL", "")
# Where people see the traces: the list, and one trace ("TRACE_ID" stands for its id).
TRACES_URL = os.environ.get("DEMO_TRACES_URL", "")
TRACE_URL = os.environ.get("DEMO_TRACE_URL", "")

SECRET_KEY = os.environ.get("SECRET_KEY", "for the demo only")
DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "example_project.urls"
WSGI_APPLICATION = "example_project.wsgi.application"
USE_TZ = True
TIME_ZONE = "UTC"
AUTH_USER_MODEL = "blueprints.Customer"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django_tracing",
    "example_project.blueprints",
    "django.contrib.auth",
    "django.contrib.contenttypes",
]

MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
if SERVICE == "api-gateway":
    MIDDLEWARE += [
        "example_project.blueprints.middleware.AuthMiddleware",
        "example_project.blueprints.middleware.RateLimitMiddleware",
    ]
    TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

if SERVICE == "admin":
    # Shows the traces of the other services and makes none.
    INSTALLED_APPS += [
        "django.contrib.admin",
        "django.contrib.messages",
        "django.contrib.sessions",
        "django.contrib.staticfiles",
    ]
    MIDDLEWARE = [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ]
    TEMPLATES = [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ]
    STATIC_URL = "/static/"
    if django.VERSION >= (6, 0):
        # Only the site's own files: the pages need no others.
        MIDDLEWARE.insert(0, "django.middleware.csp.ContentSecurityPolicyMiddleware")
        SECURE_CSP = {"default-src": ["'self'"], "img-src": ["'self'", "data:"]}

DATABASES = {
    "default": database_settings(
        os.environ.get("DATABASE_URL", f"sqlite:///{BASE_DIR / 'example_project' / 'db.sqlite3'}")
    )
}
CACHES = {
    "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": REDIS_URL}
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}

TRACING = {
    "SERVICE_NAME": SERVICE,
    # A span for each middleware and view, fast or slow, because the demo shows them.
    "LAYERS": "all",
    "SUBSCRIPTION": "tier",
    "PEER_SERVICES": {
        urlsplit(BLUEPRINT_SERVICE_URL).netloc: "blueprint-service",
        urlsplit(IAC_GENERATOR_URL).netloc: "iac-generator",
    },
    # "report:seen" isn't personal, as "report:jane" would be.
    "CACHE_KEY_PREFIXES": ["report:"],
    "EXPORT_INTERVAL": 0.5,
    "CODE_LOCATIONS": True,
    "RESPONSE_HEADERS": ["Server-Timing", "traceresponse"],
    "IGNORE_PATHS": ["/health", "/demo"],
}
if SERVICE == "admin":
    TRACING["IGNORE_PATHS"] = ["/"]
for name in ("EXPORTER", "LAYERS", "LOCAL_STORE", "QUERY_URL"):
    if f"DEMO_{name}" in os.environ:
        TRACING[name] = os.environ[f"DEMO_{name}"]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
