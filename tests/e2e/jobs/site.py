"""Enqueue jobs in requests, wait until a process without tracing has run them, and enqueue others."""

from __future__ import annotations

import django

django.setup()

import redis  # noqa: E402
from django.conf import settings  # noqa: E402
from django.test import Client  # noqa: E402

LIBRARIES = ("rq", "huey", "django_q", "dramatiq")
FRAMEWORK = ("tasks_rq", "tasks_redis", "tasks_huey")


def main() -> None:
    queue = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=60)
    for number in (2, 1, 0):
        # What Django's tasks carry, only a worker with this app can run.
        for library in LIBRARIES if number == 2 else (*LIBRARIES, *FRAMEWORK):
            headers = {"X-Correlation-ID": f"{library}-{number}"}
            assert Client().get(f"/enqueue/{library}/{number}/", headers=headers).status_code == 200
        if number == 2:
            queue.rpush(f"{settings.QUEUE}:enqueued", "2")
            assert queue.blpop([f"{settings.QUEUE}:untraced"], timeout=60)
    assert Client().get("/enqueue/chain/5/", headers={"X-Correlation-ID": "chain"}).status_code == 200
    queue.close()


if __name__ == "__main__":
    main()
