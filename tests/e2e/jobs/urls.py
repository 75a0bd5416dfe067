"""Enqueue a job of a library in a request."""

from __future__ import annotations

import django_rq
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django_q.tasks import async_chain, async_task
from rq import Retry

from tests.e2e.jobs import framework, tasks


def enqueue(library: str, number: int) -> None:
    if library == "rq":
        django_rq.get_queue(settings.QUEUE).enqueue(tasks.rq_job, number, retry=Retry(1), color="red")
    elif library == "huey":
        tasks.huey_job(number, color="red")
    elif library.startswith("tasks"):
        getattr(framework, f"{library}_job").enqueue(number, color="red")
    elif library == "chain":
        async_chain([("tests.e2e.jobs.tasks.django_q_job", (one,)) for one in (number, number + 1)], cached=True)
    elif library == "django_q":
        async_task(tasks.django_q_job, number, color="red")
    else:
        tasks.dramatiq_job.send(number, color="red")


def view(request: HttpRequest, library: str, number: int) -> HttpResponse:
    user = User(pk=4711, username="ada", email="ada@example.com")
    user.subscription = "pro"  # type: ignore[attr-defined]
    request.user = user
    enqueue(library, number)
    return HttpResponse("enqueued")


urlpatterns = [path("enqueue/<library>/<int:number>/", view)]
