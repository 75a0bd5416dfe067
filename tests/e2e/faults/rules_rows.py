"""List the faults of the database that has the sampling rules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.e2e.faults.postgres_proxy import PostgresProxy
from tests.e2e.faults.rows import Row, Stage
from tests.e2e.faults.services import ROOT
from tests.jaegers import wait_until

__all__ = ["RULES_ROWS"]

#: What the rule forbids to trace.
PATH = "/api/blueprints/owners"
#: How many of the first 30 requests are for it.
_BEFORE = 3
_RULES = "django_tracing_samplingrule"


class _Rules:
    """A database with one rule, which is not to trace PATH, behind a proxy whose connection can be held or cut."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.name = f"rules_{stage.folder.name.partition('-')[2]}"
        self.url = urlsplit(stage.databases.postgres.url)._replace(path=f"/{self.name}").geturl()
        with psycopg.connect(stage.databases.postgres.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{self.name}"')
        stage.stack.callback(self._drop)
        self.proxy = stage.stack.enter_context(PostgresProxy(self.url))
        self.unlock: Callable[[], None] = lambda: None

    def _drop(self) -> None:
        with psycopg.connect(self.stage.databases.postgres.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{self.name}" WITH (FORCE)')

    def create(self) -> None:
        """Create the tables, and the rule."""
        settings = {"DJANGO_SETTINGS_MODULE": "tests.e2e.faults.settings", "OTEL_SDK_DISABLED": "true"}
        subprocess.run(
            [sys.executable, "-W", "ignore", "manage.py", "migrate", "django_tracing", "--database", "rules"],
            env={**os.environ, **settings, **self.stage.databases.environment, "FAULTS_RULES": self.url},
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        with self.connect() as connection:
            connection.execute(
                f'INSERT INTO {_RULES} (name, "order", enabled, operation, method, path, service, user_id, '
                f"subscription, header_name, header_value, rate, keep_errors, updated) "
                f"VALUES ('never', 0, true, 'request', '', %s, '', '', '', '', '', 0, false, now())",
                [PATH],
            )

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection that does not use the proxy."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            yield connection

    def wait_until_read(self) -> None:
        """Wait until each service has stored its status, which it does after it has read the rules."""

        def stored() -> bool:
            with self.connect() as connection:
                found = connection.execute("SELECT DISTINCT service FROM django_tracing_processstatus").fetchall()
            return len(found) >= 2

        wait_until(stored, "the rules to be read", 60)


def _with_rules(stage: Stage) -> Mapping[str, Any]:
    rules = stage.rules = _Rules(stage)
    rules.create()
    return {"ENDPOINT": stage.receiver.endpoint, "RULES": rules.proxy.url, "SAMPLING_REFRESH": 1}


def _without_tables(stage: Stage) -> Mapping[str, Any]:
    rules = stage.rules = _Rules(stage)
    return {"ENDPOINT": stage.receiver.endpoint, "RULES": rules.proxy.url, "SAMPLING_REFRESH": 1}


def _unreachable(stage: Stage) -> Mapping[str, Any]:
    tracing = _with_rules(stage)
    stage.rules.proxy.down()
    return tracing


def _during(
    fault: Callable[[_Rules], None], noticed: Callable[[_Rules], bool], lift: Callable[[_Rules], None]
) -> Callable[[Stage], None]:
    """Let the rules be read, then make the fault, and lift it after some requests."""

    def script(stage: Stage) -> None:
        _make(fault, noticed, stage)
        stage.services.load(50)
        if stage.rules is not None:
            lift(stage.rules)
        stage.services.load(20)

    return script


def _make(fault: Callable[[_Rules], None], noticed: Callable[[_Rules], bool], stage: Stage) -> None:
    """Send requests while the rules are read, then make the fault, where there are rules."""
    stage.services.load(30)
    rules = stage.rules
    if rules is not None:
        rules.wait_until_read()
        fault(rules)
        wait_until(lambda: noticed(rules), "the fault to be noticed", 60)


def _stopping(fault: Callable[[_Rules], None], noticed: Callable[[_Rules], bool]) -> Callable[[Stage], None]:
    """End the services while the fault lasts."""

    def script(stage: Stage) -> None:
        _make(fault, noticed, stage)
        stage.services.load(30)
        stage.services.stop()

    return script


def _logged(rules: _Rules) -> bool:
    log = rules.stage.services.log()
    return log.count("The sampling rules can't be read") >= 2


def _down(rules: _Rules) -> None:
    rules.proxy.down()


def _up(rules: _Rules) -> None:
    rules.proxy.up()


def _hang(rules: _Rules) -> None:
    rules.proxy.passes.clear()


def _pass(rules: _Rules) -> None:
    rules.proxy.passes.set()


def _hangs(rules: _Rules) -> bool:
    return rules.proxy.held >= 2


def _statement(*statements: str) -> Callable[[_Rules], None]:
    def execute(rules: _Rules) -> None:
        with rules.connect() as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type]

    return execute


def _lock(rules: _Rules) -> None:
    """Lock the tables as a migration does."""
    connection = rules.stage.stack.enter_context(psycopg.connect(rules.url))
    connection.execute(f"LOCK TABLE {_RULES}, django_tracing_processstatus IN ACCESS EXCLUSIVE MODE")
    rules.unlock = connection.rollback


def _unlock(rules: _Rules) -> None:
    rules.unlock()


def _waits(rules: _Rules) -> bool:
    with rules.connect() as connection:
        [[waiting]] = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchall()
    return int(waiting) >= 2


def _check(stage: Stage) -> list[str]:
    """The rule was in force from the first read on, whatever happened then, and the log is short."""
    wrong = []
    route = PATH.strip("/")
    traced = [span for span in stage.spans if span.attributes.get("http.route", "").strip("/") == route]
    # At most those that were sent before the rules were read.
    if len(traced) > _BEFORE:
        wrong.append(f"{len(traced)} requests were traced that the rule forbids.")
    return wrong + _check_log(stage)


def _check_log(stage: Stage) -> list[str]:
    """Each process tells it once."""
    log = "".join(path.read_text() for path in stage.folder.glob("*.log"))
    count = log.count("The sampling rules can't be read")
    return [f"The log has {count} lines about the rules."] if count > 2 or "Traceback" in log else []


def _row(name: str, script: Callable[[Stage], None]) -> Row:
    return Row(f"the rules' database {name}", _with_rules, script, check=_check)


_COLUMN = f"ALTER TABLE {_RULES} RENAME COLUMN"
_RENAMED = _statement(f"{_COLUMN} rate TO rate_before"), _statement(f"{_COLUMN} rate_before TO rate")
_MOVED = _statement(f"ALTER TABLE {_RULES} RENAME TO moved"), _statement(f"ALTER TABLE moved RENAME TO {_RULES}")

RULES_ROWS = [
    Row("the rules' database can't be reached from the start", _unreachable, check=_check_log),
    _row("goes down and comes back", _during(_down, _logged, _up)),
    _row("holds a statement (slow)", _during(_hang, _hangs, _pass)),
    _row("holds a statement, SIGTERM", _stopping(_hang, _hangs)),
    Row("the rules' database has no tables (before migrate)", _without_tables, check=_check_log),
    _row("loses its table (migrating)", _during(_MOVED[0], _logged, _MOVED[1])),
    _row("lacks a column (migrating)", _during(_RENAMED[0], _logged, _RENAMED[1])),
    _row("is locked (migrating)", _during(_lock, _waits, _unlock)),
    _row("is locked, SIGTERM", _stopping(_lock, _waits)),
]
