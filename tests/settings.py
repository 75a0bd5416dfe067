"""Settings of the unit tests: real PostgreSQL and Redis; the ``spans`` fixture collects spans in memory."""

from __future__ import annotations

import os

from example_project.servers import database_settings

SECRET_KEY = "tests-only"
ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
ROOT_URLCONF = "tests.urls"
USE_TZ = True
INSTALLED_APPS = [
    "django_tracing",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
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
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": database_settings(os.environ.get("TEST_POSTGRES_URL", "sqlite:///:memory:"))}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "redis": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:1/0"),
    },
}
TRACING = {
    "SERVICE_NAME": "tests",
    "EXPORTER": "none",
    # With LAYERS = "slow", the spans would depend on the machine's speed. Their own tests enable layers.
    "LAYERS": "off",
    # Prefixes of the tests' keys; there are no models with these names.
    "CACHE_KEY_PREFIXES": ["after:", "async:", "blueprint:", "chunk:", "inner", "price:"],
}
