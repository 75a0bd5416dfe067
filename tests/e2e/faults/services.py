"""Run both services of the example project for one row, and send them requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from example_project import servers
from example_project.flows import TOKEN
from tests.jaegers import wait_until

__all__ = ["KINDS", "Answer", "Databases", "Services", "children", "program"]

ROOT = Path(__file__).parent.parent.parent.parent
#: How long a client waits, in seconds. A request that tracing holds for longer has failed.
PATIENCE = 20
#: The requests of the load, again and again: each has the same answer whenever it is sent. With their statuses.
KINDS: dict[tuple[str, str], int] = {
    ("GET", "/api/blueprints"): 200,
    ("GET", "/api/blueprints/7"): 200,
    ("GET", "/api/blueprints/owners"): 200,
    ("POST", "/api/blueprints/123/validate"): 200,
    ("GET", "/api/blueprints/export"): 200,
    ("GET", "/api/reports"): 200,
    ("GET", "/api/blueprints/99999"): 404,
    ("GET", "/api/boom"): 500,
    ("GET", "/nothing-here"): 404,
    ("POST", "/api/blueprints"): 200,
}
#: What tracing adds on purpose, and what differs between any two answers: a worker that is about to end closes its
#: connections.
_OWN_HEADERS = {"x-correlation-id", "server-timing", "traceresponse", "date", "connection"}
#: All other commands are modules.
_PROGRAMS = {"uwsgi", "mod_wsgi-express"}
_FILL = """
import django
from django.core.management import call_command
django.setup()
call_command("migrate", verbosity=0)
call_command("seed")
"""


@dataclass(frozen=True)
class Answer:
    """What a client got: ``status`` is 0 where the connection ended without a whole answer."""

    kind: tuple[str, str]
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Databases:
    """PostgreSQL and Redis with the example's data, for all rows: new ones, unless they are given."""

    def __init__(self, postgres: servers.Server | None = None, redis: servers.Server | None = None) -> None:
        self.postgres = postgres or servers.postgres()
        self.redis = redis or servers.redis()

    def __enter__(self) -> Databases:
        self.postgres.start()
        self.redis.start()
        subprocess.run(
            [sys.executable, "-c", _FILL],
            env={
                **os.environ,
                **self.environment,
                "SERVICE_NAME": "admin",
                "OTEL_SDK_DISABLED": "true",
                "DJANGO_SETTINGS_MODULE": "example_project.settings",
            },
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        return self

    def end_postgres(self) -> None:
        """End PostgreSQL at once, as if it had crashed."""
        self.postgres._end_at_once()  # type: ignore[attr-defined]

    def start_postgres_again(self) -> None:
        self.postgres._server.ensure_postgres_running()  # type: ignore[attr-defined]

    @property
    def environment(self) -> dict[str, str]:
        return {"DATABASE_URL": self.postgres.url, "REDIS_URL": self.redis.url}

    def __exit__(self, *exc_info: Any) -> None:
        self.redis.stop()
        self.postgres.stop()


class Services:
    """Both services, on a real server, and a worker of tasks if ``worker`` is its command.

    ``tracing`` is None for the untraced run. ``folder`` receives their logs and what their processes count. ``rules``
    is the address of a database of its own for the sampling rules, and ``postgres`` another address of PostgreSQL.
    """

    def __init__(
        self,
        folder: Path,
        databases: Databases,
        tracing: Mapping[str, Any] | None,
        command: list[str],
        *,
        worker: list[str] | None = None,
        hosts: Mapping[str, list[str]] | None = None,
        rules: str | None = None,
        settings: str = "tests.e2e.faults.settings",
        environment: Mapping[str, str] | None = None,
        postgres: str | None = None,
    ) -> None:
        self.folder = folder
        self.databases = databases
        self.traced = tracing is not None
        self.answers: list[Answer] = []
        self._command = command
        self._worker = worker or []
        #: Processes that did not end by themselves.
        self._hung: list[str] = []
        # All greenlets of a thread see the event loop of an async view in one of them: Django refuses their SQL then.
        self._kinds = [kind for kind in KINDS if kind[1] != "/api/reports" or "gevent" not in command]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {"api-gateway": servers.free_port(), "blueprint-service": servers.free_port()}
        if hosts is not None:
            self.resolve(hosts)
        names = ("OTEL_", "JAEGER_", "SERVICE_", "ENVIRONMENT", "TRACING_", "DEMO_", "COVERAGE_")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(names)},
            **databases.environment,
            **({} if postgres is None else {"DATABASE_URL": postgres}),
            "DJANGO_SETTINGS_MODULE": settings,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "BLUEPRINT_SERVICE_URL": f"http://127.0.0.1:{self._ports['blueprint-service']}",
            "FAULTS_FOLDER": str(folder),
            **(environment or {}),
            **({"FAULTS_UNTRACED": "1"} if tracing is None else {"FAULTS_TRACING": json.dumps(tracing)}),
            **({} if rules is None else {"FAULTS_RULES": rules}),
        }

    def resolve(self, hosts: Mapping[str, list[str]]) -> None:
        """Let names of hosts have these addresses from now on; none: they can't be resolved."""
        new = self.folder / "hosts.new"
        new.write_text(json.dumps(hosts))
        new.replace(self.folder / "hosts.json")

    def __enter__(self) -> Services:
        self.start()
        return self

    def start(self) -> None:
        for service, port in self._ports.items():
            self._start(service, [part.replace("{port}", str(port)) for part in self._command])
        if self._worker:
            self._start("worker", self._worker)
            wait_until(lambda: "ready." in (self.folder / "worker.log").read_text(), f"the worker: {self.log()}", 120)
        for service in self._ports:
            wait_until(lambda service=service: self._is_up(service), f"{service}: {self.log()}", 120)  # type: ignore[misc]

    def _start(self, service: str, command: list[str]) -> None:
        found = program(command)
        assert found is not None, command
        with (self.folder / f"{service}.log").open("ab") as log:
            self._processes[service] = subprocess.Popen(
                found,
                env={**self._environment, "SERVICE_NAME": service},
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _is_up(self, service: str) -> bool:
        assert self._processes[service].poll() is None, self.log()
        return self._ask(("GET", "/health"), self._ports[service]).status == 200

    def log(self) -> str:
        return "".join(path.read_text()[-3000:] for path in self.folder.glob("*.log"))

    # ----- requests

    def _ask(self, kind: tuple[str, str], port: int | None = None, patience: float = PATIENCE) -> Answer:
        method, path = kind
        connection = http.client.HTTPConnection("127.0.0.1", port or self._ports["api-gateway"], timeout=patience)
        try:
            connection.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return Answer(kind, 0)
        finally:
            connection.close()
        headers = sorted((name.lower(), value) for name, value in response.getheaders())
        if path == "/api/reports":
            # How often it was called before.
            body = re.sub(rb'"seen": \d+', b'"seen": N', body)
            headers = [(name, value) for name, value in headers if name != "content-length"]
        kept = tuple((name, value) for name, value in headers if name not in _OWN_HEADERS)
        return Answer(kind, response.status, kept, body)

    def load(self, count: int, *, pace: float = 0.0) -> None:
        """Send ``count`` requests of all kinds, 4 at a time; with ``pace``, one in so many seconds.

        Without tracing, a pace changes no answer.
        """

        def ask(number: int) -> Answer:
            if pace and self.traced:
                time.sleep(max(0.0, started + number * pace - time.monotonic()))
            return self._ask(self._kinds[number % len(self._kinds)])

        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            self.answers += pool.map(ask, range(count))

    def ask(self, path: str, method: str = "GET") -> None:
        """Send one request."""
        self.answers.append(self._ask((method, path)))

    def tasks(self, count: int) -> None:
        """Send ``count`` requests, each of which waits for a task, 2 at a time."""

        def ask(number: int) -> Answer:
            # Celery may start a process for each.
            return self._ask(("GET", f"/faults/task/{number}"), patience=3 * PATIENCE)

        with ThreadPoolExecutor(2) as pool:
            self.answers += pool.map(ask, range(count))

    @contextlib.contextmanager
    def under_load(self, count: int) -> Iterator[None]:
        """Send ``count`` requests in the meantime."""
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.load, count)
            yield
            done.result()

    @contextlib.contextmanager
    def in_flight(self, path: str, count: int = 2) -> Iterator[None]:
        """Hold ``count`` requests inside their view in the meantime; their answers come afterwards."""
        started = self.folder / "started"
        started.write_text("")
        with ThreadPoolExecutor(count) as pool:
            waiting: list[Future[Answer]] = [pool.submit(self._ask, ("GET", path)) for _ in range(count)]
            wait_until(
                lambda: len(started.read_text()) >= count or all(each.done() for each in waiting), "the views", 60
            )
            yield
            self.answers += [each.result() for each in waiting]

    def settle(self) -> None:
        """Wait until the gateway answers as before, so that no connection is left that a fault has broken."""
        good = 0
        deadline = time.monotonic() + 60
        while good < 12 and time.monotonic() < deadline:
            good = good + 1 if self._ask(("GET", "/api/blueprints/7")).status == 200 else 0

    # ----- processes

    @property
    def master(self) -> int:
        """The process of the gateway that was started here."""
        return self._processes["api-gateway"].pid

    @property
    def masters(self) -> dict[str, int]:
        """The processes that were started here, by their services."""
        return {service: process.pid for service, process in self._processes.items()}

    @property
    def ports(self) -> dict[str, int]:
        """The ports of the services."""
        return self._ports

    def workers(self, service: str = "api-gateway") -> set[int]:
        return children(self._processes[service].pid)

    def wait_for_new_workers(self, old: set[int]) -> None:
        wait_until(lambda: self.workers() and not self.workers() & old, "new workers", 60)
        wait_until(lambda: self._is_up("api-gateway"), "the new workers to answer", 60)

    def command(self, *arguments: str) -> None:
        """Run a management command; its exit code and its output are an answer."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "manage.py", *arguments],
            env={**self._environment, "SERVICE_NAME": "api-gateway"},
            cwd=ROOT,
            capture_output=True,
            timeout=120,
        )
        # Lines of the log are meant for people: a backend that is down is told there.
        self.answers.append(Answer(("COMMAND", arguments[0]), 1000 + done.returncode, (), done.stdout))

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Stop all services, and wait for their ends."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(sig)
        for process in self._processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                self._hung.append(str(process.args))
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def wrong(self) -> list[str]:
        """Return what went wrong with the processes themselves."""
        return [f"This process did not end: {command}" for command in self._hung]

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def program(command: list[str]) -> list[str] | None:
    """Return how ``command`` is run, whose first word is a module or a program; None if that is not installed."""
    name, *rest = command
    if name in _PROGRAMS:
        found = shutil.which(name, path=str(Path(sys.executable).parent))
        return None if found is None else [found, *rest]
    return [sys.executable, "-W", "ignore", "-m", *command] if find_spec(name) is not None else None


def children(pid: int) -> set[int]:
    """Return the processes that ``pid`` has forked."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # granian's workers are children of multiprocessing, which has another one for itself.
    return {int(child) for child in found if "resource_tracker" not in _command_of(child)}


def _command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        # It has ended just now.
        return ""
