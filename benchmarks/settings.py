"""Settings of the benchmarked site, as of ``startproject`` with PostgreSQL and Redis, traced by BENCHMARK_VARIANT."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SECRET_KEY = "benchmark"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "benchmarks.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "benchmarks.urls.known_user",
]
LOGGING_CONFIG = None

_database = urlsplit(os.environ["DATABASE_URL"])
_query = parse_qs(_database.query)
DATABASES: dict[str, Any] = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(_database.path.lstrip("/")) or "postgres",
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "HOST": _query["host"][0] if "host" in _query else _database.hostname or "",
        "PORT": str(_database.port or ""),
        "CONN_MAX_AGE": None,
    }
}
CACHES = {"default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": os.environ["REDIS_URL"]}}

if os.environ.get("BENCHMARK_VARIANT") == "ours":
    INSTALLED_APPS.append("django_tracing")
    TRACING: dict[str, Any] = {
        "SERVICE_NAME": os.environ["BENCHMARK_SERVICE"],
        "ENDPOINT": os.environ["BENCHMARK_ENDPOINT"],
        "EXPORTER": os.environ.get("BENCHMARK_EXPORTER", "otlp"),
        "SAMPLE_RATE": float(os.environ["BENCHMARK_RATE"]),
    }
    if "BENCHMARK_STORE" in os.environ:
        del TRACING["ENDPOINT"]
        TRACING |= {"EXPORTER": "local", "LOCAL_STORE": os.environ["BENCHMARK_STORE"]}
    if names := os.environ.get("BENCHMARK_INSTRUMENTATIONS"):
        TRACING["INSTRUMENTATIONS"] = names.split(",")

if os.environ.get("BENCHMARK_VARIANT") == "elastic":
    INSTALLED_APPS.append("elasticapm.contrib.django")
    MIDDLEWARE.insert(0, "elasticapm.contrib.django.middleware.TracingMiddleware")
    ELASTIC_APM = {
        "SERVER_URL": os.environ["BENCHMARK_ENDPOINT"],
        "SERVICE_NAME": "benchmark",
        # A service's name can't contain a comma there.
        "ENVIRONMENT": os.environ["BENCHMARK_SERVICE"],
        "TRANSACTION_SAMPLE_RATE": float(os.environ["BENCHMARK_RATE"]),
        # Only traces.
        "METRICS_INTERVAL": "0s",
        "CENTRAL_CONFIG": False,
        "CLOUD_PROVIDER": "none",
    }
