"""Test that users' tests capture their own spans, complete and separately, with readable failures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import (
    Client,
    LiveServerTestCase,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
    override_settings,
)
from opentelemetry import trace

from django_tracing.api.spans import create_span
from django_tracing.testing import CaptureSpansMixin, capture_spans
from tests.receivers import OTLPReceiver
from tests.test_provider import run

client = Client(raise_request_exception=False)


# ----- Reading


@pytest.mark.django_db
def test_the_spans_of_a_request() -> None:
    with capture_spans() as spans:
        client.get("/query/")
    request, query = spans
    assert spans.names == ["GET /query/", "db.select"]
    assert (request.kind, query.kind) == ("server", "client")
    assert query.parent is request
    assert request.parent is None
    assert request.children == [query]
    assert query.children == []
    assert request.trace_id == query.trace_id
    assert re.fullmatch("[0-9a-f]{32}", request.trace_id)
    assert re.fullmatch("[0-9a-f]{16}", request.span_id)
    assert 0 < query.duration <= request.duration < 60
    assert (request.status, request.error) == ("unset", False)
    assert request.attributes["http.status_code"] == 200
    assert "literal" not in query.attributes["db.statement"]
    assert len(spans) == 2
    assert spans[-1] is query
    assert spans[:1] == [request]
    assert query in spans


def test_an_error_is_redacted_as_when_exported() -> None:
    with capture_spans() as spans:
        client.get("/boom/")
    (span,) = spans
    assert span.error
    assert span.status == "error"
    assert "RuntimeError" in span.status_message
    (event,) = span.events
    assert event.name == "exception"
    assert "hunter2" not in repr(event.attributes) + span.status_message + spans.tree()


def test_spans_are_captured_once_and_only_in_the_block() -> None:
    client.get("/empty/?before")
    with capture_spans() as spans:
        client.get("/async/")
    client.get("/empty/?after")
    assert spans.names == ["GET /async/"]


def test_spans_are_ordered_by_start() -> None:
    with capture_spans() as spans, create_span("a"):
        with create_span("b"):
            pass
        late = create_span("c")
        with create_span("d"):
            pass
        late.end()
    assert spans.names == ["a", "b", "c", "d"]
    assert [child.name for child in spans[0].children] == ["b", "c", "d"]


def test_a_span_created_afterwards_is_ordered_by_its_start() -> None:
    tracer = trace.get_tracer("tests")
    with capture_spans() as spans:
        tracer.start_span("second", start_time=2_000).end(3_000)
        tracer.start_span("first", start_time=1_000).end(4_000)
    assert spans.names == ["first", "second"]
    assert spans[0].duration == pytest.approx(3e-6)


def test_spans_of_other_tracers_are_captured() -> None:
    with capture_spans() as spans, trace.get_tracer("theirs").start_as_current_span("theirs") as span:
        span.set_attribute("password", "hunter2")
        client.get("/empty/")
    assert spans.names == ["theirs", "GET /empty/"]
    assert spans[1].parent is spans[0]
    assert spans[0].attributes["password"] == "[redacted]"


# ----- Settings


def test_the_decision_of_a_caller_is_kept() -> None:
    ids = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
    with capture_spans() as spans:
        client.get("/empty/", headers={"traceparent": ids + "00"})
        client.get("/async/", headers={"traceparent": ids + "01"})
    assert spans.names == ["GET /async/"]
    assert spans[0].trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert spans[0].parent is None


def test_ignored_paths_are_not_captured(settings: Any) -> None:
    settings.TRACING = {**settings.TRACING, "IGNORE_PATHS": ["/empty"]}
    with capture_spans() as spans:
        client.get("/empty/")
        client.get("/async/")
    assert spans.names == ["GET /async/"]


def test_disabled_tracing_raises_an_error(settings: Any) -> None:
    settings.TRACING = {"ENABLED": False}
    with pytest.raises(ImproperlyConfigured, match=r'ENABLED is False, set by TRACING\["ENABLED"\]'):
        capture_spans().__enter__()
    settings.TRACING = {"SAMPLE_RATE": 7}
    with pytest.raises(ImproperlyConfigured, match=r'tracing is off: TRACING\["SAMPLE_RATE"\] is 7'):
        capture_spans().__enter__()


MESSAGE = """
from django.core.exceptions import ImproperlyConfigured
from django_tracing.testing import capture_spans
try:
    capture_spans().__enter__()
except ImproperlyConfigured as error:
    print(json.dumps(str(error)))
"""


def test_the_errors_explain_why_nothing_can_be_captured() -> None:
    assert "environment variable OTEL_SDK_DISABLED" in run(MESSAGE, OTEL_SDK_DISABLED="true")
    assert "Call django.setup() first" in run("import django  # not django.setup()\n" + MESSAGE)
    no_app = "from django.conf import settings\nsettings.configure()\nimport django\ndjango.setup()\n"
    assert '"django_tracing" is not in INSTALLED_APPS' in run(no_app + MESSAGE)
    late = """
    from django.test import override_settings
    override_settings(TRACING={"ENABLED": True}).enable()
    """
    recorded = run(textwrap.dedent(late) + MESSAGE, TRACING_SETTINGS='{"ENABLED": false}')
    assert "tracing was off" in recorded and "too late" in recorded
    other = "from opentelemetry import trace\ntrace.set_tracer_provider(trace.NoOpTracerProvider())\nimport django\n"
    assert "NoOpTracerProvider" in run(other + "django.setup()\n" + MESSAGE)


CAPTURE = """
from django.test import Client
from opentelemetry import trace
from django_tracing.api.spans import create_span
from django_tracing.testing import capture_spans
Client().get("/empty/?before")
trace.get_tracer("theirs")
with capture_spans() as spans:
    Client().get("/empty/?in")
    with trace.get_tracer("theirs").start_as_current_span("theirs"), trace.get_tracer("new").start_as_current_span("n"):
        pass
    late = create_span("late")
with late, create_span("late.child"):
    pass
with capture_spans(export=True) as sent:
    Client().get("/async/")
    with capture_spans() as kept:
        Client().get("/empty/?kept")
Client().get("/empty/?after")
print(json.dumps([spans.names, sent.names, kept.names]))
"""
NAMES = [["GET /empty/", "theirs", "n"], ["GET /async/", "GET /empty/"], ["GET /empty/"]]


@pytest.mark.parametrize(("rate", "tracing"), [("0", "{}"), ("1", "{}"), ("0", '{"KEEP_ERRORS": true}')])
def test_spans_of_a_block_are_exported_only_on_request(rate: str, tracing: str) -> None:
    with OTLPReceiver() as receiver:
        variables = {"OTEL_TRACES_SAMPLER_ARG": rate, "TRACING_SETTINGS": tracing}
        names = run(CAPTURE, JAEGER_ENDPOINT=receiver.endpoint, **variables)
        received = receiver.wait_for(1 if rate == "0" else 3)
        assert names == NAMES
        sent = ["GET /async/"] if rate == "0" else ["GET /empty/", "GET /async/", "GET /empty/"]
        assert [span.name for span in received] == sent
        assert not [span for span in received if span.attributes.get("http.url", "").endswith(("?in", "?kept"))]


def test_nothing_is_written_to_the_local_store(tmp_path: Path) -> None:
    store = tmp_path / "traces.sqlite3"
    stored = run(
        CAPTURE.replace("print", "names = ")
        + """
from django_tracing.spans import runtime
from django_tracing.traces.readers.sqlite.store import LocalStore
from django.conf import settings
assert runtime.current.queue.force_flush()
store = LocalStore(settings.TRACING["LOCAL_STORE"], max_traces=10)
print(json.dumps([names, sorted(summary.name for summary in store.search())]))
""".replace("names = (json.dumps", "names = (").replace("[names,", "[json.loads(names),"),
        TRACING_SETTINGS=f'{{"EXPORTER": "local", "LOCAL_STORE": "{store}"}}',
    )
    assert stored == [NAMES, ["GET /async/", "GET /empty/", "GET /empty/"]]


OWN = """
import django
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
ended = []

class Own(SpanProcessor):
    def on_end(self, span):
        ended.append(span.name)

own = TracerProvider(sampler=ALWAYS_OFF)
own.add_span_processor(Own())
trace.set_tracer_provider(own)
django.setup()
"""


def test_a_custom_provider_whose_sampler_keeps_nothing() -> None:
    names, ended = run(
        OWN + CAPTURE.replace("[spans.names", "[[spans.names").replace("kept.names]", "kept.names], ended]")
    )
    assert names == NAMES
    assert ended == ["GET /async/"]


# ----- unittest


class SimpleTests(CaptureSpansMixin, SimpleTestCase):
    def test_sync(self) -> None:
        self.client.get("/empty/")
        self.assertEqual(self.spans.names, ["GET /empty/"])

    async def test_async(self) -> None:
        await self.async_client.get("/async/")
        self.assertEqual(self.spans.names, ["GET /async/"])

    async def test_a_nested_block(self) -> None:
        async with capture_spans() as inner:
            await self.async_client.get("/async/")
        self.assertEqual(inner.names, ["GET /async/"])
        self.assertEqual(self.spans.names, ["GET /async/"])


class DatabaseTests(CaptureSpansMixin, TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.get("/empty/")

    def test_sync(self) -> None:
        self.client.get("/query/")
        self.assertEqual(self.spans.names, ["GET /empty/", "GET /query/", "db.select"])

    async def test_async(self) -> None:
        await self.async_client.get("/query/")
        self.assertEqual(self.spans.find("db.select").parent, self.spans.find("GET /query/"))


class TransactionTests(CaptureSpansMixin, TransactionTestCase):
    def test_sync(self) -> None:
        self.client.get("/query/")
        self.assertEqual([name for name in self.spans.names if name != "db.connect"], ["GET /query/", "db.select"])


@override_settings(STATIC_URL="static/")  # the live server requires it
class LiveTests(CaptureSpansMixin, LiveServerTestCase):
    def get(self, path: str, **headers: str) -> bytes:
        with urlopen(Request(self.live_server_url + path, headers=headers), timeout=10) as response:
            return bytes(response.read())

    def test_a_request(self) -> None:
        self.get("/query/")
        self.assertEqual(self.spans.names, ["GET /query/", "db.connect", "db.select"])

    def test_a_stream_whose_span_ends_after_its_last_byte(self) -> None:
        for _ in range(20):
            with capture_spans() as spans:
                self.get("/stream/")
                self.assertEqual(spans.find("GET /stream/").children, spans.find_all("cache.get.chunk:*"))

    def test_one_trace_from_the_test_into_the_server(self) -> None:
        with create_span("test"):
            self.get("/empty/")
        server = self.spans.find("GET /empty/")
        self.assertEqual([span.name for span in ancestors(server)][-1], "test")


def ancestors(span: Any) -> Iterator[Any]:
    while span := span.parent:
        yield span
