"""How a statement is read follows from the connection: its vendor, what it is made of, its session."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.db.backends.sqlite3.operations import DatabaseOperations
from django.db.utils import ConnectionHandler
from opentelemetry import trace

from example_project.servers import database_settings
from tests.conftest import Spans

pytestmark = pytest.mark.django_db

tracer = trace.get_tracer("tests")


def statement(spans: Spans, connection: Any, sql: str) -> str:
    """What is told of ``sql``, which may be one that the database behind the connection does not know."""
    with tracer.start_as_current_span("root"):
        spans.clear()
        # A statement that the server does not know is told of all the same.
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute(sql)
        (span,) = list(spans)
    spans.clear()
    return str((span.attributes or {})["db.statement"])


@contextmanager
def postgresql(**options: Any) -> Iterator[Any]:
    handler = ConnectionHandler({"default": {**database_settings(os.environ["TEST_POSTGRES_URL"]), **options}})
    try:
        yield handler["default"]
    finally:
        handler.close_all()


def test_postgresql_s_backslashes_are_read_as_the_session_reads_them(spans: Spans) -> None:
    escaped = "SELECT 'it\\'s zqsecret', 1"
    plain = "SELECT 'C:\\', 'b', 1"
    with postgresql() as connection:
        assert statement(spans, connection, plain) == "SELECT ?, ?, ?"
        with connection.cursor() as cursor:
            cursor.execute("SET standard_conforming_strings TO off")
        assert statement(spans, connection, escaped) == "SELECT ?"
        assert "zqsecret" not in statement(spans, connection, "SELECT 'a\\'', \"b\" || 'zqsecret\\''")
        with connection.cursor() as cursor:
            cursor.execute("RESET standard_conforming_strings")
        assert statement(spans, connection, plain) == "SELECT ?, ?, ?"
    with postgresql(OPTIONS={"options": "-c standard_conforming_strings=off"}) as connection:
        assert statement(spans, connection, escaped) == "SELECT ?"
        assert statement(spans, connection, 'SELECT "a"."x" FROM "a"') == 'SELECT "a"."x" FROM "a"'


# ----- vendors that are not here: their backends' classes, with SQLite behind them


class MySQL(DatabaseWrapper):
    vendor = "mysql"


MySQL.__module__ = "django.db.backends.mysql.base"


class PlanetScale(MySQL):
    """As django_psdb_engine's."""

    vendor = "planetscale"


class Turso(DatabaseWrapper):
    vendor = "turso"


#: A backend that is made of none of Django's.
_OWN = {
    name: value
    for name, value in vars(DatabaseWrapper).items()
    if name not in ("__dict__", "__module__", "__weakref__")
}


class Bare(DatabaseOperations):
    """As Spanner's: names are quoted where they have to be, in backticks."""

    def quote_name(self, name: str) -> str:
        return name


class Broken(DatabaseOperations):
    def quote_name(self, name: str) -> str:
        raise RuntimeError("not before the schema is known")


Spanner: Any = type("DatabaseWrapper", (BaseDatabaseWrapper,), {**_OWN, "vendor": "spanner", "ops_class": Bare})
Nameless: Any = type("DatabaseWrapper", (BaseDatabaseWrapper,), {**_OWN, "vendor": "x", "ops_class": Broken})
Quoting: Any = type("DatabaseWrapper", (BaseDatabaseWrapper,), {**_OWN, "vendor": "y"})


class Driver(sqlite3.Connection):
    """A driver that escapes as the server's last answer wants it."""

    escapes = True

    def escaped(self, text: str) -> str:
        return text.replace("\\", "\\\\") if self.escapes else text


class MySQLClient(Driver):
    def escape_string(self, text: str) -> bytes:
        return self.escaped(text).encode()

    def escape(self, text: str) -> bytes:
        raise TypeError("with a dict of converters only")


class PyMySQL(Driver):
    def escape(self, text: str) -> str:
        return f"'{self.escaped(text)}'"


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Any]:
    opened: list[DatabaseWrapper] = []

    def make(kind: type[DatabaseWrapper], **options: Any) -> DatabaseWrapper:
        settings = ConnectionHandler(
            {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "x"), "OPTIONS": options}}
        ).settings["default"]
        opened.append(kind(settings, "made"))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


@pytest.mark.parametrize("kind", [MySQL, PlanetScale])
def test_mysql_by_any_name(spans: Spans, made: Any, kind: type[DatabaseWrapper]) -> None:
    connection = made(kind)
    assert (
        statement(spans, connection, 'SELECT "zqsecret", `a` FROM `t` # zqsecret\'s\n, b')
        == "SELECT ?, `a` FROM `t` , b"
    )
    # Nobody knows what a backslash makes here.
    assert statement(spans, connection, "SELECT 'C:\\', 'zqsecret', 'x'") == "SELECT ?"
    assert statement(spans, connection, "SELECT 'it\\'s', 'x'") == "SELECT ?"


@pytest.mark.parametrize("kind", [MySQL, PlanetScale])
@pytest.mark.parametrize("driver", [MySQLClient, PyMySQL])
def test_mysql_s_backslashes_are_read_as_the_session_reads_them(
    spans: Spans, made: Any, kind: type[DatabaseWrapper], driver: type[Driver]
) -> None:
    connection = made(kind, factory=driver)
    connection.ensure_connection()
    assert statement(spans, connection, "SELECT 'it\\'s zqsecret', 'x', a") == "SELECT ?, ?, a"
    connection.connection.escapes = False  # SET sql_mode = NO_BACKSLASH_ESCAPES
    assert statement(spans, connection, "SELECT 'C:\\', 'zqsecret', 'x', a") == "SELECT ?, ?, ?, a"
    connection.connection.escapes = True
    assert statement(spans, connection, "SELECT 'it\\'s zqsecret', 'x', a") == "SELECT ?, ?, a"


def test_what_is_made_of_sqlite_reads_as_it_does(spans: Spans, made: Any) -> None:
    assert statement(spans, made(Turso), "SELECT 'C:\\', [it's], 'x' FROM \"t\"") == 'SELECT ?, [?], ? FROM "t"'


@pytest.mark.parametrize("kind", [Spanner, Nameless])
def test_a_vendor_that_nobody_knows(spans: Spans, made: Any, kind: Any) -> None:
    connection = made(kind)
    assert statement(spans, connection, "SELECT a.b FROM a WHERE c = \"zqsecret\" AND d = 'zqsecret'") == (
        "SELECT a.b FROM a WHERE c = ? AND d = ?"
    )
    assert statement(spans, connection, "SELECT 'it\\'s zqsecret' FROM `t`") == "SELECT ?"
    assert statement(spans, connection, "SELECT '''it's zqsecret''' FROM `t`") == "SELECT ?"
    assert statement(spans, connection, "SELECT a # it's zqsecret\n FROM `t`") == "SELECT a ?"


def test_one_that_quotes_names_by_double_quotes_shows_its_names(spans: Spans, made: Any) -> None:
    connection = made(Quoting)
    assert statement(spans, connection, 'SELECT "a"."b" FROM "a" WHERE "c" = %s AND d = \'zqsecret\'') == (
        'SELECT "a"."b" FROM "a" WHERE "c" = %s AND d = ?'
    )
    assert statement(spans, connection, "SELECT 'C:\\', 'zqsecret'") == "SELECT ?"
