"""Run a row: the same requests without and with tracing, a fault in between, and an account of every span."""

from __future__ import annotations

import stat
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from example_project.servers import free_port
from tests.e2e.faults.accounts import Account, account
from tests.e2e.faults.postgres_proxy import PostgresProxy
from tests.e2e.faults.services import KINDS, ROOT, Answer, Databases, Services, program
from tests.export.socket_servers import SocketServer
from tests.receivers import ReceivedSpan

__all__ = ["GUNICORN", "UVICORN", "Result", "Row", "Runner", "Stage", "closed_to_others"]

GUNICORN = [
    *("gunicorn", "example_project.wsgi", "--bind", "127.0.0.1:{port}"),
    *("--config", "python:example_project.gunicorn_config", "--log-level", "warning"),
    *("--worker-class", "gthread", "--threads", "4", "--timeout", "120"),
]
UVICORN = ["uvicorn", "example_project.asgi:application", "--port", "{port}", "--log-level", "warning"]


class _Receives(Protocol):
    spans: list[ReceivedSpan]
    ids: list[str]


class Stage:
    """What a row acts on: the receiver, the services, a folder, and ``arrived``, the ids of the spans that arrived."""

    def __init__(self, stack: ExitStack, databases: Databases, folder: Path) -> None:
        self.stack = stack
        self.databases = databases
        self.folder = folder
        receiver = SocketServer()
        # No other row gets it while this receiver is down.
        receiver.port = free_port()
        self.receiver = stack.enter_context(receiver)
        #: All that keep spans.
        self.receivers: list[_Receives] = [self.receiver]
        #: Reads more ids, where spans go somewhere else.
        self.read: Callable[[], set[str]] = set
        #: How many spans wait on disk.
        self.stored: Callable[[], int] = int
        #: What a row keeps for its script, where spans are made.
        self.rules: Any = None
        self._seen: set[str] = set()
        self.services: Services

    @property
    def spans(self) -> list[ReceivedSpan]:
        """The spans that arrived by OTLP."""
        return [span for receiver in self.receivers for span in receiver.spans]

    @property
    def arrived(self) -> set[str]:
        self._seen |= self.read()
        for receiver in self.receivers:
            self._seen |= set(receiver.ids)
        return self._seen

    def account(self, row: Row) -> Account:
        # The disk first: what leaves it afterwards is counted twice, and then waited for, rather than missing.
        stored = self.stored()
        return account(self.folder, self.arrived, stored=stored, killed=row.killed)


def _nothing(stage: Stage) -> None:
    """There is nothing to do."""


def _load(stage: Stage) -> None:
    stage.services.load(100)


def _right(stage: Stage) -> list[str]:
    return []


@dataclass(frozen=True)
class Row:
    """A fault.

    ``prepare`` makes it before the services start, and returns the settings of TRACING. ``script`` sends the requests
    and makes what happens among them; it runs without tracing too, so it must not depend on the receiver. ``lift``
    ends the fault: what waits must arrive then. ``check`` returns what is wrong with the spans and the logs, when all
    processes have ended. ``killed`` is True where a process ends without a chance to send.
    """

    name: str
    prepare: Callable[[Stage], Mapping[str, Any]] = lambda stage: {"ENDPOINT": stage.receiver.endpoint}
    script: Callable[[Stage], None] = _load
    lift: Callable[[Stage], None] = _nothing
    check: Callable[[Stage], list[str]] = _right
    killed: bool = False
    #: Whether the fault changes answers without tracing, too.
    breaks_the_site: bool = False
    server: list[str] = field(default_factory=lambda: GUNICORN)
    #: Whether the server lets another user serve, who may not open PostgreSQL's socket or write into the folder.
    as_other_user: bool = False
    #: The command of a worker beside the services, which runs tasks; none if it is empty.
    worker: list[str] = field(default_factory=list)

    @property
    def obstacles(self) -> list[str]:
        """Why it can't run here: programs that are not installed, and folders that the server's user may not open."""
        commands = [command for command in (self.server, self.worker) if command]
        found = [f"{command[0]} is not installed" for command in commands if program(command) is None]
        if self.as_other_user and (closed := closed_to_others(Path(sys.base_prefix), Path(sys.prefix), ROOT)):
            found.append(f"another user may not open {closed}")
        return found


def closed_to_others(*folders: Path) -> Path | None:
    """Return the first of ``folders`` and the folders above them that other users may not open."""
    above = [each for folder in folders for each in (*reversed(folder.parents), folder)]
    return next((each for each in above if not each.stat().st_mode & stat.S_IXOTH), None)


@dataclass
class Result:
    row: Row
    requests: int
    failed: int
    #: While the fault lasted, and after all processes have ended.
    during: Account
    final: Account
    #: The requests that were not answered as without tracing, and the end of the services' logs.
    details: str = ""
    #: What else is wrong, in words.
    wrong: list[str] = field(default_factory=list)

    @property
    def unaccounted(self) -> int:
        return self.final.unaccounted or self.during.unaccounted

    @property
    def is_good(self) -> bool:
        return not (self.failed or self.wrong or self.unaccounted or self.final.unknown or self.final.waiting)


class Runner:
    """Run rows one after another, with the same databases."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._untraced: dict[Any, list[Answer]] = {}

    def run(self, row: Row) -> Result:
        untraced = self._answers_without_tracing(row)
        with ExitStack() as stack:
            stage = self._stage(stack, row)
            tracing = {"EXPORT_TIMEOUT": 1.0, **row.prepare(stage)}
            hosts, rules = tracing.pop("HOSTS", None), tracing.pop("RULES", None)
            stage.services = services = self._services(stage, row, tracing, hosts=hosts, rules=rules)
            row.script(stage)
            during = self._settled(stage, row)
            row.lift(stage)
            self._sent(stage, row)
            services.stop()
            final = stage.account(row)
            failed = failures(untraced, services.answers)
            wrong = services.wrong() + row.check(stage)
            result = Result(row, len(services.answers), len(failed), during, final, wrong=wrong)
            if not result.is_good:
                result.details = "\n".join([f"{during}\n{final}", *wrong, *failed[:5], services.log()])
            return result

    def _stage(self, stack: ExitStack, row: Row) -> Stage:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-")))
        if row.as_other_user:
            folder.chmod(0o777)
        return Stage(stack, self._databases, folder)

    @staticmethod
    def _services(stage: Stage, row: Row, tracing: Mapping[str, Any] | None, **options: Any) -> Services:
        if row.as_other_user:
            options["postgres"] = stage.stack.enter_context(PostgresProxy(stage.databases.postgres.url)).url
        services = Services(stage.folder, stage.databases, tracing, row.server, worker=row.worker, **options)
        return stage.stack.enter_context(services)

    def _answers_without_tracing(self, row: Row) -> list[Answer]:
        # A fault of the receiver changes nothing where nothing is sent: all of them have the same answers.
        key = (row.script, *row.server, *row.worker)
        if key not in self._untraced:
            with ExitStack() as stack:
                stage = self._stage(stack, row)
                stage.services = self._services(stage, row, None)
                row.script(stage)
                wrong = [
                    each
                    for each in stage.services.answers
                    if each.status not in (0, KINDS.get(each.kind, each.status))
                ]
                assert row.breaks_the_site or not wrong, f"The site itself does not work: {wrong[0]}"
                self._untraced[key] = stage.services.answers
        return self._untraced[key]

    @staticmethod
    def _settled(stage: Stage, row: Row) -> Account:
        """Return the account once it adds up and no longer changes; whatever it is after 15 s."""
        deadline = time.monotonic() + 15
        before, since = None, time.monotonic()
        while True:
            now = stage.account(row)
            if now != before:
                before, since = now, time.monotonic()
            still = time.monotonic() - since
            if (still > 1 and not now.unaccounted) or time.monotonic() > deadline:
                return now
            time.sleep(0.1)

    @staticmethod
    def _sent(stage: Stage, row: Row) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and stage.account(row).waiting:
            time.sleep(0.1)


def failures(untraced: list[Answer], traced: list[Answer]) -> list[str]:
    """Describe the answers with tracing that differ from those without.

    Requests that a dying server did not answer without tracing either are not failed because of tracing: which of the
    requests at that moment it is depends on chance, so they are compared by number.
    """
    unanswered = sum(not answer.status for answer in untraced)
    expected: dict[tuple[str, str], list[Answer]] = {}
    for answer in untraced:
        expected.setdefault(answer.kind, []).append(answer)
    found = []
    for answer in traced:
        if not answer.status and unanswered:
            unanswered -= 1
        elif not answer.status or answer not in expected[answer.kind]:
            found.append(f"{answer}\n  without tracing: {expected[answer.kind][0]}")
    return found + ["fewer answers than without tracing"] * (len(untraced) - len(traced))
