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
from example_project.demo import Demo, Failed, lacking
from example_project.flows import FLOWS, TOKEN, Flow
from example_project.servers import CannotStart, free_port

GATEWAY_PORT = 3000
ADMIN_PORT = 3003

Reader = LocalStore | JaegerReader


class Command(BaseCommand):
    help = (
        "Start PostgreSQL, Redis and both services, send them requests, and print PASS, or what is missing in their "
        "traces (exit code 1). On a terminal, the services then run until Ctrl-C. With -v 2, print the traces."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--server", choices=["gunicorn", "uvicorn"], default="gunicorn")
        parser.add_argument(
            "--port", type=int, default=GATEWAY_PORT, help="the gateway's port (default: %(default)s)"
        )
        parser.add_argument(
            "--admin-port", type=int, default=ADMIN_PORT, help="the admin's port (default: %(default)s)"
        )
        parser.add_argument(
            "--requests", type=int, default=60, help="The number of requests of load (default: %(default)s)."
        )
        parser.add_argument(
            "--wait",
            type=float,
            default=60,
            metavar="SECONDS",
            help="The time to wait for traces that are not complete (default: %(default)s).",
        )
        parser.add_argument("--query-url", help="Jaeger's query API (default: JAEGER_ENDPOINT's host, port 16686)")
        end = parser.add_mutually_exclusive_group()
        end.add_argument("--once", action="store_true", help="Stop the services at the end, also on a terminal.")
        end.add_argument("--serve", action="store_true", help="Serve until a signal comes, also without a terminal.")

    def handle(
        self,
        *,
        server: str,
        port: int,
        requests: int,
        wait: float,
        query_url: str | None,
        admin_port: int,
        once: bool,
        serve: bool,
        verbosity: int,
        **options: Any,
    ) -> None:
        for ending in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, lambda number, frame: sys.exit(128 + number))
        # With "| tee", the terminal is the standard input.
        serves = serve or (not once and (sys.stdin.isatty() or self.stdout.isatty()))
        try:
            sources, environment = _sources(query_url)
            with contextlib.ExitStack() as stack:
                try:
                    demo = Demo(
                        stack,
                        server=server,
                        port=self._free(port, "gateway"),
                        admin_port=self._free(admin_port, "admin") if serves else None,
                        environment=environment,
                        write=self._write,
                    )
                    demo.start()
                    if serves:
                        self._write(f"Starting the admin on {demo.traces} ...")
                        demo.start_admin()
                    demo.load(requests)
                    missing = self._flows(demo, sources, wait, waterfalls=verbosity > 1, serves=serves)
                    if missing:
                        for line in missing:
                            self._write(self.style.ERROR(f"MISSING {line}"))
                        demo.show_logs()
                        sys.exit(1)
                    self._write(self.style.SUCCESS(f"PASS: {len(FLOWS)} flows, every expected span is there."))
                    if serves:
                        self._serve(demo)
                    elif not once:
                        self._write(
                            "The demo ends here: neither its input nor its output is a terminal, where Ctrl-C could "
                            'end it. To serve until a signal comes: make demo DEMO="--serve".'
                        )
                finally:
                    # A second Ctrl-C would leave services behind.
                    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                        signal.signal(ending, signal.SIG_IGN)
        except (Failed, CannotStart, ReadError) as error:
            self._write(self.style.ERROR(str(error)))
            sys.exit(1)
        except KeyboardInterrupt:
            self._write("Stopped.")

    def _write(self, line: str) -> None:
        """Print a line at once, also into a pipe. If the pipe's reader has ended (Ctrl-C ends tee, too), go on."""
        try:
            self.stdout.write(line)
            self.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _free(self, port: int, name: str) -> int:
        with socket.socket() as probe:
            # As servers bind: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                other = free_port()
                self._write(f"Port {port} is taken; the {name} listens on {other}.")
                return other
        return port

    def _flows(
        self, demo: Demo, sources: list[tuple[str, Reader]], wait: float, *, waterfalls: bool, serves: bool
    ) -> list[str]:
        """Send the flows and print where their traces are seen; return what is missing."""
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
        self._write(f"The traces of the flows (from {where}):")
        for flow, correlation in sent:
            trace = None
            for name, reader in sources:
                trace, lacks = _arrived(reader, correlation, flow, deadline)
                missing += [f"in {name}: {flow.title}: {lack}" for lack in lacks]
            if trace is None:
                continue
            seen = demo.trace_address(trace.trace_id) if serves else f"{_python()} manage.py traces {trace.trace_id}"
            self._write(f"\n{flow.method} {flow.path}: {flow.title}\n  {seen}")
            if waterfalls:
                self._write(render_trace(trace, color=color))
        self._write("")
        return missing

    def _serve(self, demo: Demo) -> None:
        self._write(
            f"\nOpen {demo.gateway}/ : a button for each of these requests, and the link to its trace.\n"
            f"The traces: {demo.traces} (user demo, password demo)\n"
            f"In a terminal:\n"
            f"  curl -H 'Authorization: Bearer {TOKEN}' {demo.gateway}/api/blueprints/42\n"
            f"  {_python()} manage.py traces\n"
            f"Serving until Ctrl-C."
        )
        while True:
            # Not signal.pause(), which waits for the next signal if one came just before it.
            time.sleep(0.5)


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
