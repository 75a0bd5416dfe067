"""Test that statements are parsed for the connection's vendor, backend classes and session."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.db.backends.sqlite3.operations import DatabaseOperations
from django.db.utils import ConnectionHandler
from opentelemetry import trace

from django_tracing.redaction import Dialect, sanitise_sql
from example_project.servers import database_settings
from tests.conftest import Spans

pytestmark = pytest.mark.django_db

tracer = trace.get_tracer("tests")


def statement(spans: Spans, connection: Any, sql: str) -> str:
    """Return the recorded statement of ``sql``, even if the database behind the connection doesn't accept it."""
    connection.ensure_connection()
    with tracer.start_as_current_span("root"):
        spans.clear()
        # A statement that the server rejects is recorded too.
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


# ----- What servers take for a literal

#: Parts of random statements. A server accepts about one in thirty of the statements.
PIECES = [
    "'", "'", "''", "'''", '"', '""', "\\", "\\'", "\\\\", "`", "$$", "$a$", "#", "--", "-- ", "/*", "*/", "/*!", "[", "]", "q'[", " E'", " N'",
    " U&'", "\n", "\r", " ", ",", ", ", "||", "(", ")", "-", "/", "\n'", "' '",
]  # fmt: skip
WORDS = [f"zq{letter}x" for letter in "abcdefghi"]


def random_statements(seed: int) -> Iterator[str]:
    random = Random(seed)
    for _ in range(5000):
        pieces = [*random.sample(PIECES, 3), "'", ", ", "'"]
        words = [word + random.choice(pieces) for word in WORDS[: random.randint(2, 9)]]
        yield f"SELECT {random.choice(['', ' E', ' '])}'{''.join(words)}{random.choice(['', '', '*/', chr(10)])}"


def shown(run: Callable[[str], list[tuple[Any, ...]]], dialects: list[Dialect]) -> tuple[int, list[str]]:
    """Return how many statements the server accepted, and those whose recorded form contains a value it returned."""
    taken, found = 0, []
    for sql in random_statements(1):
        try:
            rows = run(sql)
        except (psycopg.Error, sqlite3.Error):
            continue
        taken += 1
        values = [word for row in rows for value in row for word in WORDS if word in str(value)]
        found += [sql for dialect in dialects for word in values if word in sanitise_sql(sql, dialect=dialect)]
    return taken, found


@pytest.mark.parametrize("standard", ["on", "off"])
def test_no_value_that_postgresql_returns_is_recorded(standard: str) -> None:
    options = f"-c standard_conforming_strings={standard} -c escape_string_warning=off"
    with psycopg.connect(os.environ["TEST_POSTGRES_URL"], autocommit=True, options=options) as connection:

        def run(sql: str) -> list[tuple[Any, ...]]:
            return connection.execute(sql.encode()).fetchall()

        dialects: list[Dialect] = ["unknown", "names-in-double-quotes"]
        taken, found = shown(run, [*dialects, "postgresql"] if standard == "on" else dialects)
    assert found == []
    assert taken > 50


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs setconfig() to disable strings in double quotes")
def test_no_value_that_sqlite_returns_is_recorded() -> None:
    connection = sqlite3.connect(":memory:")
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_DQS_DML, False)  # type: ignore[attr-defined,unused-ignore]
    try:
        taken, found = shown(lambda sql: connection.execute(sql).fetchall(), ["sqlite", "unknown"])
    finally:
        connection.close()
    assert found == []
    assert taken > 50


# ----- Vendors without a server here: their backends' classes, with SQLite behind them


class MySQL(DatabaseWrapper):
    vendor = "mysql"


MySQL.__module__ = "django.db.backends.mysql.base"


class PlanetScale(MySQL):
    """Like the backend of django_psdb_engine."""

    vendor = "planetscale"


class Turso(DatabaseWrapper):
    vendor = "turso"


#: A backend that doesn't inherit from one of Django's.
_OWN = {
    name: value
    for name, value in vars(DatabaseWrapper).items()
    if name not in ("__dict__", "__module__", "__weakref__")
}


class Bare(DatabaseOperations):
    """Like Spanner's: names are quoted where necessary, in backticks."""

    def quote_name(self, name: str) -> str:
        return name


class Broken(DatabaseOperations):
    def quote_name(self, name: str) -> str:
        raise RuntimeError("not before the schema is known")


Spanner: Any = type("DatabaseWrapper", (BaseDatabaseWrapper,), {**_OWN, "vendor": "spanner", "ops_class": Bare})
Nameless: Any = type("DatabaseWrapper", (BaseDatabaseWrapper,), {**_OWN, "vendor": "x", "ops_class": Broken})
Quoting: Any = type("DatabaseWrapper", (BaseDatabaseWrapper,), {**_OWN, "vendor": "y"})


class Driver(sqlite3.Connection):
    """A driver whose escaping depends on the server's last response."""

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
def test_mysql_under_any_vendor_name(spans: Spans, made: Any, kind: type[DatabaseWrapper]) -> None:
    connection = made(kind)
    assert (
        statement(spans, connection, 'SELECT "zqsecret", `a` FROM `t` # zqsecret\'s\n, b')
        == "SELECT ?, `a` FROM `t` , b"
    )
    # Without a connection, the meaning of a backslash is unknown.
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


def test_a_backend_based_on_sqlite_is_parsed_like_sqlite(spans: Spans, made: Any) -> None:
    assert statement(spans, made(Turso), "SELECT 'C:\\', [it's], 'x' FROM \"t\"") == 'SELECT ?, [?], ? FROM "t"'


@pytest.mark.parametrize("kind", [Spanner, Nameless])
def test_an_unknown_vendor(spans: Spans, made: Any, kind: Any) -> None:
    connection = made(kind)
    assert statement(spans, connection, "SELECT a.b FROM a WHERE c = \"zqsecret\" AND d = 'zqsecret'") == (
        "SELECT a.b FROM a WHERE c = ? AND d = ?"
    )
    assert statement(spans, connection, "SELECT 'it\\'s zqsecret' FROM `t`") == "SELECT ?"
    assert statement(spans, connection, "SELECT '''it's zqsecret''' FROM `t`") == "SELECT ?"
    assert statement(spans, connection, "SELECT a # it's zqsecret\n FROM `t`") == "SELECT a ?"


def test_a_vendor_that_quotes_names_with_double_quotes_shows_its_names(spans: Spans, made: Any) -> None:
    connection = made(Quoting)
    assert statement(spans, connection, 'SELECT "a"."b" FROM "a" WHERE "c" = %s AND d = \'zqsecret\'') == (
        'SELECT "a"."b" FROM "a" WHERE "c" = %s AND d = ?'
    )
    assert statement(spans, connection, "SELECT 'C:\\', 'zqsecret'") == "SELECT ?"
