"""List what can happen to a worker of Celery, and to its processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.e2e.faults.process_rows import at_the_end
from tests.e2e.faults.rows import Row, Stage
from tests.jaegers import wait_until

__all__ = ["CELERY_ROWS"]

_CELERY = [
    *("celery", "-A", "tests.e2e.faults.celery_app", "worker", "--loglevel", "INFO", "--without-mingle"),
    *("--without-gossip", "--without-heartbeat"),
]
PREFORK = [*_CELERY, "--pool", "prefork", "--concurrency", "2"]


def _tasks(stage: Stage) -> None:
    stage.services.load(10)
    stage.services.tasks(12)


def _stop(stage: Stage) -> None:
    _tasks(stage)
    stage.services.stop()


def _kill_a_child(stage: Stage) -> None:
    """Kill a process of the worker in the middle of a task: Celery starts another one."""
    services = stage.services
    _tasks(stage)
    old = services.workers("worker")
    started = stage.folder / "started"
    started.write_text("")
    services.ask("/faults/stall-task")
    wait_until(started.read_text, "the task", 60)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(services.workers("worker") - old) >= len(old), "new processes", 60)
    services.tasks(8)


def _row(name: str, worker: list[str], script: Callable[[Stage], None] = _stop) -> Row:
    return Row(f"{name} (Celery)", at_the_end, script, worker=worker)


CELERY_ROWS = [
    _row("SIGTERM, prefork", PREFORK),
    _row("SIGTERM, threads", [*_CELERY, "--pool", "threads", "--concurrency", "2"]),
    _row("SIGTERM, solo", [*_CELERY, "--pool", "solo"]),
    _row("SIGTERM, --max-tasks-per-child 1", [*PREFORK, "--max-tasks-per-child", "1"]),
    Row("SIGKILL of the processes, a task in flight (Celery)", script=_kill_a_child, killed=True, worker=PREFORK),
]
