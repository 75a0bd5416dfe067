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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_tracing.traces.model import Span, Trace
from example_project import servers
from example_project.iac_generator import listen
from example_project.servers import free_port

__all__ = ["FLOWS", "TOKEN", "Demo", "Failed", "Flow", "lacking"]

ROOT = Path(__file__).parent.parent
#: The API token of the demo's customer.
TOKEN = "demo-token-of-grace"


@dataclass(frozen=True)
class Flow:
    """One request to the gateway, and the spans that its trace must have.

    ``expected`` maps a span's name to the name of its parent ("" if any is right); ``attributes`` maps a name to
    attributes that one span of that name must have; ``absent`` names spans that must not exist.
    """

    title: str
    method: str
    path: str
    status: int
    expected: dict[str, str]
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    services: tuple[str, ...] = ("api-gateway",)


FLOWS = (
    Flow(
        "a list: authentication, rate limit, SQL",
        "GET",
        "/api/blueprints",
        200,
        {
            "GET /api/blueprints": "",
            "middleware.auth": "GET /api/blueprints",
            "db.select.customers": "middleware.auth",
            "middleware.rate_limit": "GET /api/blueprints",
            "cache.incr.rate:*:*": "middleware.rate_limit",
            "view.blueprint_list": "GET /api/blueprints",
            "db.select.blueprints": "view.blueprint_list",
        },
        {
            "GET /api/blueprints": {
                "user.subscription": "pro",
                "user.email": "g***@example.com",
                "http.status_code": 200,
            }
        },
    ),
    Flow(
        "an N+1: a query for a list, one more for each of its rows, and the line that makes them",
        "GET",
        "/api/blueprints/owners",
        200,
        {"db.select.blueprints": "view.blueprint_owners", "db.select.customers": "view.blueprint_owners"},
    ),
    Flow(
        "one blueprint: cache miss, SQL, cache set",
        "GET",
        "/api/blueprints/123",
        200,
        {
            "GET /api/blueprints/<int:blueprint_id>": "",
            "cache.get.blueprint:*": "view.blueprint_detail",
            "db.select.blueprints": "view.blueprint_detail",
            "cache.set.blueprint:*": "view.blueprint_detail",
        },
        {"cache.get.blueprint:*": {"cache.hit": False}},
    ),
    Flow(
        "the same again: a cache hit",
        "GET",
        "/api/blueprints/123",
        200,
        {"cache.get.blueprint:*": "view.blueprint_detail"},
        {"cache.get.blueprint:*": {"cache.hit": True}},
        absent=("db.select.blueprints",),
    ),
    Flow(
        "a validation: through a breaker to the other service, one trace",
        "POST",
        "/api/blueprints/123/validate",
        200,
        {
            "POST /api/blueprints/<int:blueprint_id>/validate": "",
            "circuit_breaker.blueprint-service": "view.blueprint_validate",
            "http.post.blueprint-service": "circuit_breaker.blueprint-service",
            "POST /internal/validate": "http.post.blueprint-service",
            "db.select.blueprints": "view.internal_validate",
        },
        {"circuit_breaker.blueprint-service": {"circuit_breaker.outcome": "success"}},
        services=("api-gateway", "blueprint-service"),
    ),
    Flow(
        "a slow generator: a time-out in a breaker, a fallback",
        "POST",
        "/api/iac/generate",
        200,
        {
            "circuit_breaker.iac-generator": "view.iac_generate",
            "http.post.iac-generator": "circuit_breaker.iac-generator",
            "fallback.cached_template": "circuit_breaker.iac-generator",
        },
        {
            "circuit_breaker.iac-generator": {
                "circuit_breaker.state": "closed",
                "circuit_breaker.outcome": "failure",
                "circuit_breaker.fallback": "cached_template",
            }
        },
    ),
    Flow(
        "and once more: the breaker opens",
        "POST",
        "/api/iac/generate",
        200,
        {"circuit_breaker.iac-generator": "", "http.post.iac-generator": "", "fallback.cached_template": ""},
        {
            "circuit_breaker.iac-generator": {
                "circuit_breaker.outcome": "failure",
                "circuit_breaker.state_after": "open",
            }
        },
    ),
    Flow(
        "and again: rejected by the open breaker, the fallback answers",
        "POST",
        "/api/iac/generate",
        200,
        {"circuit_breaker.iac-generator": "", "fallback.cached_template": "circuit_breaker.iac-generator"},
        {"circuit_breaker.iac-generator": {"circuit_breaker.outcome": "rejected"}},
        absent=("http.post.iac-generator",),
    ),
    Flow(
        "an error page",
        "GET",
        "/api/boom",
        500,
        {"GET /api/boom": "", "view.boom": "GET /api/boom"},
        {"GET /api/boom": {"http.status_code": 500, "error.type": "RuntimeError"}},
    ),
    Flow(
        "a streaming response: the span lasts as long as the body",
        "GET",
        "/api/blueprints/export",
        200,
        {"GET /api/blueprints/export": "", "db.select.blueprints": "GET /api/blueprints/export"},
    ),
    Flow(
        "an async view: async cache, async SQL, httpx",
        "GET",
        "/api/reports",
        200,
        {
            "GET /api/reports": "",
            "cache.get.report:seen": "view.report",
            "db.select.blueprints": "",
            "http.get.blueprint-service": "view.report",
            "GET /internal/statistics": "http.get.blueprint-service",
        },
        services=("api-gateway", "blueprint-service"),
    ),
)


class Failed(Exception):
    """The demo can't continue; the message has the reason."""


class Demo:
    """The servers and both services, started in ``stack`` and stopped with it.

    ``server`` is gunicorn or uvicorn, ``environment`` is added to this process's own for the services, and ``write``
    prints a line for people.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        *,
        server: str,
        port: int,
        environment: Mapping[str, str],
        write: Callable[[str], Any],
    ) -> None:
        self._stack = stack
        self._server = server
        self._write = write
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
        self.gateway = f"http://127.0.0.1:{port}"
        self._ports = {"api-gateway": port, "blueprint-service": free_port()}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**os.environ, **environment}

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
        for service, port in self._ports.items():
            self._write(f"Starting {service} under {self._server} on http://127.0.0.1:{port} ...")
            self._stack.enter_context(self._service(service, port))
        for service in self._ports:
            self._wait_for(service)

    def _start_server(self, server: servers.Server) -> str:
        """Start ``server`` and return its address, or "" if it can't start."""
        self._stack.callback(server.stop)
        try:
            server.start()
        except servers.CannotStart as error:
            self._write(str(error))
            return ""
        return server.url

    def start_admin(self) -> str:
        """Start an admin that shows the traces; return the address of their list."""
        port = self._ports["admin"] = free_port()
        self._stack.enter_context(self._service("admin", port))
        self._wait_for("admin")
        return f"http://127.0.0.1:{port}/admin/django_tracing/trace/"

    @contextlib.contextmanager
    def _service(self, service: str, port: int) -> Iterator[None]:
        if service == "admin":
            # For one user. It serves its stylesheets too.
            command = ["django", "runserver", f"127.0.0.1:{port}", "--noreload", "--insecure"]
        elif self._server == "gunicorn":
            command = ["gunicorn", "example_project.wsgi", "--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"]
            command += ["--config", "python:example_project.gunicorn_config"]
            # A cache in memory, and the state of a breaker in memory, belong to one process.
            workers = "2" if self._environment["REDIS_URL"] else "1"
            command += ["--workers", workers, "--threads", "4", "--log-level", "warning"]
        else:
            command = ["uvicorn", "example_project.asgi:application", "--port", str(port), "--log-level", "warning"]
        with (self._folder / f"{service}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={
                    "DJANGO_SETTINGS_MODULE": "example_project.settings",
                    **self._environment,
                    "SERVICE_NAME": service,
                },
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to the demo, which then stops its services in order.
                start_new_session=True,
            )
            self._processes[service] = process
            try:
                yield
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(10)

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

    def _wait(self, predicate: Callable[[], Any], what: str, seconds: float = 40) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            result = predicate()
            if result:
                return result
            if time.monotonic() > deadline:
                raise Failed(f"Timed out after {seconds:g} s: waited for {what}.\n{self._tail('api-gateway')}")
            time.sleep(0.05)

    def _tail(self, service: str) -> str:
        path = self._folder / f"{service}.log"
        return path.read_text()[-3000:] if path.exists() else ""

    def show_logs(self) -> None:
        for service in self._ports:
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
            statuses = list(pool.map(ask, range(count)))
        bad = sorted({status for status in statuses if status != 200})
        if bad:
            raise Failed(f"Requests were answered with {bad}.\n{self._tail('api-gateway')}")
        self._write(f"Sent {count} requests, 8 at a time.")

    def send(self, flow: Flow) -> tuple[str, str | None]:
        """Send a flow's request; return its correlation id, and what is wrong with the response."""
        correlation = f"demo-{secrets.token_hex(8)}"
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Correlation-ID": correlation}
        status = _ask(self.gateway + flow.path, flow.method, **headers)[0]
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
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
