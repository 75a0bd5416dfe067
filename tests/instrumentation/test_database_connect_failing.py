"""Connecting to databases that are down or refuse the password: a failed span, and no secret in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db.utils import OperationalError
from django.test import Client
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from django_tracing.export.wire import encode_spans
from django_tracing.spans import runtime
from tests.conftest import Spans
from tests.instrumentation.databases import DOWN, attributes, database, sqlite

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("postgres_url")]

tracer = trace.get_tracer("tests")


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
    @pytest.mark.urls("tests.instrumentation.databases")
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


@pytest.mark.urls("tests.instrumentation.databases")
@pytest.mark.usefixtures("of_either_kind")
class TestSecrets:
    """The password is in no exported byte, however connecting fails."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"PASSWORD": SECRET, **DOWN},
            {"PASSWORD": SECRET, "HOST": f"postgresql://ann:{SECRET}@db.invalid/shop"},
            {"PASSWORD": SECRET, "HOST": f"ann/{SECRET}@db.invalid"},
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
