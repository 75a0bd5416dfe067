"""Test that a process that ends without ``atexit``, or that can no longer start threads, sends its spans."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import Process
from tests.receivers import OTLPReceiver

#: The interval is longer than a test: what arrives is sent when the process ends.
AT_THE_END = json.dumps({"EXPORT_INTERVAL": 3600})

RUNSERVER = [sys.executable, "-m", "django", "runserver", "127.0.0.1:{port}", "--skip-checks"]

GREENLETS = """
import gevent.monkey
gevent.monkey.patch_all()
import django
django.setup()
from django_tracing import create_span
with create_span("in a greenlet"):
    pass
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_gevent_sends_its_spans_at_the_end(host: str) -> None:
    """gevent looks up names in threads, and Python 3.12 starts none in a process that ends."""
    with OTLPReceiver() as receiver:
        with Process(
            [sys.executable, "-W", "ignore", "-c", GREENLETS],
            ready=None,
            JAEGER_ENDPOINT=receiver.endpoint.replace("127.0.0.1", host),
            TRACING_SETTINGS=AT_THE_END,
        ) as script:
            assert script.process.wait(60) == 0, script.log()
        assert [span.name for span in receiver.spans] == ["in a greenlet"]


@pytest.mark.usefixtures("postgres_url", "redis_url")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize(
    ("arguments", "status"), [([], 0), (["--noreload"], -signal.SIGTERM)], ids=["reload", "once"]
)
def test_runserver_sends_its_spans_at_sigterm(arguments: list[str], status: int) -> None:
    command = [*RUNSERVER, *arguments]
    with OTLPReceiver() as receiver:
        with Process(command, JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS=AT_THE_END) as server:
            for _ in range(3):
                server.get("/empty/")
            assert receiver.spans == []
            server.process.terminate()
            # The statuses of Django's own.
            assert server.process.wait(60) == status, server.log()
        assert [span.name for span in receiver.spans if span.kind == "server"] == ["GET /empty/"] * 3


@pytest.mark.usefixtures("postgres_url", "redis_url")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_hanging_backend_does_not_keep_runserver() -> None:
    command = [*RUNSERVER, "--noreload"]
    with OTLPReceiver() as receiver:
        receiver.mode = "hang"
        # The exporter would wait for 600 s.
        limits = json.dumps({"EXPORT_INTERVAL": 3600, "SHUTDOWN_TIMEOUT": 0.5, "EXPORT_TIMEOUT": 600})
        with Process(command, JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS=limits) as server:
            server.get("/empty/")
            server.process.terminate()
            assert server.process.wait(60) == -signal.SIGTERM, server.log()
            assert receiver.connections


CHILD = """
import multiprocessing, sys
import django

def work():
    if sys.argv[1] == "child":
        django.setup()
    from django_tracing import create_span
    with create_span("in the child"):
        pass

if sys.argv[1] == "parent":
    django.setup()
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
sys.exit(process.exitcode)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
@pytest.mark.parametrize("where", ["parent", "child"])
def test_a_child_of_multiprocessing_sends_its_spans(where: str) -> None:
    with OTLPReceiver() as receiver:
        with Process(
            [sys.executable, "-W", "ignore", "-c", CHILD, where],
            ready=None,
            JAEGER_ENDPOINT=receiver.endpoint,
            TRACING_SETTINGS=AT_THE_END,
        ) as script:
            assert script.process.wait(60) == 0, script.log()
        [span] = receiver.spans
        assert span.name == "in the child"
        assert span.resource["process.pid"] != script.process.pid


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_hanging_backend_does_not_delay_the_end_of_a_child() -> None:
    with OTLPReceiver() as receiver:
        receiver.mode = "hang"
        with Process(
            [sys.executable, "-W", "ignore", "-c", CHILD, "child"],
            ready=None,
            JAEGER_ENDPOINT=receiver.endpoint,
            TRACING_SETTINGS=json.dumps({"EXPORT_INTERVAL": 3600, "SHUTDOWN_TIMEOUT": 0.5, "EXPORT_TIMEOUT": 600}),
        ) as script:
            # The exporter would wait for 600 s.
            assert script.process.wait(60) == 0, script.log()
            assert receiver.bodies or receiver.connections


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finding the child needs /proc")
def test_a_child_that_sends_at_its_end_is_not_ended_by_sigterm() -> None:
    # hypercorn sends one to its other workers when the first has ended.
    with OTLPReceiver() as receiver:
        receiver.mode = "hang"
        with Process(
            [sys.executable, "-W", "ignore", "-c", CHILD, "child"],
            ready=None,
            JAEGER_ENDPOINT=receiver.endpoint,
            TRACING_SETTINGS=json.dumps({"EXPORT_INTERVAL": 3600, "SHUTDOWN_TIMEOUT": 30}),
        ) as script:
            receiver.wait_for_requests(1)
            pid = script.process.pid
            [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            os.kill(int(child), signal.SIGTERM)
            receiver.mode = "ok"
            assert script.process.wait(60) == 0, script.log()
        assert [span.name for span in receiver.spans] == ["in the child"]
