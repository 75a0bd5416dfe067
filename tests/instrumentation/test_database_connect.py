"""Connecting to real databases, as spans: ``db.connect``, and ``db.pool.wait`` where a pool gives the connection."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from time import time_ns
from typing import Any

import django
import pytest
from asgiref.sync import sync_to_async
from django.core.management import BaseCommand, call_command
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from django.db.backends.sqlite3.base import DatabaseWrapper as SQLite
from django.db.utils import ConnectionHandler, OperationalError
from django.test import AsyncClient, Client, override_settings
from django.utils.functional import cached_property
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing.export.local import span_row
from django_tracing.instrumentation import commands
from django_tracing.semconv.categories import category_of
from django_tracing.spans import SCOPE_NAME, clear_caches, runtime
from django_tracing.traces.analysis.routes import routes_of
from django_tracing.traces.analysis.waterfall import waterfall
from django_tracing.traces.model import Trace, span_of
from tests.conftest import Spans
from tests.instrumentation.databases import DOWN, ask, attributes, database, parent_of, sqlite

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("postgres_url")]

tracer = trace.get_tracer("tests")


class TestConnecting:
    def test_a_new_connection(self, within: Spans) -> None:
        with database() as ours, ours.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.execute("SELECT 2")
        assert within.names == ["db.connect", "db.select", "db.select"], "once, not for each query"
        span = within.one("db.connect")
        got = attributes(span)
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        assert span.parent == trace.get_current_span().get_span_context()
        assert {name: got.get(name) for name in ("operation.type", "db.operation", "db.system", "db.alias")} == {
            "operation.type": "database",
            "db.operation": "connect",
            "db.system": "postgresql",
            "db.alias": "default",
        }
        assert got["db.name"] == ours.settings_dict["NAME"]
        assert got["db.user"] == "postgres"
        assert got["net.peer.name"] == ours.settings_dict["HOST"]
        assert category_of("client", got, {}) == "sql"
        assert "db.statement" not in got, "by which queries are counted"
        assert not {name for name in got if name.startswith("db.pool")}

    def test_its_time_is_that_of_connecting(self, within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        moments = []
        with database() as ours:
            original = ours.Database.connect

            def connect(**params: Any) -> Any:
                moments.append(time_ns())
                opened = original(**params)
                moments.append(time_ns())
                return opened

            monkeypatch.setattr(ours.Database, "connect", connect)
            ours.ensure_connection()
        span = within.one("db.connect")
        assert span.start_time and span.end_time
        assert span.start_time <= moments[0] < moments[1] <= span.end_time

    @pytest.mark.parametrize("name", ["lite.sqlite3", ":memory:"])
    def test_sqlite(self, within: Spans, tmp_path: Path, name: str) -> None:
        with sqlite(name if name == ":memory:" else str(tmp_path / name)) as lite:
            lite.ensure_connection()
        if name == ":memory:":
            lite._close()  # Django keeps one in memory open
        got = attributes(within.one("db.connect"))
        assert (got["db.system"], got["db.name"]) == ("sqlite", name)

    @pytest.mark.parametrize(
        "options", [{}, {"CONN_MAX_AGE": None}, {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}], ids=str
    )
    def test_persistent_connections_connect_once(self, within: Spans, options: dict[str, Any]) -> None:
        with database(**options) as ours:
            for _ in range(3):
                with ours.cursor() as cursor:
                    cursor.execute("SELECT 1")
                if options:  # as Django does at the end of each request
                    ours.close_if_unusable_or_obsolete()
        assert within.names == ["db.connect", "db.select", "db.select", "db.select"]

    def test_a_lost_connection_is_opened_again(self, within: Spans) -> None:
        with database(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True) as ours, database(CONN_MAX_AGE=None) as other:
            with ours.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                (pid,) = cursor.fetchone()
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
            within.clear()
            ours.close_if_unusable_or_obsolete()
            with ours.cursor() as cursor:
                cursor.execute("SELECT 1")
        assert within.names == ["db.connect", "db.select"]

    def test_stable_names(self, within: Spans) -> None:
        from django_tracing.semconv.names import Convention

        before = runtime.use(runtime.current.replace(convention=Convention({"database"})))
        try:
            with database(OPTIONS={"pool": True}) as ours:
                ours.ensure_connection()
        finally:
            runtime.use(before)
        got = attributes(within.one("db.pool.wait"))
        assert got["db.operation.name"] == "pool.wait"
        assert got["db.system.name"] == "postgresql"
        assert "db.system" not in got


class TestBelow:
    @pytest.mark.parametrize("options", [{}, {"pool": True}], ids=str)
    def test_what_receivers_send_on_a_new_connection(self, within: Spans, options: dict[str, Any]) -> None:
        """Through Django's cursor, as MySQL's own statements: the first connection and the next alike."""

        def prepare(connection: Any, **kwargs: Any) -> None:
            if connection is ours:
                with connection.cursor() as cursor:
                    cursor.execute("SET search_path TO public")

        with database(OPTIONS=options) as ours:
            connection_created.connect(prepare)
            try:
                for _ in range(2):
                    with ours.cursor() as cursor:
                        cursor.execute("SELECT 1")
                    ours.close()
            finally:
                connection_created.disconnect(prepare)
        connecting = "db.pool.wait" if options else "db.connect"
        assert within.names == ["db.set", connecting, "db.select"] * 2
        for span, around in zip(within.named("db.set"), within.named(connecting), strict=True):
            assert span.parent == around.get_span_context()
        for span in within.named("db.select"):
            assert span.parent == trace.get_current_span().get_span_context()

    def test_what_drivers_send_themselves_makes_no_span(self, within: Spans) -> None:
        """Upstream's instrumentation of psycopg is on, and Django sets the time zone with psycopg's own cursor."""
        with database(TIME_ZONE="Asia/Tokyo", OPTIONS={"assume_role": "postgres"}) as ours:
            ours.ensure_connection()
            assert ours.connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
        assert within.names == ["db.connect"]

    @pytest.mark.parametrize("version", ["5.5.5-10.11.19-MariaDB", "8.4.3"])
    def test_mysql_asks_the_server_what_it_is(self, within: Spans, tmp_path: Path, version: str) -> None:
        """As Django's backend for MySQL does with its cached properties, here with SQLite behind them."""
        system = "mariadb" if "MariaDB" in version else "mysql"
        lite: Any = MySQL({**SQLITE, "NAME": str(tmp_path / "x"), "OPTIONS": {"factory": MySQLClient}}, "default")
        MySQLClient.version = version
        try:
            for _ in range(2):
                lite.ensure_connection()
                lite.close()
        finally:
            lite.close()
        assert within.names == ["db.select", "db.set", "db.connect", "db.set", "db.connect"]
        assert [attributes(span)["db.system"] for span in within] == [system] * 5


SQLITE = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3"}}).settings["default"]


class MySQLClient(sqlite3.Connection):
    version = ""

    def get_server_info(self) -> str:
        return self.version


class MySQL(SQLite):
    vendor = "mysql"

    @cached_property
    def mysql_server_data(self) -> dict[str, Any]:
        with self.temporary_connection() as cursor:
            cursor.execute("SELECT 1")
        return {"version": MySQLClient.version}

    @cached_property
    def mysql_is_mariadb(self) -> bool:
        return "mariadb" in self.mysql_server_data["version"].lower()

    def init_connection_state(self) -> None:
        assert self.mysql_server_data
        # No statement of SQLite's: it has gone through Django's cursor all the same.
        with self.cursor() as cursor, suppress(OperationalError):
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


class Oracle(SQLite):
    vendor = "oracle"
    path = ""

    @property
    def pool(self) -> object:
        return object()

    def get_connection_params(self) -> dict[str, Any]:
        params = {**super().get_connection_params(), "database": self.path}
        del params["pool"]
        return params


class TestPool:
    def test_waiting_is_told_apart_from_connecting(self, within: Spans) -> None:
        with database(OPTIONS={"pool": {"min_size": 1, "max_size": 3}}) as ours:
            ours.ensure_connection()
        assert within.names == ["db.pool.wait"]
        got = attributes(within.one("db.pool.wait"))
        assert got["db.operation"] == "pool.wait"
        assert got["operation.type"] == "database"
        assert category_of("client", got, {}) == "sql"
        assert got["db.pool.size"] >= 1
        assert {"db.pool.available", "db.pool.waiting", "net.peer.name", "db.name"} <= got.keys()
        assert "db.statement" not in got

    def test_the_time_it_waits_for_another_thread(self, within: Spans) -> None:
        """It lasts until the other thread returns its connection."""
        with database(OPTIONS={"pool": {"min_size": 1, "max_size": 1}}) as ours:
            ours.ensure_connection()
            asked, names = threading.Event(), []
            root = trace.get_current_span()

            def work() -> None:
                with trace.use_span(root):
                    asked.set()
                    ask()
                    names.extend(within.names)

            within.clear()
            thread = threading.Thread(target=work)
            thread.start()
            assert asked.wait(10)
            while not ours.pool.get_stats()["requests_waiting"]:
                thread.join(0.01)
                assert thread.is_alive()
            assert within.names == []
            with tracer.start_as_current_span("returned"):
                ours.close()
            thread.join(10)
        waited, returned = within.one("db.pool.wait"), within.one("returned")
        assert waited.start_time and waited.end_time and returned.start_time
        assert waited.start_time < returned.start_time < waited.end_time
        assert "db.select" in within.names

    def test_an_exhausted_pool(self, within: Spans) -> None:
        with database(OPTIONS={"pool": {"min_size": 1, "max_size": 1, "timeout": 0.1}}) as ours:
            ours.ensure_connection()
            within.clear()
            errors = []

            def work() -> None:
                with trace.use_span(root), pytest.raises(OperationalError) as caught:
                    ask()
                errors.append(caught.value)

            root = trace.get_current_span()
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(10)
        (span,) = list(within)
        assert span.name == "db.pool.wait"
        assert span.status.status_code is StatusCode.ERROR
        got = attributes(span)
        assert got["error.type"] == "psycopg_pool.PoolTimeout"
        assert (got["db.pool.size"], got["db.pool.available"]) == (1, 0)
        assert len(errors) == 1

    def test_a_wrong_pool_is_not_built_again_to_be_described(self, within: Spans) -> None:
        """A backend may fetch a short-lived password when it is asked for the connection's parameters."""
        asked = []
        with database(OPTIONS={"pool": {"min_size": 3, "max_size": 1}}) as ours:
            original = ours.get_connection_params
            ours.get_connection_params = lambda: asked.append(1) or original()
            with pytest.raises(ValueError, match="max_size"):
                ours.ensure_connection()
            ours.settings_dict["OPTIONS"]["pool"] = {}
        assert len(asked) == 2, "by Django: for the connection, and for the pool"
        assert attributes(within.one("db.pool.wait"))["error.type"] == "ValueError"

    def test_a_pool_of_another_kind(self, within: Spans, tmp_path: Path) -> None:
        """As oracledb's, which has no figures."""
        oracle: Any = Oracle({**SQLITE, "NAME": "xe", "OPTIONS": {"pool": True}}, "default")
        Oracle.path = str(tmp_path / "x")
        try:
            oracle.ensure_connection()
        finally:
            oracle.close()
        got = attributes(within.one("db.pool.wait"))
        assert got["db.system"] == "oracle"
        assert "db.pool.size" not in got

    def test_oracles_connect_string(self, within: Spans, tmp_path: Path) -> None:
        name = "ann/hunter2@//db.local:1521/shop"
        oracle: Any = Oracle({**SQLITE, "NAME": name, "OPTIONS": {"pool": True}}, "default")
        Oracle.path = str(tmp_path / "x")
        try:
            oracle.ensure_connection()
        finally:
            oracle.close()
        assert attributes(within.one("db.pool.wait"))["db.name"] == "//db.local:1521/shop"

    def test_without_a_database_s_name_there_is_no_pool(self, within: Spans) -> None:
        """As Django connects to create the test database."""
        with database(OPTIONS={"pool": True}) as ours:
            with ours._nodb_cursor() as cursor:
                cursor.execute("SELECT 1")
            assert cursor.db.alias == NO_DB_ALIAS
        assert within.names == ["db.connect", "db.select"]


class TestWhereTheyAre:
    @pytest.mark.parametrize("options", [{}, {"pool": True}], ids=str)
    @pytest.mark.parametrize("url", ["/sync/", "/async/"])
    @pytest.mark.urls("tests.instrumentation.databases")
    @override_settings(TRACING={"EXPORTER": "none", "LAYERS": "off", "RESPONSE_HEADERS": ["Server-Timing"]})
    def test_in_requests(self, spans: Spans, postgres_url: str, url: str, options: dict[str, Any]) -> None:
        with database(OPTIONS=options):
            response = asyncio.run(AsyncClient().get(url)) if url == "/async/" else Client().get(url)
        assert response.status_code == 200
        connecting = "db.pool.wait" if options else "db.connect"
        assert spans.names == [connecting, "db.select", f"GET {url}"]
        assert parent_of(spans.one(connecting), spans) == f"GET {url}"
        timing = response["Server-Timing"]
        assert 'desc="1 query"' in timing, "connecting is none"
        (dur,) = [part for part in timing.split(", ") if part.startswith("sql;")]
        longest = spans.one(connecting)
        assert longest.end_time and longest.start_time
        assert float(dur.split(";")[1].removeprefix("dur=")) * 1e6 + 10_000 >= longest.end_time - longest.start_time

    def test_in_commands(self, spans: Spans, postgres_url: str) -> None:
        class Command(BaseCommand):
            __module__ = "shop.management.commands.send_invoices"

            def handle(self, **options: Any) -> None:
                ask()

        with override_settings(TRACING={"EXPORTER": "none", "COMMANDS": ["send_invoices"]}), database():
            commands.install()
            try:
                call_command(Command())
            finally:
                commands.uninstall()
        assert parent_of(spans.one("db.connect"), spans) == "command.send_invoices"

    @pytest.mark.skipif(django.VERSION < (6, 0), reason="Django's tasks framework came with Django 6.0")
    def test_in_tasks(self, spans: Spans, postgres_url: str) -> None:
        from django.tasks import task

        with database(), tracer.start_as_current_span("root"):
            task(ask).enqueue()
        assert parent_of(spans.one("db.connect"), spans) == "task.run.ask"

    def test_in_threads_of_async_code(self, within: Spans) -> None:
        with database():
            asyncio.run(sync_to_async(ask, thread_sensitive=False)())
        assert within.one("db.connect").parent == trace.get_current_span().get_span_context()


class TestFigures:
    """Of a stored trace, as the pages, the toolbar and the commands show them."""

    def test_its_time_is_sql_and_it_is_no_repeated_query(self, spans: Spans, postgres_url: str) -> None:
        with database(), tracer.start_as_current_span("root"):
            for _ in range(6):
                ask()
        trace_ = Trace("0" * 32, [span_of(span_row(span)) for span in spans])
        sql = sum(span.duration for span in trace_.spans if span.name.startswith("db."))
        connecting = sum(span.duration for span in trace_.spans if span.name == "db.connect")
        assert connecting
        (route,) = routes_of([trace_])
        assert route.time_by_work["sql"] == sql
        shown = waterfall(trace_)
        assert shown.time_by_work["sql"] == sql
        assert [(row.span.name, row.count, row.n_plus_one) for row in shown.rows if row.folds] == [
            ("db.connect", 6, False),
            ("db.select", 6, True),
        ]


class TestNotTraced:
    def test_outside_a_trace(self, spans: Spans, postgres_url: str) -> None:
        with database(), trace.use_span(trace.INVALID_SPAN):
            ask()
        assert spans.names == []

    def test_not_sampled(self, spans: Spans, postgres_url: str) -> None:
        context = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0))
        with database(), trace.use_span(trace.NonRecordingSpan(context)):
            ask()
        assert spans.names == []

    def test_our_own_fault_costs_a_span_only(self, within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("a bug of ours")

        for place in ("_static_attributes", "_is_pooled", "_describe_connect", "_pool_figures"):
            with monkeypatch.context() as patch, database(OPTIONS={"pool": True}) as ours:
                patch.setattr(f"django_tracing.instrumentation.database.{place}", broken)
                clear_caches()
                ours.ensure_connection()
                assert ours.is_usable()

    def test_the_current_span_is_the_former_one_again(self, within: Spans) -> None:
        before = trace.get_current_span()
        with database() as ours:
            ours.ensure_connection()
        with database(**DOWN) as ours, pytest.raises(OperationalError):
            ours.ensure_connection()
        assert trace.get_current_span() is before

    def test_uninstalled(self, within: Spans) -> None:
        from django_tracing.instrumentation import database as instrumentation

        instrumentation.uninstall()
        try:
            with database() as ours:
                ours.ensure_connection()
                assert ours.execute_wrappers == []
        finally:
            instrumentation.install()
        assert [span.name for span in within if span.instrumentation_scope.name == SCOPE_NAME] == []  # type: ignore[union-attr]
