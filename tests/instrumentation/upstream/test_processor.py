"""Test that OpenTelemetry's instrumentations are enabled and disabled, make no roots, and that their spans are redacted."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import redis.asyncio
import requests
from django.core.cache import caches
from django.db import connection
from django.test import override_settings
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from psycopg import sql

from django_tracing.context.request import RequestState, incoming_id, with_request_state
from django_tracing.instrumentation.upstream import registry as upstream
from django_tracing.instrumentation.upstream.processor import UpstreamProcessor
from django_tracing.recording.sdk import ON_ENDING
from tests.conftest import Spans
from tests.e2e.processes import environment

tracer = trace.get_tracer("tests")


# ----- Enabling and disabling


def test_a_missing_instrumentation_is_skipped_silently(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert not upstream.is_available("no-such-instrumentation")
        assert upstream.install("no-such-instrumentation") is False
        upstream.uninstall("no-such-instrumentation")
    assert caplog.records == []


INSTRUMENTOR = """
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

class Instrumentor(BaseInstrumentor):
    def instrumentation_dependencies(self):
        return [{dependency!r}]
    def _instrument(self, **kwargs):
        raise AssertionError("its library is not there")
    def _uninstrument(self, **kwargs):
        raise AssertionError("it was never on")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder of additional packages."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    upstream._entry_points.cache_clear()


@pytest.mark.parametrize("dependency", ["no-such-library >= 1", "django < 1"])
def test_a_missing_library_or_another_version_is_skipped_without_an_error(
    dependency: str, installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"fake{abs(hash(dependency))}"
    (installed / f"{name}.py").write_text(INSTRUMENTOR.format(dependency=dependency))
    metadata = installed / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[opentelemetry_instrumentor]\n{name} = {name}:Instrumentor\n")
    upstream._entry_points.cache_clear()
    assert upstream.is_available(name)
    assert upstream.install(name) is False
    upstream.uninstall(name)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


def test_installing_is_idempotent_and_reversible() -> None:
    traced = requests.Session.send
    assert upstream.install("requests") is True
    assert requests.Session.send is traced
    upstream.uninstall("requests")
    try:
        assert requests.Session.send is not traced
        upstream.uninstall("requests")
        assert not RequestsInstrumentor().is_instrumented_by_opentelemetry
    finally:
        assert upstream.install("requests") is True
    assert RequestsInstrumentor().is_instrumented_by_opentelemetry


def test_an_instrumentation_enabled_elsewhere_is_used_and_stays_enabled(caplog: pytest.LogCaptureFixture) -> None:
    upstream.uninstall("requests")
    try:
        RequestsInstrumentor().instrument()
        theirs = requests.Session.send
        assert upstream.install("requests") is True
        assert requests.Session.send is theirs
        upstream.uninstall("requests")
        assert RequestsInstrumentor().is_instrumented_by_opentelemetry
    finally:
        RequestsInstrumentor().uninstrument()
        upstream.install("requests")
    assert caplog.records == []


LATER = """
import sys
import django
django.setup()
assert not {"requests", "httpx", "urllib3"} & set(sys.modules), "set-up imports no library"

from opentelemetry import trace
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
trace.get_tracer_provider().add_span_processor(
    SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name + "\\n"))
)
import requests
with trace.get_tracer("tests").start_as_current_span("request"):
    try:
        requests.get("http://localhost:9/", timeout=5)
    except requests.ConnectionError:
        pass
"""


def test_a_library_is_instrumented_on_import_and_not_imported_early() -> None:
    variables = environment(TRACING_SETTINGS='{"EXPORTER": "none"}')
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LATER], env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["http.get.localhost", "request"]


# ----- psycopg, used directly


INSTRUMENTATION_FIRST = """
import sys
import django
django.setup()
assert "redis" not in sys.modules
from opentelemetry.instrumentation.redis import RedisInstrumentor
assert "redis" in sys.modules
print(RedisInstrumentor().is_instrumented_by_opentelemetry)
"""


def test_a_library_that_its_instrumentation_imports_is_instrumented() -> None:
    """As Logfire imports it: when the library is imported, its instrumentation is not complete yet."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INSTRUMENTATION_FIRST],
        env=environment(TRACING_SETTINGS='{"EXPORTER": "none"}'),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert "could not be traced" not in done.stderr


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, autocommit=True) as connected:
        connected.execute("CREATE TEMPORARY TABLE people (id integer PRIMARY KEY, email text UNIQUE)")
        yield connected


def test_sql_of_psycopg_is_named_like_ours_and_has_no_literal(postgres: psycopg.Connection, spans: Spans) -> None:
    spans.clear()
    token = context_api.attach(with_request_state(RequestState("abc-1")))
    with tracer.start_as_current_span("request"):
        postgres.execute("INSERT INTO people VALUES (7, 'ada@example.com')")
        postgres.execute("select email from people where id = %s and email <> 'hunter2'", [7])
        postgres.execute(sql.SQL("DELETE FROM {} WHERE id = {}").format(sql.Identifier("people"), 7))
        postgres.execute("VALUES('hunter2')")
    context_api.detach(token)
    assert spans.names == ["db.insert.people", "db.select.people", "db.delete.people", "db.values", "request"]
    span = spans.one("db.select.people")
    assert span.kind is SpanKind.CLIENT
    assert span.attributes is not None
    assert span.attributes["db.statement"] == "select email from people where id = %s and email <> ?"
    assert span.attributes["db.operation"] == "select"
    assert span.attributes["db.sql.table"] == "people"
    assert span.attributes["db.system"] == "postgresql"
    assert span.attributes["operation.type"] == "database"
    assert span.attributes["correlation.id"] == "abc-1"
    sent = "".join(span.to_json() for span in spans)
    assert "hunter2" not in sent
    assert "ada@" not in sent


def test_an_error_of_psycopg_has_no_values(postgres: psycopg.Connection, spans: Spans) -> None:
    postgres.execute("INSERT INTO people VALUES (1, 'ada@example.com')")
    with tracer.start_as_current_span("request"), pytest.raises(psycopg.errors.UniqueViolation):
        postgres.execute("INSERT INTO people VALUES (2, %s)", ["ada@example.com"])
    span = spans.one("db.insert.people")
    assert span.status.status_code is StatusCode.ERROR
    assert span.events[0].attributes is not None
    message = span.events[0].attributes["exception.message"]
    assert 'duplicate key value violates unique constraint "people_email_key"' in str(message)
    assert "ada@" not in span.to_json()
    assert "DETAIL" not in span.to_json()


def test_psycopg_outside_a_trace_makes_no_root(postgres: psycopg.Connection, spans: Spans) -> None:
    postgres.execute("SELECT 1")
    assert spans.names == []


async def test_async_psycopg(spans: Spans, postgres_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url) as connected:
        await connected.execute("SELECT 1")
        assert spans.names == []
        with tracer.start_as_current_span("request"):
            await connected.execute("SELECT 'hunter2'")
    assert spans.names == ["db.select", "request"]
    assert "hunter2" not in spans.one("db.select").to_json()


@pytest.mark.django_db(transaction=True)
def test_a_statement_sent_by_django_is_one_span(spans: Spans) -> None:
    connection.close()
    with tracer.start_as_current_span("request"), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    assert [span.name for span in spans if span.name.startswith("db.select")] == ["db.select"]
    scope = spans.one("db.select").instrumentation_scope
    assert scope is not None
    assert scope.name == "django_tracing"


# ----- Redis, used directly


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_redis_commands_have_names_and_patterns_of_keys(client: redis.Redis, spans: Spans) -> None:
    client.set("session:hunter2", "hunter2")
    assert spans.names == [], "outside a trace there are no roots"
    with tracer.start_as_current_span("request"):
        assert client.get("session:hunter2") == b"hunter2"
        client.execute_command("GET session:hunter2")
        client.eval("return 'hunter2'", 0)
    assert spans.names == ["redis.get", "redis.get", "redis.eval", "request"]
    span = spans.named("redis.get")[0]
    assert span.attributes is not None
    assert span.attributes["operation.type"] == "cache"
    assert span.attributes["db.system"] == "redis"
    assert [
        span.attributes["db.statement"] for span in spans if span.attributes and "db.statement" in span.attributes
    ] == [
        "GET session:*",
        "GET",
        "EVAL",
    ]
    assert "hunter2" not in "".join(span.to_json() for span in spans)


def test_a_pipeline_is_one_span_with_a_short_name(client: redis.Redis, spans: Spans) -> None:
    with tracer.start_as_current_span("request"), client.pipeline() as pipeline:
        for number in range(100):
            pipeline.set(f"order-{number}", "hunter2")
        pipeline.execute()
    assert spans.names == ["redis.pipeline", "request"]
    span = spans.one("redis.pipeline")
    assert span.attributes is not None
    assert span.attributes["db.redis.pipeline_length"] == 100
    assert span.attributes["db.statement"] == "\n".join(["SET order-* ?"] * 50)


def test_pipelines_show_patterns_of_keys_and_scripts_their_name(client: redis.Redis, spans: Spans) -> None:
    with tracer.start_as_current_span("request"), client.pipeline(transaction=False) as pipeline:
        pipeline.hset("cart:4711", "card", "hunter2")
        pipeline.mget("blueprint:1", b"blueprint:2")
        pipeline.execute_command("FT.SEARCH", "people", "@password:hunter2")
        pipeline.eval("return redis.call('GET', 'hunter2')", 0)
        pipeline.execute(raise_on_error=False)
    span = spans.one("redis.pipeline")
    assert span.attributes is not None
    assert span.attributes["db.statement"] == "HSET cart:* ? ?\nMGET blueprint:* blueprint:*\nFT.SEARCH\nEVAL"
    assert "hunter2" not in "".join(span.to_json() for span in spans)


def test_an_async_pipeline_shows_patterns_of_keys(spans: Spans, redis_url: str) -> None:
    async def use() -> None:
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            with tracer.start_as_current_span("request"):
                async with client.pipeline() as pipeline:
                    await pipeline.set("session:hunter2", "hunter2").expire("session:hunter2", 60).execute()

    asyncio.run(use())
    span = spans.one("redis.pipeline")
    assert span.attributes is not None
    assert span.attributes["db.statement"] == "SET session:* ?\nEXPIRE session:* ?"


def test_pipelines_are_unchanged_when_disabled() -> None:
    traced = redis.client.Pipeline.__dict__["execute"]
    upstream.uninstall("redis")
    try:
        assert redis.client.Pipeline.__dict__["execute"] is not traced
        assert not hasattr(redis.client.Pipeline.__dict__["execute"], "__wrapped__")
    finally:
        assert upstream.install("redis")


def test_async_redis(spans: Spans, redis_url: str) -> None:
    async def use() -> None:
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            await client.set("one", "hunter2")
            with tracer.start_as_current_span("request"):
                await client.get("one")

    asyncio.run(use())
    assert spans.names == ["redis.get", "request"]


def test_an_error_of_redis_has_no_values(client: redis.Redis, spans: Spans) -> None:
    client.set("text", "hunter2")
    with tracer.start_as_current_span("request"), pytest.raises(redis.ResponseError):
        client.execute_command("EVAL", "return redis.error_reply('ERR password=hunter2')", 0)
    span = spans.one("redis.eval")
    assert span.status.status_code is StatusCode.ERROR
    assert "hunter2" not in span.to_json()


@pytest.mark.usefixtures("redis_url")
def test_the_cache_over_redis_is_one_span(spans: Spans) -> None:
    caches["redis"].set("blueprint:1", "hunter2")
    with tracer.start_as_current_span("request"):
        caches["redis"].get("blueprint:1")
    assert spans.names == ["cache.get.blueprint:*", "request"]


def test_opentelemetrys_suppression_still_works(client: redis.Redis, spans: Spans) -> None:
    with tracer.start_as_current_span("request"), suppress_instrumentation():
        client.get("one")
    assert spans.names == ["request"]


# ----- Attributes set by any instrumentation


def ended(name: str, attributes: dict[str, Any], scope: str = "opentelemetry.instrumentation.some") -> None:
    trace.get_tracer(scope).start_span(name, kind=SpanKind.CLIENT, attributes=attributes).end()


@pytest.mark.parametrize(
    ("attributes", "name", "expected"),
    [
        pytest.param(
            {"db.system": "mysql", "db.statement": 'SELECT "hunter2" FROM t'},
            "db.select.t",
            {"db.statement": "SELECT ? FROM t", "db.operation": "select", "operation.type": "database"},
            id="mysql-double-quotes",
        ),
        pytest.param(
            {"db.system.name": "postgresql", "db.query.text": "SELECT 'hunter2' FROM a JOIN b ON true"},
            "db.select.a",
            {"db.query.text": "SELECT ? FROM a JOIN b ON true", "db.sql.tables": ("a", "b")},
            id="stable-names",
        ),
        pytest.param(
            {"db.system": "mongodb", "db.statement": 'find {"email": "hunter2"}', "db.name": "shop"},
            "as it was",
            {"operation.type": "database", "db.name": "shop"},
            id="document-store",
        ),
        pytest.param(
            {"db.system": "memcached", "db.statement": "get session:hunter2"},
            "memcached.get",
            {"db.statement": "GET ?", "operation.type": "cache"},
            id="memcached",
        ),
        pytest.param(
            {"db.system": "memcached", "db.statement": "get search:\nhunter2\u2028hunter2 x"},
            "memcached.get",
            {"db.statement": "GET ? ? ? ?", "operation.type": "cache"},
            id="memcached-line-breaks",
        ),
        pytest.param(
            {
                "db.system": "redis",
                "db.statement": "FT.SEARCH ? ?",
                "redis.search.query": "hunter2",
                "redis.search.xdoc_doc:1.password": "hunter2",
            },
            "redis.ft.search",
            {"db.statement": "FT.SEARCH ? ?"},
            id="redis-search",
        ),
        pytest.param(
            {"db.system": "postgresql", "db.statement": "SELECT 1", "db.statement.parameters": "('hunter2',)"},
            "db.select",
            {"db.statement": "SELECT ?"},
            id="parameters",
        ),
        pytest.param(
            {"db.system": "postgresql", "db.statement": "SELECT 'hunter2"},
            "db.select",
            {"db.statement": "SELECT ?"},
            id="broken-sql",
        ),
        pytest.param(
            {"http.url": "http://ada:hunter2@host/?token=hunter2#hunter2", "http.target": "/?token=hunter2"},
            "as it was",
            {"http.url": "http://host/?token=[redacted]", "http.target": "/?token=[redacted]"},
            id="url",
        ),
        pytest.param(
            {"url.full": "http://host/?api_key=hunter2", "url.path": "/", "url.query": "api_key=hunter2&page=2"},
            "as it was",
            {"url.full": "http://host/?api_key=[redacted]", "url.query": "api_key=[redacted]&page=2"},
            id="stable-url",
        ),
        pytest.param(
            {
                "http.request.header.authorization": ("Bearer hunter2",),
                "http.response.header.set_cookie": ("id=hunter2",),
                "http.request.header.accept": ("text/html",),
            },
            "as it was",
            {
                "http.request.header.authorization": ("[redacted]",),
                "http.response.header.set_cookie": ("[redacted]",),
                "http.request.header.accept": ("text/html",),
            },
            id="captured-headers",
        ),
        pytest.param(
            {"http.user_agent": "bot (+hunter2@example.com)"},
            "as it was",
            {"http.user_agent": "bot (+***@example.com)"},
            id="user-agent",
        ),
    ],
)
def test_unredacted_attributes_of_instrumentations_are_redacted(
    attributes: dict[str, Any], name: str, expected: dict[str, Any], spans: Spans
) -> None:
    ended("as it was", attributes)
    span = spans.one(name)
    assert span.attributes is not None
    assert {key: span.attributes.get(key) for key in expected} == expected
    assert "hunter2" not in span.to_json()


@override_settings(TRACING={"SENSITIVE_KEYS": ["iban"]})
def test_the_projects_sensitive_names_are_redacted(spans: Spans) -> None:
    ended("call", {"http.url": "http://host/?iban=hunter2"})
    assert "hunter2" not in spans.one("call").to_json()


in_place = pytest.mark.skipif(
    not hasattr(SpanProcessor, ON_ENDING), reason="old SDKs do not let spans be changed in place: test_copies.py"
)


@in_place
def test_a_span_that_cannot_be_redacted_loses_its_content(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    span: Any = trace.get_tracer("opentelemetry.instrumentation.some").start_span("hunter2", kind=SpanKind.CLIENT)
    span.set_attribute("db.system", "postgresql")
    span.set_attribute("secret", "hunter2")
    span.set_status(StatusCode.ERROR, "hunter2")
    span.add_event("hunter2", {"exception.message": "hunter2"})
    # As if an SDK stored its events differently.
    span._events[0]._attributes = object()
    span.end()
    bare = spans.one("some")
    assert "hunter2" not in bare.to_json()
    assert (bare.events, bare.links) == ((), ())
    assert bare.status.status_code is StatusCode.ERROR


def test_spans_of_the_user_get_the_requests_attributes_and_keep_their_own(spans: Spans) -> None:
    token = context_api.attach(with_request_state(RequestState("abc-1")))
    with (
        pytest.raises(ValueError, match="wrong"),
        trace.get_tracer("shop").start_as_current_span("checkout", attributes={"order": "as it is"}),
    ):
        raise ValueError("wrong password=hunter2")
    context_api.detach(token)
    span = spans.one("checkout")
    assert dict(span.attributes or {}) == {"order": "as it is", "correlation.id": "abc-1"}
    assert span.status.status_code is StatusCode.ERROR
    assert "hunter2" not in span.to_json()


@pytest.mark.parametrize("name", ["shop", "opentelemetry.instrumentation.some"])
def test_the_requests_correlation_id_is_kept_even_if_it_looks_like_a_secret(name: str, spans: Spans) -> None:
    scope = RequestState(incoming_id({}))
    token = context_api.attach(with_request_state(scope))
    trace.get_tracer(name).start_span("call").end()
    context_api.detach(token)
    assert dict(spans.one("call").attributes or {}) == {"correlation.id": scope.correlation_id}


@pytest.mark.parametrize("name", ["shop", "opentelemetry.instrumentation.some"])
def test_a_secret_under_the_name_of_the_correlation_id_is_redacted(name: str, spans: Spans) -> None:
    secret = "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"
    token = context_api.attach(with_request_state(RequestState(incoming_id({}))))
    span = trace.get_tracer(name).start_span("call")
    span.set_attribute("correlation.id", secret)
    span.end()
    trace.get_tracer(name).start_span(
        "link", links=[trace.Link(span.get_span_context(), {"correlation.id": secret})]
    ).end()
    context_api.detach(token)
    assert secret not in "".join(span.to_json() for span in spans)


@pytest.mark.parametrize("key", ["http.url", "db.statement", "user_agent.original"])
def test_an_event_is_redacted_even_if_its_span_has_an_attribute_of_the_same_name(key: str, spans: Spans) -> None:
    span = trace.get_tracer("opentelemetry.instrumentation.some").start_span("call", kind=SpanKind.CLIENT)
    span.set_attributes({"db.system": "postgresql", "http.url": "http://host/", "db.statement": "SELECT 1"})
    span.set_attribute("user_agent.original", "curl")
    span.add_event("again", {key: "http://host/?token=hunter2 WHERE password = 'hunter2'"})
    span.end()
    (one,) = spans
    assert "hunter2" not in one.to_json()


@in_place
def test_processors_added_before_it_receive_redacted_spans() -> None:
    """The provider of another library already has processors; this app's is added after them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.add_span_processor(UpstreamProcessor())
    span = provider.get_tracer("opentelemetry.instrumentation.psycopg").start_span("SELECT", kind=SpanKind.CLIENT)
    span.set_attributes({"db.system": "postgresql", "db.statement": "SELECT 'hunter2' FROM people"})
    span.record_exception(ValueError("password=hunter2"))
    span.end()
    [sent] = exporter.get_finished_spans()
    assert sent.name == "db.select.people"
    assert "hunter2" not in sent.to_json()
    provider.shutdown()
