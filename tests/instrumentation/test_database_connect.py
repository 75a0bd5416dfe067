"""Connecting to real databases, as spans: ``db.connect``, and ``db.pool.wait`` where a pool gives the connection."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import time_ns
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.management import BaseCommand, call_command
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from django.db.backends.sqlite3.base import DatabaseWrapper as SQLite
from django.db.utils import ConnectionHandler, OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.functional import cached_property
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing.export.wire import encode_spans
from django_tracing.instrumentation import commands
from django_tracing.semconv.categories import category_of
from django_tracing.spans import SCOPE_NAME, clear_caches, runtime
from example_project.servers import database_settings
from tests.conftest import Spans

pytestmark = pytest.mark.django_db

tracer = trace.get_tracer("tests")

#: What the views ask.
_handler: list[ConnectionHandler] = []


def ask() -> None:
    """One query on a connection that is opened for it and closed."""
    ours = _handler[0]["default"]
    try:
        with ours.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        ours.close()


def view(request: HttpRequest) -> HttpResponse:
    ask()
    return HttpResponse()


async def async_view(request: HttpRequest) -> HttpResponse:
    await sync_to_async(ask)()
    return HttpResponse()


urlpatterns = [path("sync/", view), path("async/", async_view)]


@contextmanager
def database(**changes: Any) -> Iterator[Any]:
    """A connection of its own to the tests' PostgreSQL, closed at the end, with its pool."""
    with ExitStack() as stack:
        handler = ConnectionHandler(
            {"default": {**database_settings(os.environ["TEST_POSTGRES_URL"]), **changes}},
        )
        ours = handler["default"]
        if (changes.get("OPTIONS") or {}).get("pool"):
            stack.callback(ours.close_pool)
        stack.callback(handler.close_all)
        _handler[:] = [handler]
        yield ours


@contextmanager
def sqlite(name: str) -> Iterator[Any]:
    handler = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": name}})
    try:
        yield handler["default"]
    finally:
        handler.close_all()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan, spans: Spans) -> str:
    (name,) = [
        each.name for each in spans if each.context and span.parent and each.context.span_id == span.parent.span_id
    ]
    return name


@pytest.fixture
def within(spans: Spans, postgres_url: str) -> Iterator[Spans]:
    with tracer.start_as_current_span("root"):
        spans.clear()
        yield spans


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

    def test_without_a_database_s_name_there_is_no_pool(self, within: Spans) -> None:
        """As Django connects to create the test database."""
        with database(OPTIONS={"pool": True}) as ours:
            with ours._nodb_cursor() as cursor:
                cursor.execute("SELECT 1")
            assert cursor.db.alias == NO_DB_ALIAS
        assert within.names == ["db.connect", "db.select"]


DOWN = {"HOST": "127.0.0.1", "PORT": "1", "OPTIONS": {"connect_timeout": 2}}


class TestFailing:
    def test_a_database_that_is_down(self, within: Spans) -> None:
        with database(**DOWN) as ours:
            for _ in range(2):
                with pytest.raises(OperationalError), ours.cursor():
                    pass
        assert within.names == ["db.connect", "db.connect"]
        for span in within:
            assert span.status.status_code is StatusCode.ERROR
            assert str(span.status.description).startswith("psycopg.OperationalError: connection failed")
            got = attributes(span)
            assert got["error.type"] == "psycopg.OperationalError"
            assert (got["net.peer.name"], got["net.peer.port"], got["db.operation"]) == ("127.0.0.1", 1, "connect")
            (event,) = span.events
            assert dict(event.attributes or {})["exception.type"] == "psycopg.OperationalError"

    def test_a_pool_whose_database_is_down(self, within: Spans) -> None:
        options = {**DOWN["OPTIONS"], "pool": {"timeout": 0.3}}  # type: ignore[dict-item]
        with database(**{**DOWN, "OPTIONS": options}) as ours, pytest.raises(OperationalError), ours.cursor():
            pass
        got = attributes(within.one("db.pool.wait"))
        assert got["error.type"] == "psycopg_pool.PoolTimeout"
        assert got["db.pool.available"] == 0

    def test_a_sqlite_file_that_cannot_be_opened(self, within: Spans, tmp_path: Path) -> None:
        path = str(tmp_path / "ada.lovelace" / "missing" / "x.sqlite3")
        with sqlite(path) as lite, pytest.raises(OperationalError):
            lite.ensure_connection()
        span = within.one("db.connect")
        assert attributes(span)["error.type"] == "sqlite3.OperationalError"
        assert "unable to open database file" in str(span.status.description)
        assert "ada.lovelace" not in str(span.status.description)

    @pytest.mark.parametrize("url", ["/sync/", "/async/"])
    @pytest.mark.urls(__name__)
    def test_the_request_names_it(self, spans: Spans, postgres_url: str, url: str) -> None:
        with database(**DOWN):
            response = Client(raise_request_exception=False).get(url)
        assert response.status_code == 500
        assert spans.names == ["db.connect", f"GET {url}"]
        request = spans.one(f"GET {url}")
        assert "django.db.utils.OperationalError: connection failed" in str(request.status.description)
        assert spans.one("db.connect").parent == request.get_span_context()

    def test_the_error_is_the_one_that_was_raised(self, within: Spans) -> None:
        raised = sqlite3.OperationalError("locked")

        def fail(params: Any) -> None:
            raise raised

        with sqlite(":memory:") as lite:
            lite.get_new_connection = fail
            with pytest.raises(sqlite3.OperationalError) as caught:
                lite.connect()
        assert caught.value is raised


SECRET = "hunter2Zq81Passw0rd"


@pytest.fixture(scope="module")
def ann(postgres_url: str) -> Iterator[str]:
    """A user whom the server asks for a password."""
    with psycopg.connect(postgres_url, autocommit=True) as raw:
        (file,) = raw.execute("SHOW hba_file").fetchone() or ("",)
        rules = Path(str(file))
        if not os.access(rules, os.W_OK):
            pytest.skip("the server is another machine's")
        before = rules.read_text()
        raw.execute("CREATE ROLE ann LOGIN PASSWORD 'another'")
        try:
            rules.write_text(f"local all ann scram-sha-256\nhost all ann all scram-sha-256\n{before}")
            raw.execute("SELECT pg_reload_conf()")
            while _is_let_in(postgres_url, "ann"):
                raw.execute("SELECT pg_sleep(0.01)")
            yield "ann"
        finally:
            rules.write_text(before)
            raw.execute("SELECT pg_reload_conf()")
            raw.execute("DROP ROLE ann")


def _is_let_in(url: str, user: str) -> bool:
    try:
        psycopg.connect(url, user=user, password="wrong").close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(params=["our spans", "the SDK's"])
def of_either_kind(request: pytest.FixtureRequest) -> Iterator[None]:
    before = runtime.current
    if request.param != "our spans":
        runtime.use(before.replace(factory=None))
    yield
    runtime.use(before)


@pytest.mark.urls(__name__)
@pytest.mark.usefixtures("of_either_kind")
class TestSecrets:
    """The password is in no exported byte, however connecting fails."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"PASSWORD": SECRET, **DOWN},
            {"PASSWORD": SECRET, "HOST": f"postgresql://ann:{SECRET}@db.invalid/shop"},
            {"PASSWORD": SECRET, "PORT": SECRET},
            {"PASSWORD": SECRET, "NAME": "no_such_database"},
            {"PASSWORD": SECRET, "OPTIONS": {SECRET: 1}},
            {"PASSWORD": SECRET, "OPTIONS": {"sslmode": SECRET}},
            {"PASSWORD": SECRET, "OPTIONS": {"options": f"-c {SECRET}=1"}},
            {"PASSWORD": SECRET, "OPTIONS": {"conninfo": f"postgresql://ann:{SECRET}"}},
            {"PASSWORD": SECRET, "OPTIONS": {"conninfo": f"host=x password '{SECRET}"}},
            {"PASSWORD": SECRET, "OPTIONS": {"passfile": f"/tmp/{SECRET}"}, "HOST": "127.0.0.1", "PORT": "1"},
            {"PASSWORD": SECRET, "HOST": "127.0.0.1", "PORT": "1", "OPTIONS": {"pool": {"timeout": 0.1}}},
            {"PASSWORD": SECRET, "OPTIONS": {"pool": {SECRET: 1}}},
            {"PASSWORD": SECRET, "OPTIONS": {"service": SECRET}, "NAME": ""},
        ],
        ids=str,
    )
    def test_of_any_wrong_setting(self, spans: Spans, postgres_url: str, changes: dict[str, Any]) -> None:
        with database(**changes) as ours:
            response = Client(raise_request_exception=False).get("/sync/")
            ours.settings_dict["OPTIONS"] = {}
        assert response.status_code == 500
        (failed,) = [span for span in spans if span.name in ("db.connect", "db.pool.wait")]
        assert failed.status.status_code is StatusCode.ERROR
        for span in spans:
            assert SECRET.encode() not in encode_spans([span]), span.to_json()

    @pytest.mark.parametrize("pool", [None, {"timeout": 0.3}], ids=str)
    def test_that_is_refused(self, spans: Spans, ann: str, pool: Any) -> None:
        with database(USER=ann, PASSWORD=SECRET, OPTIONS={"pool": pool} if pool else {}):
            Client(raise_request_exception=False).get("/sync/")
        (failed,) = [span for span in spans if span.name in ("db.connect", "db.pool.wait")]
        assert attributes(failed)["db.user"] == "ann"
        if not pool:
            assert 'password authentication failed for user "ann"' in str(failed.status.description)
        for span in spans:
            assert SECRET.encode() not in encode_spans([span]), span.to_json()

    def test_in_a_driver_s_own_message(
        self, spans: Spans, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """None of the drivers here does it; others print the address that they were given."""

        def connect(**params: Any) -> Any:
            raise psycopg.OperationalError(
                f"no answer from postgresql://ann:{params['password']}@10.0.0.5/shop (host=10.0.0.5 "
                f"password={params['password']})"
            )

        with database(PASSWORD=SECRET) as ours:
            monkeypatch.setattr(ours.Database, "connect", connect)
            Client(raise_request_exception=False).get("/sync/")
        assert "no answer from" in str(spans.one("db.connect").status.description)
        for span in spans:
            assert SECRET.encode() not in encode_spans([span]), span.to_json()


class TestWhereTheyAre:
    @pytest.mark.parametrize("options", [{}, {"pool": True}], ids=str)
    @pytest.mark.parametrize("url", ["/sync/", "/async/"])
    @pytest.mark.urls(__name__)
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

    def test_in_tasks_that_run_in_a_thread(self, within: Spans) -> None:
        with database():
            asyncio.run(sync_to_async(ask, thread_sensitive=False)())
        assert within.one("db.connect").parent == trace.get_current_span().get_span_context()


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
