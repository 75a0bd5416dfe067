"""Write what happens to the spans of a service into a file, as it happens, for whoever counts them after its end.

It is installed as an app of the service. The file outlives a process that is killed: each line is written by one
system call. ``made`` is counted from the SDK's own call of ``on_end``, independently of the queue and the exporter.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult

from django_tracing import provider
from django_tracing.export.counters import Counters
from django_tracing.export.local import LocalBatch, LocalExporter
from django_tracing.recording import undecided
from django_tracing.traces.readers.sqlite import room, store, writing

__all__ = ["Witness", "WitnessConfig"]


class WitnessConfig(AppConfig):
    name = "tests.e2e.faults.witness"
    label = "faults_witness"

    def ready(self) -> None:
        folder = Path(os.environ["FAULTS_FOLDER"])
        witness = Witness(folder, os.environ["SERVICE_NAME"])
        trace.get_tracer_provider().add_span_processor(witness)  # type: ignore[attr-defined]
        # The SDK's own spans of a trace that was kept after they had ended.
        undecided.late.append(witness.on_end)
        witness.watch_counters()
        witness.watch_store()
        _resolve(folder / "hosts.json")


class Witness(SpanProcessor):
    """Write a line for each ended span, each count and each change of the number that wait.

    ``S id waiting`` is a span that ended and how many wait then, ``D reason count`` are spans that were dropped, and
    ``Q waiting`` is how many wait now. Of the local store, ``L id trace time`` is a span that was stored after
    ``time``, and ``G trace time`` is a trace that the store deletes, or is about to.
    """

    def __init__(self, folder: Path, service: str) -> None:
        self._folder = folder
        self._service = service
        self._pid = 0
        self._file = -1
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._write(f"S {span.context.span_id:016x} {self._waiting()}")

    def shutdown(self) -> None:
        # After the queue's own: nothing waits in a process that comes to its orderly end.
        self._write("Q 0")

    def watch_counters(self) -> None:
        """Write down what is dropped. Each process, also a forked one, has counters of its own."""
        original = Counters.drop

        @functools.wraps(original)
        def drop(counters: Counters, reason: Any, count: int = 1) -> None:
            original(counters, reason, count)
            self._write(f"D {reason} {count}")

        Counters.drop = drop  # type: ignore[method-assign]

    def watch_store(self) -> None:
        """Write down what the local store takes, and what it deletes: nobody reads it often enough to see all of it."""
        export = LocalExporter.export_batch

        @functools.wraps(export)
        def exporting(exporter: LocalExporter, batch: LocalBatch) -> SpanExportResult:
            began = time.monotonic_ns()
            result = export(exporter, batch)
            facts = [each for section in batch.sections() for each in section.facts]
            self._write(*(f"L {each.span_id:016x} {each.trace_id:032x} {began}" for each in facts))
            return result

        LocalExporter.export_batch = exporting  # type: ignore[method-assign]
        delete = writing.delete_before

        @functools.wraps(delete)
        def deleting(connection: sqlite3.Connection, seq: int) -> None:
            self._write_traces(connection, seq)
            delete(connection, seq)

        writing.delete_before = room.delete_before = deleting
        # The store's own reference to the function.
        its_module: Any = store
        load = its_module.load_newest

        @functools.wraps(load)
        def loading(connection: sqlite3.Connection) -> Any:
            # The file is created again, with as many of these as it has space for.
            self._write_traces(connection, sys.maxsize)
            return load(connection)

        its_module.load_newest = loading

    def _write_traces(self, connection: sqlite3.Connection, before: int) -> None:
        found = connection.execute("SELECT trace_id FROM traces WHERE seq < ?", (before,)).fetchall()
        now = time.monotonic_ns()
        self._write(*(f"G {trace_id} {now}" for (trace_id,) in found))

    @staticmethod
    def _waiting() -> int:
        queue = provider.queue()
        return 0 if queue is None else queue.queued

    def _write(self, *lines: str) -> None:
        if self._pid != os.getpid():
            self._open()
        os.write(self._file, "".join(f"{line}\n" for line in lines).encode())

    def _open(self) -> None:
        """Start a file, and a thread that writes how many spans wait: once a process, also in a forked one."""
        pid = os.getpid()
        name = self._folder / f"{self._service}.{pid}.spans"
        self._file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._pid = pid
        threading.Thread(target=self._watch, args=(pid,), daemon=True).start()

    def _watch(self, pid: int) -> None:
        before = -1
        while os.getpid() == pid:
            waiting = self._waiting()
            if waiting != before:
                before = waiting
                self._write(f"Q {waiting}")
            time.sleep(0.05)


def _resolve(answers: Path) -> None:
    """Let the file ``answers`` answer for names of hosts, as a name server whose answers change."""
    if not answers.exists():
        return
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        hosts = json.loads(answers.read_text()).get(host)
        if hosts is None:
            return real(host, *args, **options)
        if not hosts:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [found for each in hosts for found in real(each, *args, **options)]

    socket.getaddrinfo = getaddrinfo
