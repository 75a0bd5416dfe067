"""Run both services on real servers, send them requests, and check their traces.

The command ``demo`` runs this for people; the tests run the same flows with a receiver and real Jaegers.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django_tracing.traces.model import Span, Trace
from example_project import servers
from example_project.flows import FLOWS, TOKEN, Flow
from example_project.iac_generator import listen
from example_project.servers import free_port

__all__ = ["FLOWS", "TOKEN", "Demo", "Failed", "Flow", "lacking"]

ROOT = Path(__file__).parent.parent
#: How long to wait for an answer, in seconds. The demo waits for a slow machine: it is not about speed.
ANSWER_TIMEOUT = 120
#: How long to wait for a service to start, in seconds.
START_TIMEOUT = 300
#: How long services that were asked to stop may take, in seconds. Then they are killed: Ctrl-C ends within a second.
STOP_TIMEOUT = 0.7


class Failed(Exception):
    """The demo can't continue; the message has the reason."""


class Demo:
    """The servers and both services, started in ``stack`` and stopped with it.

    ``server`` is gunicorn or uvicorn, ``environment`` is added to this process's own for the services, and ``write``
    prints a line for people. ``admin_port`` is a free port by default.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        *,
        server: str,
        port: int,
        admin_port: int | None = None,
        environment: Mapping[str, str],
        write: Callable[[str], Any],
    ) -> None:
        self._stack = stack
        self._server = server
        self._write = write
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
        self.gateway = f"http://127.0.0.1:{port}"
        self._ports = {
            "api-gateway": port,
            "blueprint-service": free_port(),
            "admin": free_port() if admin_port is None else admin_port,
        }
        #: The address of the list of traces, once the admin is started.
        self.traces = f"http://127.0.0.1:{self._ports['admin']}/admin/django_tracing/trace/"
        self._servers: list[servers.Server] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(self._stop)
        self._environment = {
            **os.environ,
            "DEMO_TRACES_URL": self.traces,
            "DEMO_TRACE_URL": self.trace_address("TRACE_ID"),
            **environment,
        }

    def trace_address(self, trace_id: str) -> str:
        """Return the address of a trace's page in the admin."""
        return f"{self.traces}{trace_id}/"

    # ----- servers

    def start(self) -> None:
        self._write("Starting PostgreSQL and Redis ...")
        self._environment["DATABASE_URL"] = self._start_server(servers.postgres()) or (
            f"sqlite:///{self._folder / 'db.sqlite3'}"
        )
        self._environment["REDIS_URL"] = self._start_server(servers.redis())
        if self._environment["DATABASE_URL"].startswith("sqlite:"):
            self._write("The demo uses SQLite in place of PostgreSQL.")
        if not self._environment["REDIS_URL"]:
            self._write("The demo uses a cache in memory in place of Redis, and one worker for each service.")
        listener = self._stack.enter_context(listen(0))
        self._environment["IAC_GENERATOR_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._environment["BLUEPRINT_SERVICE_URL"] = f"http://127.0.0.1:{self._ports['blueprint-service']}"
        self._environment["PYTHONUNBUFFERED"] = "1"
        self._write("Creating the tables and the blueprints ...")
        for command in (["migrate", "--verbosity", "0"], ["seed"]):
            done = subprocess.run(
                [sys.executable, "manage.py", *command],
                # The admin has all tables of the services, and its own.
                env={**self._environment, "SERVICE_NAME": "admin", "OTEL_SDK_DISABLED": "true"},
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise Failed(f"manage.py {command[0]} failed:\n{done.stdout}{done.stderr}")
        for service in ("api-gateway", "blueprint-service"):
            port = self._ports[service]
            self._write(f"Starting {service} under {self._server} on http://127.0.0.1:{port} ...")
            self._start_service(service, port)
        for service in ("api-gateway", "blueprint-service"):
            self._wait_for(service)

    def _start_server(self, server: servers.Server) -> str:
        """Start ``server`` and return its address, or "" if it can't start."""
        self._servers.append(server)
        try:
            server.start()
        except servers.CannotStart as error:
            self._write(str(error))
            return ""
        return server.url

    def start_admin(self) -> str:
        """Start an admin that shows the traces; return the address of their list."""
        self._start_service("admin", self._ports["admin"])
        self._wait_for("admin")
        return self.traces

    def _start_service(self, service: str, port: int) -> None:
        if service == "admin":
            # For one user. It serves its stylesheets too.
            command = ["django", "runserver", f"127.0.0.1:{port}", "--noreload", "--insecure"]
        elif self._server == "gunicorn":
            command = ["gunicorn", "example_project.wsgi", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
            command += ["--config", "python:example_project.gunicorn_config"]
            # A cache in memory, and the state of a breaker in memory, belong to one process.
            workers = "2" if self._environment["REDIS_URL"] else "1"
            command += ["--workers", workers, "--threads", "4", "--log-level", "warning"]
            # gunicorn kills a worker that needs longer to load the project.
            command += ["--timeout", str(START_TIMEOUT)]
        else:
            command = ["uvicorn", "example_project.asgi:application", "--port", str(port), "--log-level", "warning"]
        with (self._folder / f"{service}.log").open("w") as log:
            self._processes[service] = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={
                    "DJANGO_SETTINGS_MODULE": "example_project.settings",
                    **self._environment,
                    "SERVICE_NAME": service,
                },
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to the demo, which then stops its services.
                start_new_session=True,
            )

    def _stop(self) -> None:
        """Stop everything at the same time: one after another takes as long as all of them together."""
        with ThreadPoolExecutor() as pool:
            for stopped in [pool.submit(server.stop) for server in self._servers] + [
                pool.submit(self._stop_services)
            ]:
                stopped.result()

    def _stop_services(self) -> None:
        for service, process in self._processes.items():
            # At SIGTERM, gunicorn waits until a browser closes its idle connections.
            quick = self._server == "gunicorn" and service != "admin"
            process.send_signal(signal.SIGINT if quick else signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _wait_for(self, service: str) -> None:
        self._wait(
            lambda: self._answers(self._processes[service], service, self._ports[service]), f"{service} to answer"
        )

    def _answers(self, process: subprocess.Popen[bytes], service: str, port: int) -> bool:
        if process.poll() is not None:
            raise Failed(f"{service} ended:\n{self._tail(service)}")
        try:
            return _ask(f"http://127.0.0.1:{port}/health")[0] == 200
        except OSError:
            return False

    def _wait(self, predicate: Callable[[], Any], what: str) -> None:
        started = time.monotonic()
        reported = 0
        while not predicate():
            seconds = time.monotonic() - started
            if seconds > START_TIMEOUT:
                raise Failed(f"Timed out after {seconds:.0f} s: waited for {what}.\n{self._tail('api-gateway')}")
            if seconds // 10 > reported:
                reported = int(seconds // 10)
                self._write(f"Still waiting for {what} ({seconds:.0f} s) ...")
            time.sleep(0.05)

    def _tail(self, service: str) -> str:
        path = self._folder / f"{service}.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def show_logs(self) -> None:
        for service in self._processes:
            self._write(f"----- the end of {service}'s log\n{self._tail(service)}")

    # ----- requests

    def load(self, count: int) -> None:
        paths = [
            "/api/blueprints",
            "/api/blueprints/7",
            "/api/blueprints/8",
            "/api/blueprints/export",
            "/api/reports",
        ]

        def ask(number: int) -> int:
            return _ask(self.gateway + paths[number % len(paths)], Authorization=f"Bearer {TOKEN}")[0]

        with ThreadPoolExecutor(8) as pool:
            try:
                statuses = list(pool.map(ask, range(count)))
            except OSError as error:
                raise Failed(f"A request failed: {error}\n{self._tail('api-gateway')}") from error
        bad = sorted({status for status in statuses if status != 200})
        if bad:
            raise Failed(f"Requests were answered with {bad}.\n{self._tail('api-gateway')}")
        self._write(f"Sent {count} requests, 8 at a time.")

    def send(self, flow: Flow) -> tuple[str, str | None]:
        """Send a flow's request; return its correlation id, and what is wrong with the response."""
        correlation = f"demo-{secrets.token_hex(8)}"
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Correlation-ID": correlation}
        try:
            status = _ask(self.gateway + flow.path, flow.method, **headers)[0]
        except OSError as error:
            return correlation, f"not answered: {error}"
        return correlation, None if status == flow.status else f"answered {status}, not {flow.status}"


def lacking(trace: Trace | None, flow: Flow) -> list[str]:
    """Return what is missing in a flow's trace; empty if it is complete."""
    if trace is None:
        return ["the trace did not arrive"]
    spans: dict[str, Span] = {span.span_id: span for span in trace.spans}
    missing = []
    for name, parent in flow.expected.items():
        named = [span for span in trace.spans if span.name == name]
        if not named:
            missing.append(f"no span {name}")
        elif parent and not any(span.parent_id in spans and spans[span.parent_id].name == parent for span in named):
            missing.append(f"{name} is not below {parent}")
    for name, attributes in flow.attributes.items():
        named = [span for span in trace.spans if span.name == name]
        if named and not any(attributes.items() <= span.attributes.items() for span in named):
            missing.append(f"{name} does not have {json.dumps(attributes)}")
    missing += [
        f"a span {name} that should not be there"
        for name in flow.absent
        if any(span.name == name for span in trace.spans)
    ]
    services = {span.service for span in trace.spans}
    missing += [f"nothing from {service}" for service in flow.services if service not in services]
    if len({span.attributes.get("correlation.id") for span in trace.spans}) != 1:
        missing.append("one correlation id on every span")
    return missing


def _ask(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers=headers, method=method, data=b"" if method == "POST" else None)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
