"""Test the spans of SQL that Django's connections send to real databases."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Group, User
from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler, DataError, IntegrityError
from django.test.utils import CaptureQueriesContext, override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing.spans import clear_caches
from example_project.servers import database_settings
from tests.conftest import Spans

pytestmark = pytest.mark.django_db

tracer = trace.get_tracer("tests")


@pytest.fixture
def within(spans: Spans) -> Iterator[Spans]:
    """Start a trace; the collected spans don't contain its root, which hasn't ended. The connection is open already."""
    connection.ensure_connection()
    with tracer.start_as_current_span("root"):
        spans.clear()
        yield spans


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


class TestStatements:
    def test_a_select(self, within: Spans) -> None:
        list(User.objects.filter(username="ada", id__in=[1, 2, 3]))
        span = within.one("db.select.auth_user")
        got = attributes(span)
        assert span.kind is SpanKind.CLIENT
        assert got["operation.type"] == "database"
        assert got["db.system"] == "postgresql"
        assert got["db.operation"] == "select"
        assert got["db.sql.table"] == "auth_user"
        assert got["db.alias"] == "default"
        assert got["db.name"] == connection.settings_dict["NAME"]
        assert got["db.user"] == "postgres"
        assert got["net.peer.name"] == connection.settings_dict["HOST"]
        assert got["db.rows"] == 0
        assert 'IN (%s) AND "auth_user"."username" = %s' in got["db.statement"]

    def test_rows_returned_and_changed(self, within: Spans) -> None:
        User.objects.bulk_create(User(username=f"u{number}") for number in range(3))
        assert attributes(within.one("db.insert.auth_user"))["db.rows"] == 3
        assert User.objects.update(first_name="x") == 3
        assert attributes(within.one("db.update.auth_user"))["db.rows"] == 3
        assert len(User.objects.all()) == 3
        assert attributes(within.one("db.select.auth_user"))["db.rows"] == 3

    def test_several_tables(self, within: Spans) -> None:
        list(User.objects.filter(groups__name="x"))
        got = attributes(within.one("db.select.auth_user"))
        assert got["db.sql.tables"] == ("auth_user", "auth_user_groups", "auth_group")

    def test_executemany_has_its_count(self, within: Spans) -> None:
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO auth_group (name) VALUES (%s)", [("a",), ("b",)])
        got = attributes(within.one("db.insert.auth_group"))
        assert got["db.operation.batch.size"] == 2

    def test_executemany_does_not_read_an_iterator(self, within: Spans) -> None:
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO auth_group (name) VALUES (%s)", iter([("a",), ("b",)]))
        assert Group.objects.count() == 2

    def test_composed_sql(self, within: Spans) -> None:
        query = psycopg.sql.SQL("SELECT {}, 'secret' FROM {}").format(
            psycopg.sql.Literal("hidden"), psycopg.sql.Identifier("auth_user")
        )
        with connection.cursor() as cursor:
            cursor.execute(query)
        assert attributes(within.one("db.select.auth_user"))["db.statement"] == 'SELECT ?, ? FROM "auth_user"'

    def test_composed_sql_that_cannot_be_composed(self, within: Spans) -> None:
        with (
            pytest.raises(DatabaseError, match="adapt"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(psycopg.sql.SQL("SELECT {}").format(psycopg.sql.Literal(object())))
        span = within.one("db.unknown")
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["db.statement"] == ""

    def test_bytes(self, within: Spans) -> None:
        with connection.cursor() as cursor:
            cursor.execute(b"SELECT 'secret' FROM auth_user")
        assert attributes(within.one("db.select.auth_user"))["db.statement"] == "SELECT ? FROM auth_user"

    def test_sql_that_is_not_text_is_not_converted(self, within: Spans) -> None:
        class Template:
            def __str__(self) -> str:
                return "SELECT secret"

        with pytest.raises(TypeError), connection.cursor() as cursor:
            cursor.execute(Template())
        assert attributes(within.one("db.unknown"))["db.statement"] == ""
        assert "SELECT secret" not in within.one("db.unknown").to_json()

    def test_a_stored_procedure(self, within: Spans) -> None:
        with connection.cursor() as cursor:
            cursor.callproc("upper", ["secret"])
            assert cursor.fetchone() == ("SECRET",)
        got = attributes(within.one("db.call"))
        assert got["db.statement"] == "CALL upper"
        assert got["db.rows"] == 1

    def test_a_server_side_cursor(self, within: Spans) -> None:
        User.objects.create(username="x")
        within.clear()
        with transaction.atomic():
            assert len(list(User.objects.iterator())) == 1
        assert "db.rows" not in attributes(within.one("db.select.auth_user")), "nothing has been fetched yet"

    def test_copy_works(self, within: Spans) -> None:
        with connection.cursor() as cursor, cursor.copy("COPY auth_group (name) FROM STDIN") as copy:
            copy.write_row(("copied",))
        assert Group.objects.filter(name="copied").exists()

    def test_the_span_is_a_child_of_the_current_one_even_in_another_thread(self, within: Spans) -> None:
        async def query() -> None:
            await User.objects.filter(username="x").aexists()
            from asgiref.sync import sync_to_async

            await sync_to_async(connections.close_all)()

        asyncio.run(query())
        span = within.one("db.select.auth_user")
        assert span.parent == trace.get_current_span().get_span_context()


#: Not literals in the code, whose lines are part of a stack.
PRIVATE_NAME = "very-private-name"
PRIVATE_SQL = "SELECT 'private text'::integer"
PRIVATE_ID = 18151342


class TestErrors:
    def test_a_unique_violation_has_no_values(self, within: Spans) -> None:
        User.objects.create(username=PRIVATE_NAME)
        within.clear()
        with pytest.raises(IntegrityError, match="very-private-name"), transaction.atomic():
            User.objects.create(username=PRIVATE_NAME)
        span = within.one("db.insert.auth_user")
        assert span.status.status_code is StatusCode.ERROR
        (event,) = span.events
        recorded = str(dict(event.attributes or {})) + str(span.status.description)
        assert "very-private-name" not in recorded
        assert "auth_user_username_key" in recorded
        assert (
            dict(event.attributes or {})["exception.type"].endswith("UniqueViolation") or "IntegrityError" in recorded
        )

    def test_bad_input_has_no_values(self, within: Spans) -> None:
        with pytest.raises(DataError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(PRIVATE_SQL)
        (span,) = [span for span in within if span.name == "db.select"]
        assert "private text" not in str(span.to_json())

    @pytest.mark.parametrize(
        ("sql", "params", "kept"),
        [
            ("SELECT %s::integer", ["zqsecret"], "invalid input syntax for type integer"),
            ("SELECT %s::date", ["1815-13-42"], "date/time field value out of range"),
            ("SELECT make_date(1815, 13, 42)", None, "date field value out of range"),
            ("SELECT %s::uuid", ["zqsecret"], "invalid input syntax for type uuid"),
            ("SELECT %s::jsonb", ['{"a": zqsecret}'], "invalid input syntax for type json"),
            ("SELECT %s::integer[]", ["zqsecret"], "malformed array literal"),
            ("SELECT %s::int4range", ["[zqsecret"], "malformed range literal"),
            ("SELECT %s::smallint", ["18151342"], "is out of range for type smallint"),
            ("SELECT 'a' ~ %s", ["(zqsecret"], "invalid regular expression"),
            ("SELECT to_tsquery(%s)", ["zqsecret &"], "no operand in tsquery"),
            ("SELECT date_trunc(%s, now())", ["zqsecret"], "not recognized for type"),
            ("SELECT lo_get(18151342)", None, "large object"),
            ("SELECT setval('auth_group_id_seq', -18151342)", None, "is out of bounds for sequence"),
            ("SELECT 'a' 'zqsecret'", None, "syntax error at or near"),
            ("SELECT 'zqsecret", None, "unterminated quoted string"),
            ("SELECT $zqsecret$ a", None, "unterminated dollar-quoted string"),
            ("SELECT 18151342zqsecret", None, "trailing junk after numeric literal"),
            ("SELECT json_populate_record(NULL::auth_group, %s)", ['{"id": "zqsecret"}'], "invalid input syntax"),
            ("INSERT INTO auth_group (id, name) VALUES (18151342, NULL)", None, "violates not-null constraint"),
            ("INSERT INTO auth_group (name) VALUES (%s)", ["zqsecret" * 30], "value too long for type"),
            ("SELECT 18151342/0", None, "division by zero"),
            ("DO $$ BEGIN RAISE EXCEPTION 'not \"zqsecret\"'; END $$", None, "not"),
            ("SELECT %s, %s", ["zqsecret"], "2 placeholders but 1 parameters"),
            ("SELECT %s", ["zqsecret\x00"], "NUL"),
        ],
    )
    def test_values_that_a_server_quotes_are_not_exported(
        self, within: Spans, sql: str, params: list[str] | None, kept: str
    ) -> None:
        with pytest.raises((DatabaseError, ValueError)), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql, params)
        (span,) = [span for span in within if span.events]
        assert kept in str(span.status.description)
        exported = "".join(span.to_json() for span in within)
        for value in ("zqsecret", "18151342", "1815-13-42"):
            assert value not in exported

    @pytest.mark.django_db(transaction=True)
    def test_a_commit_that_fails(self, within: Spans) -> None:
        with pytest.raises(IntegrityError, match=str(PRIVATE_ID)), transaction.atomic():
            User.groups.through.objects.create(user_id=PRIVATE_ID, group_id=PRIVATE_ID)
        span = within.one("db.commit")
        assert span.status.status_code is StatusCode.ERROR
        assert "violates foreign key constraint" in str(span.status.description)
        assert "18151342" not in "".join(span.to_json() for span in within)


class TestTransactions:
    @pytest.mark.django_db(transaction=True)
    def test_commit_and_rollback(self, within: Spans) -> None:
        with transaction.atomic():
            Group.objects.create(name="kept")
        assert within.names == ["db.insert.auth_group", "db.commit"]
        assert attributes(within.one("db.commit"))["db.alias"] == "default"
        within.clear()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Group.objects.create(name="gone")
            raise ZeroDivisionError
        assert within.names == ["db.insert.auth_group", "db.rollback"]

    def test_savepoints(self, within: Spans) -> None:
        with transaction.atomic():
            pass
        assert within.names == ["db.savepoint", "db.release"]

    def test_a_vendor_with_its_own_commit_method(self, within: Spans) -> None:
        """Oracle's backend does so and doesn't call the base class."""
        from django.db.backends.sqlite3.base import DatabaseWrapper

        class Vendor(DatabaseWrapper):
            def _commit(self) -> None:
                if self.connection is not None:
                    self.connection.commit()

        vendor = Vendor({**connections.settings["default"], "NAME": LITE["NAME"], "OPTIONS": {}}, "vendor")
        vendor.commit()
        assert within.names == [], "without an open connection nothing is committed"
        try:
            with vendor.cursor() as cursor:
                cursor.execute("SELECT 1")
            vendor.commit()
            vendor.rollback()
        finally:
            vendor.close()
        assert within.names == ["db.connect", "db.select", "db.commit", "db.rollback"]


class TestNotTraced:
    def test_outside_a_trace_no_span_is_made(self, spans: Spans) -> None:
        list(User.objects.all())
        with transaction.atomic():
            pass
        assert spans.names == []

    def test_not_sampled(self, spans: Spans) -> None:
        context = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0))
        with trace.use_span(trace.NonRecordingSpan(context)):
            list(User.objects.all())
        assert spans.names == []

    def test_parameters_of_a_connection_are_read_once(self, within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        """A backend may fetch a short-lived password there."""
        from django.db.backends.postgresql.base import DatabaseWrapper

        counts = []
        original = DatabaseWrapper.get_connection_params
        monkeypatch.setattr(DatabaseWrapper, "get_connection_params", lambda self: counts.append(1) or original(self))
        handler = a_connection()
        try:
            with handler["default"].cursor() as cursor:
                cursor.execute("SELECT 1")
        finally:
            handler.close_all()
        assert len(counts) == 1
        assert within.names == ["db.connect", "db.select"]


@pytest.fixture(autouse=True)
def lite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure a SQLite database in a file: Django never closes one in memory, and Python 3.13 warns about that."""
    monkeypatch.setitem(LITE, "NAME", str(tmp_path / "lite.sqlite3"))


LITE = {"ENGINE": "django.db.backends.sqlite3"}


def a_connection(**options: Any) -> Any:
    handler = ConnectionHandler(
        {
            "default": {**database_settings(os.environ["TEST_POSTGRES_URL"]), **options},
            "lite": LITE.copy(),
        }
    )
    return handler


class TestOncePerStatement:
    """OpenTelemetry's psycopg instrumentation is enabled in these tests, as it is by default."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"OPTIONS": {"pool": True}, "CONN_HEALTH_CHECKS": True},
            {"OPTIONS": {"pool": {"min_size": 2, "max_size": 3}, "server_side_binding": True}},
            {"OPTIONS": {"server_side_binding": True}},
            {"OPTIONS": {"assume_role": "postgres"}},
            {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
        ],
        ids=str,
    )
    def test_through_django(self, within: Spans, options: dict[str, Any]) -> None:
        handler = a_connection(**options)
        ours = handler["default"]
        try:
            for _ in range(2):
                with ours.cursor() as cursor:
                    cursor.execute("SELECT %s", ["x"])
                    cursor.executemany("SELECT %s", [["x"], ["y"]])
                with ours.chunked_cursor() as cursor:
                    cursor.execute("SELECT * FROM pg_class")
                    assert cursor.fetchmany(2)
                assert ours.is_usable()
                ours.close_if_unusable_or_obsolete()
                ours.close()
        finally:
            handler.close_all()
            ours.close_pool()
        pooled = "pool" in options.get("OPTIONS", {})
        connecting = "db.pool.wait" if pooled else "db.connect"
        assert within.names == [connecting, "db.select", "db.select", "db.select.pg_class"] * 2
        if pooled:
            got = attributes(within.named("db.select")[0])
            assert got["db.pool.size"] >= 1
            assert got["db.pool.available"] >= 0
            assert got["db.pool.waiting"] == 0

    def test_cursors_have_the_requested_class(self, within: Spans) -> None:
        class Chosen(psycopg.ClientCursor[Any]):
            pass

        for factory in (None, Chosen):
            handler = a_connection(OPTIONS={"cursor_factory": factory} if factory else {})
            try:
                with handler["default"].cursor() as cursor:
                    cursor.execute("SELECT 1")
                    assert type(cursor.cursor) is (factory or type(connection.connection.cursor()))
                    assert not type(cursor.cursor).__module__.startswith("opentelemetry")
            finally:
                handler.close_all()
        assert within.names == ["db.connect", "db.select"] * 2

    def test_drivers_that_an_instrumentation_wraps_in_a_proxy(self, within: Spans) -> None:
        """OpenTelemetry's instrumentations of sqlite3, mysqlclient and pymysql do so, and opentelemetry-instrument
        enables them by default."""
        import sqlite3

        from opentelemetry.instrumentation import dbapi

        dbapi.wrap_connect("opentelemetry.instrumentation.sqlite3", sqlite3.dbapi2, "connect", "sqlite")
        handler = a_connection()
        try:
            with handler["lite"].cursor() as cursor:
                cursor.execute("SELECT 1")
            with handler["lite"].cursor() as cursor:
                cursor.execute("SELECT 2")
            raw = sqlite3.dbapi2.connect(":memory:")
            raw.cursor().execute("SELECT 3")
            raw.close()
        finally:
            handler.close_all()
            dbapi.unwrap_connect(sqlite3.dbapi2, "connect")
        assert [span.instrumentation_scope.name for span in within] == [  # type: ignore[union-attr]
            "django_tracing",
            "django_tracing",
            "django_tracing",
            "opentelemetry.instrumentation.sqlite3",
        ]

    def test_psycopg_used_directly_is_traced_by_its_instrumentation(self, within: Spans) -> None:
        with psycopg.connect(os.environ["TEST_POSTGRES_URL"]) as raw:
            raw.execute("SELECT 'a secret', 42 FROM pg_class LIMIT 0")
        (span,) = list(within)
        assert span.instrumentation_scope.name == "opentelemetry.instrumentation.psycopg"  # type: ignore[union-attr]
        assert attributes(span)["db.statement"] == "SELECT ?, ? FROM pg_class LIMIT ?"
        assert attributes(span)["operation.type"] == "database"

    def test_psycopg_used_directly_outside_a_trace_makes_no_root(self, spans: Spans) -> None:
        with psycopg.connect(os.environ["TEST_POSTGRES_URL"]) as raw:
            raw.execute("SELECT 1")
        assert spans.names == []


def test_sqlite(within: Spans) -> None:
    handler = a_connection()
    try:
        with handler["lite"].cursor() as cursor:
            cursor.execute("CREATE TABLE t (x)")
            cursor.execute("INSERT INTO t VALUES (%s), (%s)", [1, 2])
            cursor.execute("SELECT x FROM t")
            assert len(cursor.fetchall()) == 2
    finally:
        handler.close_all()
    assert within.names == ["db.connect", "db.create.t", "db.insert.t", "db.select.t"]
    assert attributes(within.one("db.insert.t"))["db.rows"] == 2
    assert "db.rows" not in attributes(within.one("db.select.t")), "SQLite does not know before it has read them"
    assert attributes(within.one("db.select.t"))["db.system"] == "sqlite"


class TestHost:
    """A traced connection behaves as before."""

    def test_an_execute_wrapper_of_the_user_is_removed_again(self, within: Spans) -> None:
        seen = []

        def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            seen.append(sql)
            return execute(sql, params, many, context)

        before = list(connection.execute_wrappers)
        with connection.execute_wrapper(wrapper):
            User.objects.exists()
        User.objects.exists()
        assert len(seen) == 1
        assert connection.execute_wrappers == before
        assert len(within.named("db.select.auth_user")) == 2

    def test_a_wrapper_added_before_the_connection_opens(self, within: Spans) -> None:
        handler = a_connection()

        def blocker(*args: Any) -> Any:
            raise DatabaseError("blocked")

        try:
            fresh = handler["default"]
            with (
                fresh.execute_wrapper(blocker),
                pytest.raises(DatabaseError, match="blocked"),
                fresh.cursor() as cursor,
            ):
                cursor.execute("SELECT 1")
            with fresh.cursor() as cursor:
                cursor.execute("SELECT 1")
                assert cursor.fetchone() == (1,)
        finally:
            handler.close_all()

    def test_captured_and_counted_queries(self, within: Spans, django_assert_num_queries: Any) -> None:
        with CaptureQueriesContext(connection) as captured, django_assert_num_queries(1):
            User.objects.exists()
        assert len(captured) == 1
        with override_settings(DEBUG=True):
            User.objects.exists()

    def test_reconnecting(self, within: Spans) -> None:
        def work() -> None:
            with trace.use_span(root):
                for _ in range(2):
                    User.objects.exists()
                    connections.close_all()

        root = trace.get_current_span()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert within.names == ["db.connect", "db.select.auth_user"] * 2

    def test_uninstall_and_install_again(self, within: Spans) -> None:
        from django_tracing.instrumentation import database

        before = list(connection.execute_wrappers)
        database.uninstall()
        try:
            assert connection.execute_wrappers == []
            User.objects.exists()
            assert within.names == []
        finally:
            database.install()
            database.install()
        assert connection.execute_wrappers == before
        User.objects.exists()
        assert within.names == ["db.select.auth_user"]

    def test_connections_of_other_threads_after_uninstall(self, within: Spans) -> None:
        from django_tracing.instrumentation import database

        root = trace.get_current_span()
        opened, uninstalled, installed = threading.Event(), threading.Event(), threading.Event()
        counts: list[int] = []

        def work() -> None:
            with trace.use_span(root), connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                opened.set()
                uninstalled.wait(10)
                cursor.execute("SELECT 1")
                connection.rollback()
                counts.append(len(within))
                installed.wait(10)
                cursor.execute("SELECT 1")
                counts.append(len(within))
                cursor.close()
                connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert opened.wait(10)
            database.uninstall()
            uninstalled.set()
        finally:
            while not counts and thread.is_alive():
                thread.join(0.01)
            database.install()
            installed.set()
            thread.join()
        assert counts == [2, 3], "db.connect is the first"

    def test_a_wrapper_around_this_apps_patch_is_kept(self, within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        from django_tracing.instrumentation import database

        ours = BaseDatabaseWrapper.commit
        calls = []

        def theirs(self: Any) -> None:
            calls.append(1)
            ours(self)

        handler = a_connection()
        lite = handler["lite"]
        try:
            with lite.cursor() as cursor:
                cursor.execute("SELECT 1")
            within.clear()
            with monkeypatch.context() as patch:
                patch.setattr(BaseDatabaseWrapper, "commit", theirs)
                database.uninstall()
                lite.commit()
                assert BaseDatabaseWrapper.commit is theirs
                assert within.names == []
                database.install()
                lite.commit()
                assert within.names == ["db.commit"], "once, not once for each time it was installed"
            lite.commit()
            assert within.names == ["db.commit", "db.commit"]
            assert len(calls) == 2
        finally:
            handler.close_all()

    def test_uninstalling_restores_everything(self) -> None:
        from django.db.backends.utils import CursorWrapper

        from django_tracing.instrumentation import database

        places = [(BaseDatabaseWrapper, "connect"), (BaseDatabaseWrapper, "commit")]
        places += [(BaseDatabaseWrapper, "rollback"), (CursorWrapper, "callproc")]
        database.uninstall()
        try:
            for owner, name in places:
                assert not getattr(owner, name).__code__.co_filename.endswith("instrumentation/database.py")
        finally:
            database.install()
        for owner, name in places:
            assert getattr(owner, name).__code__.co_filename.endswith("instrumentation/database.py")

    def test_a_closed_connection_is_not_opened_to_describe_it(self) -> None:
        from django_tracing.instrumentation import database

        opened = []

        def work() -> None:
            connections["default"].get_autocommit  # noqa: B018 - created, not opened
            database.uninstall()
            database.install()
            opened.append(connections["default"].connection)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert opened == [None]

    def test_a_renamed_database(self, within: Spans, tmp_path: Path) -> None:
        """The test runner renames the database of an existing connection."""
        handler = a_connection()
        lite = handler["lite"]
        names = [str(tmp_path / "lite.sqlite3"), str(tmp_path / "renamed.sqlite3")]
        try:
            for name in names:
                lite.close()
                lite.settings_dict["NAME"] = name
                with lite.cursor() as cursor:
                    cursor.execute("SELECT 1")
        finally:
            handler.close_all()
        # The file's name only: its folder may contain a user's name.
        assert [attributes(span)["db.name"] for span in within] == ["lite.sqlite3"] * 2 + ["renamed.sqlite3"] * 2

    @pytest.mark.parametrize(
        ("cursor", "vendor", "rows"),
        [
            ({"rowcount": 3, "description": (("id",),)}, "mysql", 3),
            ({"rowcount": 2**64 - 1, "description": None}, "mysql", None),
            ({"rowcount": -1, "description": None}, "postgresql", None),
            ({"rowcount": 0, "description": (("id",),)}, "oracle", None),
            ({"rowcount": 4, "description": None}, "oracle", 4),
            ({}, "microsoft", None),
        ],
    )
    def test_other_vendors(self, within: Spans, cursor: dict[str, Any], vendor: str, rows: int | None) -> None:
        """A stand-in imitates each driver, which would need its own server."""
        from types import SimpleNamespace

        from django_tracing.instrumentation import database

        pool = SimpleNamespace(opened=2, busy=1)  # like oracledb's, which has no get_stats()
        settings_dict = {"NAME": "shop", "USER": "u", "HOST": "db.local", "PORT": ""}
        stub = SimpleNamespace(vendor=vendor, alias="other", settings_dict=settings_dict, pool=pool)
        stub.connection = object()
        context = {"connection": stub, "cursor": SimpleNamespace(**cursor)}
        assert database._execute(lambda *args: "done", "SELECT id FROM t", None, False, context) == "done"
        got = attributes(within.one("db.select.t"))
        assert got.get("db.rows") == rows
        assert got["db.system"] == {"microsoft": "mssql"}.get(vendor, vendor)
        ports = {"mysql": 3306, "oracle": 1521, "postgresql": 5432, "microsoft": 1433}
        assert got["net.peer.port"] == ports[vendor]
        assert "db.pool.size" not in got

    def test_an_error_of_this_app_loses_only_a_span(self, within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("a bug in this app")

        for place in ("describe_sql", "_static_attributes"):
            with monkeypatch.context() as patch:
                patch.setattr(f"django_tracing.instrumentation.database.{place}", broken)
                clear_caches()
                assert User.objects.count() == 0


PLACES = (
    "SELECT {}",
    "SELECT * FROM (VALUES ({})) AS t (x) WHERE x = {}",
    "SELECT 1 WHERE {} IN ({}, {})",
    "SELECT count(*) /* {} */ FROM auth_user WHERE username::text = {}::text",
    "SELECT no_such_column, {} FROM auth_user",
    "SELECT {}::integer",
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    secret=st.text(st.characters(codec="utf-8", exclude_characters="\x00%"), min_size=6, max_size=30).filter(
        lambda text: text.strip(" ?*'\"") == text and not any(text.lower() in place.lower() for place in PLACES)
    ),
    place=st.sampled_from(PLACES),
    quoting=st.sampled_from(["standard", "dollar", "escape"]),
)
def test_no_literal_of_a_statement_or_its_error_is_in_its_span(
    within: Spans, secret: str, place: str, quoting: str
) -> None:
    within.clear()
    marked = f"zq{secret}qz"  # unlike anything that a statement contains otherwise
    if quoting == "dollar" and "$" not in marked:
        literal = f"$tag${marked}$tag$"
    elif quoting == "escape":
        literal = "E'" + marked.replace("\\", "\\\\").replace("'", "\\'") + "'"
    else:
        literal = "'" + marked.replace("'", "''") + "'"
    comment_safe = place.replace("/* {} */", "" if "*/" in literal or "/*" in literal else "/* {} */")
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(comment_safe.replace("{}", literal))
    except DatabaseError:
        pass
    exported = "".join(span.to_json() for span in within)
    assert marked not in exported
    assert marked.encode("unicode_escape").decode() not in exported
    assert "zq" not in exported


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    number=st.one_of(
        st.integers(10**7, 10**17), st.decimals(10**7, 10**12, places=4).filter(lambda number: number % 1 != 0)
    ),
    place=st.sampled_from((*PLACES, "SELECT -{}, {}e5, 1+{}", "SELECT ARRAY[{}, {}]", "SELECT {}::smallint")),
    as_parameter=st.booleans(),
)
def test_no_number_is_in_its_span(within: Spans, number: Any, place: str, as_parameter: bool) -> None:
    within.clear()
    # A few digits may occur in an id or a time by chance, but not this many.
    digits = str(number).partition(".")[0]
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if as_parameter and "/*" not in place:
                cursor.execute(place.replace("{}", "%s"), [number] * place.count("{}"))
            else:
                cursor.execute(place.replace("{}", str(number)))
    except DatabaseError:
        pass
    for span in within:
        assert digits not in str(dict(span.attributes or {}))
        assert digits not in str([dict(event.attributes or {}) for event in span.events])
        assert digits not in str(span.status.description)
