"""Test the workers of rq, huey, django-q2, Dramatiq and Django's tasks, with the commands that operators start."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import redis

from tests.e2e.processes import Process
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver, ReceivedSpan

for name in ("django_rq", "huey", "django_q", "django_dramatiq", "django_tasks_rq", "django_tasks_redis"):
    pytest.importorskip(name)

_MANAGE = [sys.executable, "-m", "django"]
#: The command of each worker, and the signal that ends it; None where it ends by itself.
WORKERS = {
    "rq": ([*_MANAGE, "rqworker", "--burst", "QUEUE"], None),
    "tasks_rq": ([*_MANAGE, "rqworker", "--burst", "--job-class", "django_tasks_rq.Job", "QUEUE-tasks"], None),
    "tasks_redis": ([*_MANAGE, "run_redis_tasks", "--backend", "redis"], None),
    "huey": ([*_MANAGE, "run_huey", "--worker-type", "process", "--workers", "2", "--quiet"], signal.SIGINT),
    "django_q": ([*_MANAGE, "qcluster"], signal.SIGTERM),
    "dramatiq": ([*_MANAGE, "rundramatiq", "--processes", "1", "--threads", "1"], signal.SIGTERM),
}
LIBRARIES = ("rq", "huey", "django_q", "dramatiq")
#: Django's tasks on other queues: the last of them is run by Huey's worker.
FRAMEWORK = ("tasks_rq", "tasks_redis", "tasks_huey")
#: How often the job that fails runs.
ATTEMPTS = {"rq": 2, "huey": 2, "django_q": 1, "dramatiq": 2, "tasks_rq": 1, "tasks_redis": 1, "tasks_huey": 1}
#: How many jobs run once: the numbers 1 and 7, of the libraries also 2, and the two of a chain.
OTHERS = {"rq": 3, "huey": 3, "django_q": 5, "dramatiq": 3, "tasks_rq": 2, "tasks_redis": 2, "tasks_huey": 2}


class Ran(NamedTuple):
    """What the workers did, and the spans of all processes."""

    #: Library -> the number, the arguments and the correlation id of each run.
    runs: dict[str, list[list[Any]]]
    spans: list[ReceivedSpan]
    #: What each worker logged.
    logs: dict[str, str]

    def of(self, library: str, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == f"task.{name}.{library}_job"]


@pytest.fixture(scope="module")
def ran(redis_url: str) -> Iterator[Ran]:
    """Enqueue jobs in traced requests and in an untraced process, and run some without tracing, all others traced."""
    queue = f"shop-{uuid.uuid4().hex}"
    variables = {
        "DJANGO_SETTINGS_MODULE": "tests.e2e.jobs_settings",
        "JOBS_QUEUE": queue,
        "TEST_REDIS_URL": redis_url,
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    runs: dict[str, list[list[Any]]] = {library: [] for library in ATTEMPTS}
    with OTLPReceiver() as receiver, redis.Redis.from_url(redis_url) as client:
        variables["JAEGER_ENDPOINT"] = receiver.endpoint

        def collect() -> bool:
            while (line := client.lpop(f"{queue}:ran")) is not None:
                library, *run = json.loads(line)
                runs[library].append(run)
            return all(len(done) == ATTEMPTS[name] + OTHERS[name] for name, done in runs.items())

        untraced = Process([sys.executable, "-m", "tests.e2e.jobs.untraced"], ready=None, UNTRACED="1", **variables)
        site = Process([sys.executable, "-m", "tests.e2e.jobs.site"], ready=None, **variables)
        with untraced, site:
            assert site.process.wait(60) == 0, site.log() + untraced.log()
            assert untraced.process.wait(60) == 0, untraced.log()
        with ExitStack() as stack:
            workers = {}
            for library, (command, _) in WORKERS.items():
                arguments = [argument.replace("QUEUE", queue) for argument in command]
                workers[library] = stack.enter_context(Process(arguments, ready=None, **variables))
            wait_until(collect, "all jobs to run", 60)
            for library, (_, end) in WORKERS.items():
                if end is not None:
                    workers[library].process.send_signal(end)
            for worker in workers.values():
                worker.process.wait(60)
            logs = {library: worker.log() for library, worker in workers.items()}
        yield Ran(runs, list(receiver.spans), logs)


@pytest.mark.parametrize("library", ATTEMPTS)
def test_enqueuing_and_run_are_in_the_trace_of_the_request(ran: Ran, library: str) -> None:
    [request] = [
        span
        for span in ran.spans
        if span.attributes.get("correlation.id") == f"{library}-1" and span.kind == "server"
    ]
    [enqueued] = [span for span in ran.of(library, "enqueue") if span.trace_id == request.trace_id]
    [run] = [span for span in ran.of(library, "run") if span.trace_id == request.trace_id]
    assert (enqueued.parent_id, run.parent_id) == (request.span_id, enqueued.span_id)
    assert (enqueued.kind, run.kind) == ("producer", "consumer")
    [cache] = [
        span for span in ran.spans if span.name == "cache.set.blueprint:*" and span.trace_id == request.trace_id
    ]
    assert cache.parent_id == run.span_id
    for span in (enqueued, run, cache):
        assert span.attributes["correlation.id"] == f"{library}-1"
        assert (span.attributes["user.id"], span.attributes["user.subscription"]) == ("4711", "pro")
    for span, operation in ((enqueued, "send"), (run, "process")):
        assert span.attributes["operation.type"] == "task"
        assert span.attributes["task.name"].endswith(f"{library}_job")
        assert span.attributes["task.id"] == enqueued.attributes["task.id"]
        if library in FRAMEWORK:
            assert "messaging.system" not in span.attributes, "traced by one instrumentation"
            continue
        assert span.attributes["messaging.system"] == library
        assert span.attributes["messaging.operation.type"] == operation
        assert span.attributes["messaging.message.id"] == span.attributes["task.id"]
        assert span.attributes["messaging.destination.name"] == span.attributes["task.queue"]
    assert run.attributes["task.status"] == "successful"


@pytest.mark.parametrize("library", ATTEMPTS)
def test_each_attempt_of_a_job_that_fails_is_below_its_enqueuing(ran: Ran, library: str) -> None:
    [enqueued] = [span for span in ran.of(library, "enqueue") if span.attributes["correlation.id"] == f"{library}-0"]
    attempts = [span for span in ran.of(library, "run") if span.trace_id == enqueued.trace_id]
    assert [span.parent_id for span in attempts] == [enqueued.span_id] * ATTEMPTS[library]
    for span in attempts:
        assert (span.attributes["task.status"], span.attributes["error.type"]) == ("failed", "ValueError")
        assert span.status == "error"
        assert [name for name, _ in span.events] == ["exception"]
    if library == "dramatiq":
        assert sorted(span.attributes["task.attempt"] for span in attempts) == [1, 2]
    elif library in ("rq", "huey"):
        assert sorted(span.attributes["task.retries_left"] for span in attempts) == [0, 1]


@pytest.mark.parametrize("library", ATTEMPTS)
def test_jobs_run_with_and_without_tracing_on_either_side(ran: Ran, library: str) -> None:
    single = [run for run in ran.runs[library] if run[2] != "chain"]
    without = [2] if library in LIBRARIES else []
    assert sorted(number for number, _, _ in single) == [0] * ATTEMPTS[library] + [1, *without, 7]
    assert all(arguments == {"color": "red"} for _, arguments, _ in single)
    # 2 ran in the process without tracing. 7 was enqueued there, and begins a trace.
    assert len(ran.of(library, "run")) == len(ran.runs[library]) - len(without)
    [alone] = [span for span in ran.of(library, "run") if not span.parent_id]
    [identifier] = [identifier for number, _, identifier in ran.runs[library] if number == 7]
    assert alone.attributes["correlation.id"] == identifier
    assert "user.id" not in alone.attributes


def test_a_chain_of_django_q_is_one_trace(ran: Ran) -> None:
    chain = [span for span in ran.spans if span.attributes.get("correlation.id") == "chain"]
    [request] = [span for span in chain if span.kind == "server"]
    [enqueued] = [span for span in chain if span.kind == "producer"]
    runs = [span for span in chain if span.kind == "consumer"]
    assert [span.parent_id for span in runs] == [enqueued.span_id] * 2
    assert {span.trace_id for span in chain} == {request.trace_id}
    assert {span.attributes["user.id"] for span in runs} == {"4711"}


@pytest.mark.parametrize("library", WORKERS)
def test_a_worker_logs_what_concerns_it_once(ran: Ran, library: str) -> None:
    assert "could not be" not in ran.logs[library], ran.logs[library]
    if library in ("rq", "tasks_rq"):
        # Each job has its own process, which reads no rules.
        assert ran.logs[library].count("There is no table of sampling rules") <= 1


def test_nothing_of_the_arguments_or_of_the_user_leaves(ran: Ran) -> None:
    assert not [word for word in ("hunter2", "ada@", "'red'") if word in str(ran.spans)]
