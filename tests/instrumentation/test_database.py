"""SQL through Django's connections to real databases, as spans."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Group, User
from django.db import DatabaseError, connection, connections, transaction
from django.db.utils import ConnectionHandler, DataError, IntegrityError
from django.test.utils import CaptureQueriesContext, override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from example_project.servers import database_settings
from tests.conftest import Spans

pytestmark = pytest.mark.django_db

tracer = trace.get_tracer("tests")


@pytest.fixture
def within(spans: Spans) -> Iterator[Spans]:
    """A trace, whose finished spans do not hold its root yet."""
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

    def test_executemany_takes_an_iterator_unread(self, within: Spans) -> None:
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

    def test_a_server_side_cursor(self, within: Spans) -> None:
        User.objects.create(username="x")
        within.clear()
        with transaction.atomic():
            assert len(list(User.objects.iterator())) == 1
        assert within.one("db.select.auth_user")

    def test_copy_works(self, within: Spans) -> None:
        with connection.cursor() as cursor, cursor.copy("COPY auth_group (name) FROM STDIN") as copy:
            copy.write_row(("copied",))
        assert Group.objects.filter(name="copied").exists()

    def test_the_span_is_a_child_of_the_current_one_also_across_threads(self, within: Spans) -> None:
        async def query() -> None:
            await User.objects.filter(username="x").aexists()
            from asgiref.sync import sync_to_async

            await sync_to_async(connections.close_all)()

        asyncio.run(query())
        span = within.one("db.select.auth_user")
        assert span.parent == trace.get_current_span().get_span_context()


class TestErrors:
    def test_a_unique_violation_has_no_values(self, within: Spans) -> None:
        User.objects.create(username="very-private-name")
        within.clear()
        with pytest.raises(IntegrityError, match="very-private-name"), transaction.atomic():
            User.objects.create(username="very-private-name")
        span = within.one("db.insert.auth_user")
        assert span.status.status_code is StatusCode.ERROR
        (event,) = span.events
        said = str(dict(event.attributes or {})) + str(span.status.description)
        assert "very-private-name" not in said
        assert "auth_user_username_key" in said
        assert dict(event.attributes or {})["exception.type"].endswith("UniqueViolation") or "IntegrityError" in said

    def test_bad_input_has_no_values(self, within: Spans) -> None:
        with pytest.raises(DataError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 'private text'::integer")
        (span,) = [span for span in within if span.name == "db.select"]
        assert "private text" not in str(span.to_json())


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


class TestNotTraced:
    def test_outside_a_trace_nothing_becomes_a_root(self, spans: Spans) -> None:
        list(User.objects.all())
        with transaction.atomic():
            pass
        assert spans.names == []

    def test_not_sampled(self, spans: Spans) -> None:
        context = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0))
        with trace.use_span(trace.NonRecordingSpan(context)):
            list(User.objects.all())
        assert spans.names == []

    def test_connecting_makes_no_span(self, within: Spans) -> None:
        other = ConnectionHandler(
            {"default": {**database_settings(os.environ["TEST_POSTGRES_URL"]), "TIME_ZONE": None}}
        )
        try:
            with other["default"].cursor() as cursor:
                cursor.execute("SELECT 1")
        finally:
            other.close_all()
        assert within.names == ["db.select"], "set_config and its like are Django's own"


def a_connection(**options: Any) -> Any:
    handler = ConnectionHandler(
        {
            "default": {**database_settings(os.environ["TEST_POSTGRES_URL"]), **options},
            "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
        }
    )
    return handler


class TestOncePerStatement:
    """Upstream's psycopg instrumentation is on in these tests, as by default."""

    @pytest.mark.parametrize("options", [{}, {"OPTIONS": {"pool": True}}, {"OPTIONS": {"server_side_binding": True}}])
    def test_through_django(self, within: Spans, options: dict[str, Any]) -> None:
        handler = a_connection(**options)
        try:
            for _ in range(2):
                with handler["default"].cursor() as cursor:
                    cursor.execute("SELECT %s", ["x"])
                handler["default"].close()
        finally:
            pool = handler["default"].pool
            handler.close_all()
            if pool:
                handler["default"].close_pool()
        assert within.names == ["db.select", "db.select"]
        if "pool" in options.get("OPTIONS", {}):
            got = attributes(within.named("db.select")[0])
            assert got["db.pool.size"] >= 1
            assert got["db.pool.available"] >= 0
            assert got["db.pool.waiting"] == 0

    def test_psycopg_by_itself_is_upstreams(self, within: Spans) -> None:
        with psycopg.connect(os.environ["TEST_POSTGRES_URL"]) as raw:
            raw.execute("SELECT 'a secret', 42 FROM pg_class LIMIT 0")
        (span,) = list(within)
        assert span.instrumentation_scope.name == "opentelemetry.instrumentation.psycopg"  # type: ignore[union-attr]
        assert attributes(span)["db.statement"] == "SELECT ?, ? FROM pg_class LIMIT ?"
        assert attributes(span)["operation.type"] == "database"

    def test_psycopg_by_itself_outside_a_trace_makes_no_root(self, spans: Spans) -> None:
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
    assert within.names == ["db.create.t", "db.insert.t", "db.select.t"]
    assert attributes(within.one("db.insert.t"))["db.rows"] == 2
    assert "db.rows" not in attributes(within.one("db.select.t")), "SQLite does not know before it has read them"
    assert attributes(within.one("db.select.t"))["db.system"] == "sqlite"


class TestHost:
    """Django's own ways with a connection stay as they are."""

    def test_a_users_execute_wrapper_comes_off_again(self, within: Spans) -> None:
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

    def test_a_wrapper_put_on_before_the_connection_opens(self, within: Spans) -> None:
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
        assert within.names == ["db.select.auth_user"] * 2

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

    def test_our_own_fault_costs_a_span_only(self, within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("a bug of ours")

        for place in ("describe_sql", "_static_attributes"):
            with monkeypatch.context() as patch:
                patch.setattr(f"django_tracing.instrumentation.database.{place}", broken)
                assert User.objects.count() == 0


PLACES = (
    "SELECT {}",
    "SELECT * FROM (VALUES ({})) AS t (x) WHERE x = {}",
    "SELECT 1 WHERE {} IN ({}, {})",
    "SELECT count(*) /* {} */ FROM auth_user WHERE username::text = {}::text",
    "SELECT no_such_column, {} FROM auth_user",
    "SELECT {}::integer",
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    marked = f"zq{secret}qz"  # so that it is nothing a statement holds anyway
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
