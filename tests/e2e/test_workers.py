"""Test worker processes: Django's tasks in a database, Celery over Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import django
import pytest

from tests.e2e.processes import ROOT, Process, environment
from tests.e2e.refreshes import processes
from tests.receivers import OTLPReceiver


def run(arguments: list[str], **variables: str) -> str:
    """Run a process to its end and return its output."""
    finished = subprocess.run(
        [sys.executable, *arguments],
        env=environment(**variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


ENQUEUE = """
import django; django.setup()
import json
from django_tracing import create_span, get_correlation_id
from tests.e2e.worker_tasks import send_invoice
with create_span("request"):
    results = [send_invoice.enqueue(4711, color="red"), send_invoice.enqueue(0)]
    assert all("_django_tracing" not in result.kwargs for result in results)
    print(json.dumps(get_correlation_id()))
"""

OUTCOME = """
import django; django.setup()
import json
from django_tasks_db.models import DBTaskResult
print(json.dumps([
    [result.status, result.return_value, result.task_result.kwargs]
    for result in DBTaskResult.objects.order_by("enqueued_at")
]))
"""


@pytest.mark.skipif(django.VERSION < (6, 0), reason="Django's tasks framework came with Django 6.0")
@pytest.mark.parametrize("mode", ["trace", "link"])
def test_djangos_tasks_in_a_database(mode: str, tmp_path: Path) -> None:
    pytest.importorskip("django_tasks_db")
    variables = {
        "DJANGO_SETTINGS_MODULE": "tests.e2e.worker_settings",
        "TASKS_DATABASE": str(tmp_path / "tasks.sqlite3"),
        "TRACING_SETTINGS": json.dumps({"TASKS": mode}),
    }
    run(["-m", "django", "migrate", "--verbosity", "0"], **variables)
    with OTLPReceiver() as receiver:
        variables["JAEGER_ENDPOINT"] = receiver.endpoint
        correlation_id = json.loads(run(["-c", ENQUEUE], **variables))
        run(["-m", "django", "db_worker", "--batch"], **variables)
        receiver.wait_for(lambda spans: len([s for s in spans if s.name == "task.run.send_invoice"]) == 2)
        enqueued = receiver.named("task.enqueue.send_invoice")
        ran = receiver.named("task.run.send_invoice")
        [request] = receiver.named("request")
        caches = receiver.named("cache.set.invoice:*")
    outcome = json.loads(run(["-c", OUTCOME], **variables))
    assert outcome == [
        ["SUCCESSFUL", [correlation_id, {"color": "red"}], {"color": "red"}],
        ["FAILED", None, {}],
    ], "the carried context is not visible"

    assert [span.attributes["task.status"] for span in ran] == ["successful", "failed"]
    assert {span.attributes["correlation.id"] for span in (*enqueued, *ran, *caches)} == {correlation_id}
    assert [span.parent_id for span in caches] == [span.span_id for span in ran]
    assert ran[0].attributes["invoice.lines"] == 3
    assert "hunter2" not in str(ran)
    by_id = {span.attributes["task.id"]: span for span in enqueued}
    for span in ran:
        origin = by_id[span.attributes["task.id"]]
        if mode == "trace":
            assert (span.trace_id, span.parent_id) == (request.trace_id, origin.span_id)
        else:
            assert span.trace_id != request.trace_id
            assert span.links == [origin.span_id]


PUBLISH = """
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from tests.e2e.celery_app import send_invoice
import json
from django_tracing import create_span, get_correlation_id
with create_span("request"):
    results = [send_invoice.delay(number, token="hunter2") for number in range(1, 7)]
    failing = send_invoice.delay(0, token="hunter2")
    correlation_id = get_correlation_id()
answers = [result.get(timeout=40) for result in results]
failing.get(timeout=40, propagate=False)
# As by a producer that is not traced.
CeleryInstrumentor().uninstrument()
for result in [send_invoice.delay(number) for number in range(7, 10)]:
    result.get(timeout=40)
print(json.dumps([correlation_id, answers]))
"""


@pytest.mark.parametrize("options", [[], ["--max-tasks-per-child", "1"]], ids=["two processes", "one a task"])
def test_the_spans_of_every_task_arrive_from_celerys_processes(options: list[str], tmp_path: Path) -> None:
    pytest.importorskip("celery")
    variables = {"CELERY_QUEUE": f"shop-{uuid.uuid4().hex}", "TEST_REDIS_URL": os.environ["TEST_REDIS_URL"]}
    worker = [
        "celery",
        "-A",
        "tests.e2e.celery_app",
        "worker",
        "-c",
        "2",
        "--pool",
        "prefork",
        "-l",
        "INFO",
        *options,
    ]
    with OTLPReceiver() as receiver:
        # Spans that wait longer than the test are sent when the process ends or never.
        tracing = json.dumps({"EXPORT_INTERVAL": 600})
        variables |= {"JAEGER_ENDPOINT": receiver.endpoint, "TRACING_SETTINGS": tracing}
        variables["REFRESHES"] = str(tmp_path / "refreshes")
        with Process([*worker, "--without-mingle", "--without-gossip"], ready=None, **variables) as process:
            correlation_id, answers = json.loads(run(["-c", PUBLISH], **variables))
            process.stop()
        receiver.wait_for(lambda spans: len([s for s in spans if s.name.startswith("run/")]) == 10)
        published = receiver.named("apply_async/tests.e2e.celery_app.send_invoice")
        [request] = receiver.named("request")
        all_runs = receiver.named("run/tests.e2e.celery_app.send_invoice")
        ran = [span for span in all_runs if span.trace_id == request.trace_id]
        caches = [span for span in receiver.named("cache.set.invoice:*") if span.trace_id == request.trace_id]
    assert [span.parent_id for span in all_runs if span not in ran] == [""] * 3
    assert {answer[1] for answer in answers} == {correlation_id}
    if options:
        assert len({answer[0] for answer in answers}) == 6
        # The worker's own process has read the rules for the three that begin traces; one may have been forked before.
        readers = processes(tmp_path / "refreshes")
        assert str(process.process.pid) in readers
        assert len(readers) <= 2
    assert {span.parent_id for span in ran} == {span.span_id for span in published}
    assert {span.trace_id for span in (*published, *ran, *caches)} == {request.trace_id}
    assert {span.attributes["correlation.id"] for span in (*ran, *caches)} == {correlation_id}
    assert {span.attributes["operation.type"] for span in ran} == {"task"}
    assert len(caches) == 7
    assert "hunter2" not in str((published, ran, caches))
