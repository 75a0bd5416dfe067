"""Run the sites of the soak: each is the two services of the example project, with its way of the spans, under load."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django_tracing.export.spool import Spool
from tests.e2e.faults.accounts import Account, account
from tests.e2e.faults.rows import GUNICORN, UVICORN
from tests.e2e.faults.services import Databases, Services
from tests.e2e.soak.load import Load
from tests.e2e.soak.receiver import Receiver
from tests.e2e.soak.samples import Process, Sample, sample
from tests.traces.readers.sqlite.helpers import span_ids

__all__ = ["SITES", "LocalSite", "OTLPSite", "Site", "SpoolSite"]

#: Small ones, which are full during an outage: what waits is not to be mistaken for what grows.
_QUEUE = {"EXPORT_TIMEOUT": 3.0, "QUEUE_BYTES": 1024 * 1024}


#: Threads come and go with requests, and glibc has free memory of its own for each of up to 16 threads. How much that
#: is in the end depends on chance, and would hide what grows.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}


class Site:
    """Both services on one server. ``settings`` returns those of TRACING."""

    name = ""
    command: list[str]

    def __init__(self, stack: ExitStack, databases: Databases, rate: float) -> None:
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        settings = {**_QUEUE, **self.settings(stack)}
        self.services = stack.enter_context(
            Services(
                *(self.folder, databases, settings, self.command),
                settings="tests.e2e.soak.settings",
                environment=_ENVIRONMENT,
            )
        )
        self.load = Load(self.services.ports["api-gateway"], rate)
        self._samples: dict[int, list[Sample]] = {}
        self._names = self._list_processes()
        #: The first worker of the gateway, which is not ended.
        self._kept = set(sorted(self.services.workers())[:1])
        self._rounds = 0
        #: The largest sizes on disk in bytes, by name, with their limits.
        self.disk: dict[str, tuple[int, int]] = {}

    def settings(self, stack: ExitStack) -> Mapping[str, Any]:
        raise NotImplementedError

    def _list_processes(self) -> dict[int, str]:
        """Return the processes that are measured. Only those that live for the whole run are judged."""
        found = {}
        for service, pid in self.services.masters.items():
            workers = sorted(self.services.workers(service))
            found[pid] = f"{service}, master" if workers else service
            for number, worker in enumerate(workers, 1):
                found[worker] = f"{service}, worker {number}"
        return found

    def measure(self) -> dict[str, Sample]:
        """Measure the processes and the sizes on disk, and return what the processes use, by their names."""
        self._rounds += 1
        measured = {}
        for pid, process in self._names.items():
            found = sample(pid)
            if found is not None:
                self._samples.setdefault(pid, []).append(found)
                measured[process] = found
        for name, (size, limit) in self.sizes().items():
            self.disk[name] = max(size, self.disk.get(name, (0, 0))[0]), limit
        return measured

    def processes(self) -> list[Process]:
        """Return the processes that lived through all measurements."""
        return [
            Process(self._names[pid], samples)
            for pid, samples in self._samples.items()
            if len(samples) == self._rounds
        ]

    def fail(self) -> None:
        """Let each process answer some errors: with the first one, Django imports what shows errors."""
        for port in self.services.ports.values():
            for number in range(30):
                with contextlib.suppress(OSError, urllib.error.HTTPError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/soak/error/first{number}", timeout=20).close()

    def forget(self) -> None:
        """Measure anew: the warm-up is over."""
        self._samples.clear()
        self._rounds = 0

    def watch(self) -> None:
        """Look at what would be gone later."""

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return sizes on disk in bytes and their limits."""
        return {}

    def fault(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Return the fault of this site's backend with ``name``; it may have none."""
        return contextlib.nullcontext()

    def end_a_worker(self) -> None:
        """End a worker of the gateway, as a limit of its requests does, but not the one that is measured."""
        # Not the one with the highest number: numbers begin anew when they are used up.
        others = self.services.workers() - self._kept
        if self._kept and others:
            os.kill(others.pop(), signal.SIGTERM)

    def account(self) -> Account:
        # The disk first: what leaves it afterwards is counted twice, and then waited for, rather than missing.
        stored = self.stored()
        return account(self.folder, self.arrived(), stored=stored)

    def arrived(self) -> set[str]:
        raise NotImplementedError

    def stored(self) -> int:
        return 0


class OTLPSite(Site):
    name = "uvicorn, OTLP"
    command = UVICORN

    def settings(self, stack: ExitStack) -> Mapping[str, Any]:
        self.receiver = stack.enter_context(Receiver())
        # Half of the traces wait for the end of their request to be decided.
        return {"ENDPOINT": self.receiver.endpoint, "SAMPLE_RATE": 0.5, "KEEP_ERRORS": True}

    def arrived(self) -> set[str]:
        return {f"{span_id:016x}" for span_id in self.receiver.span_ids.copy()}

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        if name == "down":
            self.receiver.down()
            yield
            self.receiver.up()
        elif name == "locked":
            yield
        else:
            with self.receiver.failing(name):
                yield


class SpoolSite(OTLPSite):
    name = "gunicorn, OTLP and SPOOL"
    command = [*GUNICORN, "--workers", "2"]
    _limit = 4 * 1024 * 1024

    def settings(self, stack: ExitStack) -> Mapping[str, Any]:
        self.receiver = stack.enter_context(Receiver())
        folder = self.folder / "spool"
        folder.mkdir()
        spool = {"PATH": str(folder / "{service}"), "MAX_BYTES": self._limit}
        return {"ENDPOINT": self.receiver.endpoint, "SPOOL": spool, "RETRY_FOR": 2}

    def _spools(self) -> list[Spool]:
        return [Spool(folder, self._limit) for folder in (self.folder / "spool").iterdir()]

    def stored(self) -> int:
        return sum(spool.contents().spans for spool in self._spools())

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {"spool": (max((spool.contents().bytes for spool in self._spools()), default=0), self._limit)}


class LocalSite(Site):
    name = "uvicorn, local store"
    command = UVICORN
    _limit = 8 * 1024 * 1024

    def settings(self, stack: ExitStack) -> Mapping[str, Any]:
        self._path = self.folder / "store" / "traces.sqlite3"
        self._path.parent.mkdir()
        self._seen: set[str] = set()
        self._last = 0
        return {
            "EXPORTER": "local",
            "LOCAL_STORE": str(self._path),
            "MAX_TRACES": 500,
            "MAX_STORE_BYTES": self._limit,
        }

    def watch(self) -> None:
        # The store deletes its oldest traces. What can't be read now is read the next time.
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=1)) as connection,
        ):
            found, self._last = span_ids(connection, self._last)
            self._seen |= found

    def sizes(self) -> dict[str, tuple[int, int]]:
        files = self._path.parent.glob(f"{self._path.name}*")
        # The log is not part of the limit, and SQLite begins it anew at 1,000 pages.
        return {"store": (sum(path.stat().st_size for path in files), self._limit + 5 * 1024 * 1024)}

    def arrived(self) -> set[str]:
        self.watch()
        return self._seen

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        if name != "locked":
            yield
            return
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.rollback()


SITES: tuple[type[Site], ...] = (SpoolSite, OTLPSite, LocalSite)
