"""Run both services under load on real servers, and check their traces: ``python manage.py demo``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from django_tracing.conf.loading import load
from django_tracing.exceptions import ReadError
from django_tracing.traces.model import Trace
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite.store import LocalStore
from django_tracing.traces.text import render_trace
from example_project.demo import FLOWS, TOKEN, Demo, Failed, Flow, lacking
from example_project.servers import CannotStart, free_port

GATEWAY_PORT = 3000

Reader = LocalStore | JaegerReader


class Command(BaseCommand):
    help = (
        "Start PostgreSQL, Redis and both services, send them requests, and print the traces and PASS, or what "
        "is missing (exit code 1). On a terminal, the services then run until Ctrl-C."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--server", choices=["gunicorn", "uvicorn"], default="gunicorn")
        parser.add_argument(
            "--port", type=int, default=GATEWAY_PORT, help="the gateway's port (default: %(default)s)"
        )
        parser.add_argument(
            "--requests", type=int, default=60, help="The number of requests of load (default: %(default)s)."
        )
        parser.add_argument(
            "--wait",
            type=float,
            default=10,
            metavar="SECONDS",
            help="The time to wait for traces (default: %(default)s).",
        )
        parser.add_argument("--query-url", help="Jaeger's query API (default: JAEGER_ENDPOINT's host, port 16686)")
        parser.add_argument("--once", action="store_true", help="Stop the services at the end, also on a terminal.")

    def handle(
        self,
        *,
        server: str,
        port: int,
        requests: int,
        wait: float,
        query_url: str | None,
        once: bool,
        **options: Any,
    ) -> None:
        signal.signal(signal.SIGTERM, lambda *received: sys.exit(143))
        try:
            sources, environment = _sources(query_url)
            with contextlib.ExitStack() as stack:
                demo = Demo(
                    stack, server=server, port=self._free(port), environment=environment, write=self.stdout.write
                )
                demo.start()
                demo.load(requests)
                missing = self._flows(demo, sources, wait)
                if missing:
                    for line in missing:
                        self.stdout.write(self.style.ERROR(f"MISSING {line}"))
                    demo.show_logs()
                    sys.exit(1)
                self.stdout.write(self.style.SUCCESS(f"PASS: {len(FLOWS)} flows, every expected span is there."))
                if self.stdout.isatty() and not once:
                    self._serve(demo)
        except (Failed, CannotStart, ReadError) as error:
            self.stdout.write(self.style.ERROR(str(error)))
            sys.exit(1)
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")

    def _free(self, port: int) -> int:
        with socket.socket() as probe:
            # As servers bind: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                other = free_port()
                self.stdout.write(f"Port {port} is taken; the gateway listens on {other}.")
                return other
        return port

    def _flows(self, demo: Demo, sources: list[tuple[str, Reader]], wait: float) -> list[str]:
        """Send the flows and print their traces; return what is missing."""
        missing: list[str] = []
        sent = []
        for flow in FLOWS:
            correlation, wrong = demo.send(flow)
            if wrong:
                missing.append(f"{flow.title}: {wrong}")
            sent.append((flow, correlation))
        color = self.stdout.isatty() and "NO_COLOR" not in os.environ
        deadline = time.monotonic() + wait
        where = " and ".join(name for name, _ in sources)
        for flow, correlation in sent:
            trace = None
            for name, reader in sources:
                trace, lacks = _arrived(reader, correlation, flow, deadline)
                missing += [f"in {name}: {flow.title}: {lack}" for lack in lacks]
            if trace is not None:
                self.stdout.write(f"\n=== {flow.method} {flow.path}: {flow.title} (from {where})")
                self.stdout.write(render_trace(trace, color=color))
        return missing

    def _serve(self, demo: Demo) -> None:
        self.stdout.write(
            f"\nThe traces: {demo.start_admin()} (user demo, password demo)\n"
            f"Serving on {demo.gateway} until Ctrl-C. Try:\n"
            f"  curl -H 'Authorization: Bearer {TOKEN}' {demo.gateway}/api/blueprints/42\n"
            f"  {_python()} manage.py traces"
        )
        signal.pause()


def _python() -> str:
    """Return the command for this interpreter: the demo's environment may differ from the shell's."""
    here = os.path.relpath(sys.executable)
    return sys.executable if here.startswith("..") else here


def _sources(query_url: str | None) -> tuple[list[tuple[str, Reader]], dict[str, str]]:
    """Return the readers of traces, and the environment that the services need for them."""
    ours = {key: value for key, value in settings.TRACING.items() if key not in ("EXPORTER", "SERVICE_NAME")}
    # The store's path is read from the settings, so that `manage.py traces` shows the same traces afterwards.
    local = LocalStore(load({**ours, "EXPORTER": "local"}, {}).local_store)
    sources: list[tuple[str, Reader]] = [("the local store", local)]
    configured = load({**ours, **({"QUERY_URL": query_url} if query_url else {})}, os.environ)
    if configured.problems:
        raise Failed("\n".join(str(problem) for problem in configured.problems))
    if configured.endpoint is None or configured.query_url is None:
        return sources, {}
    sources.append(("Jaeger", JaegerReader(configured.query_url)))
    return sources, {
        "DEMO_EXPORTER": "example_project.exporters.JaegerAndLocalStore",
        "DEMO_QUERY_URL": configured.query_url,
    }


def _arrived(reader: Reader, correlation: str, flow: Flow, deadline: float) -> tuple[Trace | None, list[str]]:
    """Return the trace when it is complete or at ``deadline`` (monotonic seconds), and what it lacks."""
    while True:
        # Find it as in a support case.
        found = reader.search(service="api-gateway", attributes={"correlation.id": correlation})
        trace = reader.trace(found[0].trace_id) if found else None
        lacks = lacking(trace, flow)
        if not lacks or time.monotonic() > deadline:
            return trace, lacks
        time.sleep(0.1)
