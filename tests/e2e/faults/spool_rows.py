"""List faults of a receiver and a process together, with a spool that outlives both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_tracing.export.spool import Spool
from tests.e2e.faults.process_rows import kill_a_worker
from tests.e2e.faults.rows import Row, Stage

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
    # A process sends from the spool once it has made a span itself.
    stage.services.load(10)


SPOOL_ROWS = [
    Row("nothing listens, SPOOL, SIGTERM and a new start", _spool, _stop, lift=_up_and_start),
    Row("nothing listens, SPOOL, SIGKILL of a worker", _spool, _kill, lift=_up, killed=True),
]
