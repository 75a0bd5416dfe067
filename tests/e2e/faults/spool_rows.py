"""List faults of a receiver and a process together, with a spool that outlives both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_tracing.export.spool import Spool
from tests.e2e.faults.process_rows import kill_a_worker
from tests.e2e.faults.rows import GUNICORN, Row, Stage
from tests.export.test_receiver_faults import status

__all__ = ["SPOOL_ROWS"]

_MAX_BYTES = 64 * 1024 * 1024


def _spool(stage: Stage) -> Mapping[str, Any]:
    folder = stage.folder / "spool"
    folder.mkdir()
    stage.stored = lambda: sum(Spool(each, _MAX_BYTES).contents().spans for each in folder.iterdir())
    stage.receiver.down()
    # A folder for each service.
    spool = {"PATH": str(folder / "{service}"), "MAX_BYTES": _MAX_BYTES}
    return {"ENDPOINT": stage.receiver.endpoint, "SPOOL": spool}


def _stop(stage: Stage) -> None:
    stage.services.load(60)
    stage.services.stop()


def _kill(stage: Stage) -> None:
    stage.services.load(60)
    kill_a_worker(stage.services)
    stage.services.load(40)


def _up(stage: Stage) -> None:
    stage.receiver.up()


def _up_and_start(stage: Stage) -> None:
    _up(stage)
    stage.services.start()


def _up_and_work(stage: Stage) -> None:
    _up_and_start(stage)
    stage.services.load(10)


def _refuses(stage: Stage) -> Mapping[str, Any]:
    tracing = _spool(stage)
    stage.receiver.up()
    stage.receiver.fault = status(503)
    return {**tracing, "RETRY_FOR": 1}


def _accepts(stage: Stage) -> None:
    stage.receiver.fault = None


def _waits_on_disk(stage: Stage) -> list[str]:
    """The log says once a process that nothing is dropped."""
    log = stage.services.log()
    wrong = [line for line in log.splitlines() if "are dropped" in line]
    return wrong or ([] if "Spans can't be sent" in log else ["The log does not say that spans wait."])


SPOOL_ROWS = [
    Row("nothing listens, SPOOL, SIGTERM and a new start", _spool, _stop, lift=_up_and_work),
    Row("nothing listens, SPOOL, SIGTERM and a new start without work", _spool, _stop, lift=_up_and_start),
    Row(
        "nothing listens, SPOOL, a new start without work (--preload)",
        _spool,
        _stop,
        lift=_up_and_start,
        server=[*GUNICORN, "--preload"],
    ),
    Row("503 for longer than RETRY_FOR, SPOOL", _refuses, lift=_accepts, check=_waits_on_disk),
    Row("nothing listens, SPOOL, SIGKILL of a worker", _spool, _kill, lift=_up, killed=True),
]
