"""Enqueue a job of each library in a request."""

from __future__ import annotations

import django_rq
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django_q.tasks import async_task
from rq import Retry

from tests.e2e.jobs import tasks

#: How to enqueue a job of each library.
ENQUEUE = {
    "rq": lambda number: django_rq.get_queue(settings.QUEUE).enqueue(
        tasks.rq_job, number, retry=Retry(1), color="red"
    ),
    "huey": lambda number: tasks.huey_job(number, color="red"),
    "django_q": lambda number: async_task(tasks.django_q_job, number, color="red"),
    "dramatiq": lambda number: tasks.dramatiq_job.send(number, color="red"),
}


def enqueue(request: HttpRequest, library: str) -> HttpResponse:
    request.user = User(pk=4711, username="ada")
    for number in (1, 0):
        ENQUEUE[library](number)
    return HttpResponse("enqueued")


urlpatterns = [path("enqueue/<library>/", enqueue)]
