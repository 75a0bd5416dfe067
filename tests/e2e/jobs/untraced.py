"""Run the jobs that a traced site has enqueued, and enqueue others, in a process without tracing."""

from __future__ import annotations

import django

django.setup()

import sys  # noqa: E402
from multiprocessing import Value  # noqa: E402

import django_rq  # noqa: E402
import dramatiq  # noqa: E402
import redis  # noqa: E402
from django.conf import settings  # noqa: E402
from django_q.brokers import get_broker  # noqa: E402
from django_q.queues import Queue  # noqa: E402
from django_q.signing import SignedPackage  # noqa: E402
from django_q.worker import worker  # noqa: E402
from dramatiq.worker import Worker  # noqa: E402
from huey.contrib.djhuey import HUEY  # noqa: E402
from rq import SimpleWorker  # noqa: E402

from tests.e2e.jobs.site import FRAMEWORK, LIBRARIES  # noqa: E402
from tests.e2e.jobs.urls import enqueue  # noqa: E402


def run_rq() -> None:
    queue = django_rq.get_queue(settings.QUEUE)
    SimpleWorker([queue], connection=queue.connection).work(burst=True)


def run_huey() -> None:
    HUEY.execute(HUEY.dequeue())


def run_django_q() -> None:
    tasks, results = Queue(), Queue()
    tasks.put(SignedPackage.loads(get_broker().dequeue()[0][1]))
    tasks.put("STOP")
    worker(tasks, results, Value("f", -1))
    assert results.get()["success"]


def run_dramatiq() -> None:
    broker = dramatiq.get_broker()
    messages = Worker(broker, worker_timeout=50, worker_threads=1)
    messages.start()
    broker.join("shop")
    messages.join()
    messages.stop()


def main() -> None:
    assert "django_tracing.instrumentation.jobs.rq" not in sys.modules
    queue = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=60)
    assert queue.blpop([f"{settings.QUEUE}:enqueued"], timeout=60)
    for run in (run_rq, run_huey, run_django_q, run_dramatiq):
        run()
    for library in (*LIBRARIES, *FRAMEWORK):
        enqueue(library, 7)
    queue.rpush(f"{settings.QUEUE}:untraced", "7")
    queue.close()


if __name__ == "__main__":
    main()
