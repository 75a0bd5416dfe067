"""Settings of processes that enqueue jobs and of their workers: rq, huey, django-q2, Dramatiq, and django-tasks."""

from __future__ import annotations

import os

from tests.e2e.settings import *  # noqa: F403

#: Each run of the tests has queues of its own.
QUEUE = os.environ["JOBS_QUEUE"]
REDIS_URL = os.environ["TEST_REDIS_URL"]

INSTALLED_APPS = [
    *("django_tracing", "django.contrib.contenttypes", "django.contrib.auth", "tests.e2e.jobs"),
    *("django_rq", "huey.contrib.djhuey", "django_q", "django_dramatiq"),
    *("django_tasks", "django_tasks_redis"),
]
MIDDLEWARE: list[str] = []
ROOT_URLCONF = "tests.e2e.jobs.urls"
TRACING = {
    "LAYERS": "off",
    "ENABLED": "UNTRACED" not in os.environ,
    # Spans that wait longer than the test are sent when the process ends, or never.
    "EXPORT_INTERVAL": 600,
    "SUBSCRIPTION": "subscription",
    "CACHE_KEY_PREFIXES": ["blueprint:"],
}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
RQ_QUEUES = {QUEUE: {"URL": REDIS_URL}, f"{QUEUE}-tasks": {"URL": REDIS_URL}}
HUEY = {"name": QUEUE, "immediate": False, "connection": {"url": REDIS_URL}}
Q_CLUSTER = {
    "name": QUEUE,
    "redis": REDIS_URL,
    "workers": 1,
    "recycle": 1,
    "timeout": 30,
    "retry": 60,
    "poll": 0.05,
    "guard_cycle": 0.1,
    "save_limit": -1,
    "scheduler": False,
}
TASKS = {
    "default": {"BACKEND": "django_tasks.backends.immediate.ImmediateBackend"},
    "rq": {"BACKEND": "django_tasks_rq.RQBackend", "QUEUES": [f"{QUEUE}-tasks"]},
    "redis": {
        "BACKEND": "django_tasks_redis.RedisTaskBackend",
        "OPTIONS": {"REDIS_URL": REDIS_URL, "REDIS_KEY_PREFIX": f"{QUEUE}-tasks"},
    },
    "huey": {"BACKEND": "huey.contrib.djhuey.tasks_backend.HueyBackend"},
}
DRAMATIQ_BROKER = {
    "BROKER": "dramatiq.brokers.redis.RedisBroker",
    "OPTIONS": {"url": REDIS_URL, "namespace": QUEUE},
    "MIDDLEWARE": ["dramatiq.middleware.Retries", "dramatiq.middleware.Pipelines"],
}
