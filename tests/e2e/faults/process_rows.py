"""List what can happen to a process that makes spans: signals, restarts, forks and ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from tests.e2e.faults.rows import GUNICORN, UVICORN, Row, Stage
from tests.e2e.faults.services import Services
from tests.export.socket_servers import hang

__all__ = ["PROCESS_ROWS", "at_the_end", "kill", "kill_a_worker", "reload", "stop", "stop_in_flight"]

_RUNSERVER = ["django", "runserver", "127.0.0.1:{port}", "--noreload", "--skip-checks"]
_GEVENT = [*GUNICORN[:-6], "--worker-class", "gevent", "--timeout", "120"]
_SYNC = [*GUNICORN[:-6], "--worker-class", "sync", "--timeout", "3"]


def at_the_end(stage: Stage) -> Mapping[str, Any]:
    """The interval is longer than a row: what arrives in a batch that is not full is sent at the process's end."""
    return {"ENDPOINT": stage.receiver.endpoint, "EXPORT_INTERVAL": 3600}


def _hanging(stage: Stage) -> Mapping[str, Any]:
    stage.receiver.fault = hang
    return {**at_the_end(stage), "SHUTDOWN_TIMEOUT": 0.5, "EXPORT_TIMEOUT": 600}


def stop(stage: Stage) -> None:
    stage.services.load(60)
    stage.services.stop()


def stop_in_flight(stage: Stage) -> None:
    stage.services.load(60)
    with stage.services.in_flight("/faults/query/1"):
        stage.services.stop()


def _interrupt(stage: Stage) -> None:
    stage.services.load(60)
    stage.services.stop(signal.SIGINT)


def kill_a_worker(services: Services) -> None:
    """Kill the gateway's worker in the middle of requests, and wait for the next one."""
    old = services.workers()
    with services.in_flight("/faults/query/60"):
        for pid in old:
            os.kill(pid, signal.SIGKILL)
    services.wait_for_new_workers(old)


def kill(stage: Stage) -> None:
    stage.services.load(60)
    kill_a_worker(stage.services)
    stage.services.load(40)


def reload(stage: Stage) -> None:
    services = stage.services
    old = services.workers()
    with services.under_load(120):
        os.kill(services.master, signal.SIGHUP)
        services.wait_for_new_workers(old)


def _stall(stage: Stage) -> None:
    services = stage.services
    services.load(40)
    old = services.workers()
    with services.in_flight("/faults/stall", 1):
        services.wait_for_new_workers(old)
    services.load(40)


def _end(stage: Stage) -> None:
    services = stage.services
    services.load(40)
    old = services.workers()
    services.ask("/faults/end")
    services.wait_for_new_workers(old)
    services.load(40)


def _fork(stage: Stage) -> None:
    stage.services.load(20)
    for _ in range(5):
        stage.services.ask("/faults/fork")
    stage.services.load(20)


def _work(stage: Stage) -> None:
    stage.services.load(20)
    for _ in range(5):
        stage.services.ask("/faults/work")
    stage.services.load(20)


def _command(stage: Stage) -> None:
    for _ in range(2):
        stage.services.command("seed")


PROCESS_ROWS = [
    Row("SIGTERM (gunicorn), requests in flight", at_the_end, stop_in_flight),
    Row("SIGTERM (uvicorn)", at_the_end, stop, server=UVICORN),
    Row("SIGTERM (gevent)", at_the_end, stop, server=_GEVENT),
    Row("SIGTERM (runserver)", at_the_end, stop, server=_RUNSERVER),
    Row("SIGTERM, receiver never answers", _hanging, stop),
    Row("SIGINT (gunicorn)", at_the_end, _interrupt),
    Row("SIGINT (uvicorn)", at_the_end, _interrupt, server=UVICORN),
    Row("SIGKILL of a worker, requests in flight", script=kill, killed=True),
    Row("reload under load (gunicorn)", at_the_end, reload),
    Row("max_requests 25", at_the_end, server=[*GUNICORN, "--max-requests", "25"]),
    Row("max_requests 25 (gevent)", at_the_end, server=[*_GEVENT, "--max-requests", "25"]),
    Row("worker time-out", script=_stall, killed=True, server=_SYNC),
    Row("--preload", at_the_end, stop, server=[*GUNICORN, "--preload"]),
    Row(
        "--preload (gevent)",
        at_the_end,
        stop,
        server=[*_GEVENT, "--preload", "--config", "python:tests.e2e.faults.gunicorn_patched"],
    ),
    Row("os._exit in a view", script=_end, killed=True),
    Row("os.fork in a view, the child ends by os._exit", script=_fork, killed=True),
    Row("multiprocessing in a view", at_the_end, _work),
    Row("end of a management command", at_the_end, _command),
    Row("end of a management command, receiver never answers", _hanging, _command),
]
