"""Add paths to the example project that end, fork or hold the process that answers."""

from __future__ import annotations

import multiprocessing
import os
import time
import uuid
from pathlib import Path
from typing import Any

from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

from example_project.urls import urlpatterns as example

__all__ = ["urlpatterns"]


def _started() -> None:
    """Tell the suite that a request is inside its view."""
    with Path(os.environ["FAULTS_FOLDER"], "started").open("a") as file:
        file.write("x")


def query(request: HttpRequest, seconds: int) -> HttpResponse:
    _started()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [seconds])
    return HttpResponse("slept")


def pop(request: HttpRequest) -> HttpResponse:
    client: Any = cache.client.get_client()  # type: ignore[attr-defined]
    _started()
    client.blpop(["faults"], timeout=60)
    return HttpResponse("popped")


def stall(request: HttpRequest) -> HttpResponse:
    _started()
    time.sleep(60)
    return HttpResponse("late")


def end(request: HttpRequest) -> HttpResponse:
    _make_span("before the end")
    # gunicorn stops if a worker exits with 3 or 4.
    os._exit(1)


def fork(request: HttpRequest) -> HttpResponse:
    child = os.fork()
    if not child:
        _make_span("in a forked child")
        os._exit(0)
    return HttpResponse(str(os.waitpid(child, 0)[1]))


def work(request: HttpRequest) -> HttpResponse:
    process = multiprocessing.get_context("fork").Process(target=_make_span, args=("in a child",))
    process.start()
    process.join()
    return HttpResponse(str(process.exitcode))


def _make_span(name: str) -> None:
    from django_tracing import create_span

    with create_span(name):
        pass


def task(request: HttpRequest, number: int) -> HttpResponse:
    """Send a task, and wait for what it tells."""
    from tests.e2e.faults.celery_app import count

    client: Any = cache.client.get_client()  # type: ignore[attr-defined]
    key = f"faults:{uuid.uuid4()}"
    count.delay(number, key)
    for _ in range(20):
        # Shorter than the client's own time-out.
        answer = client.blpop([key], timeout=3)
        if answer is not None:
            return HttpResponse(answer[1])
    return HttpResponse("no answer", status=504)


def stall_task(request: HttpRequest) -> HttpResponse:
    from tests.e2e.faults.celery_app import stall

    stall.delay()
    return HttpResponse("sent")


urlpatterns = [
    *example,
    path("faults/query/<int:seconds>", query),
    path("faults/pop", pop),
    path("faults/stall", stall),
    path("faults/end", end),
    path("faults/fork", fork),
    path("faults/work", work),
    path("faults/task/<int:number>", task),
    path("faults/stall-task", stall_task),
]
