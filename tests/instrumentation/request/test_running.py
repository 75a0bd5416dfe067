"""Test what is stored of a request while it is still running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from django_tracing import create_span, use_trace_context
from django_tracing.context.request import RequestState
from django_tracing.export.local import LocalExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.recording.factory import SpanFactory
from django_tracing.redaction.attributes import AttributeSanitizer
from django_tracing.traces.model import TraceSummary
from django_tracing.traces.readers.sqlite.store import LocalStore

pytestmark = pytest.mark.django_db

#: Called while a request is running.
looks: list[Callable[[], None]] = []


def look() -> None:
    for each in looks:
        each()


def query() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def slow(request: HttpRequest, pk: int) -> HttpResponse:
    query()
    query()
    look()
    query()
    return HttpResponse()


urlpatterns = [path("slow/<int:pk>/", slow)]


class Seen:
    """What the local store had while something was running, and what it has now."""

    def __init__(self, folder: Path, processor: QueueProcessor, store: LocalStore) -> None:
        self.processor = processor
        self.store = store
        self.running: list[TraceSummary] = []

    def look(self) -> None:
        assert self.processor.force_flush()
        self.running = self.store.search()

    def attributes(self, name: str) -> list[Any]:
        (summary,) = self.store.search()
        stored = self.store.trace(summary.trace_id)
        assert stored is not None
        return [span.attributes.get(name) for span in stored.spans]


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    store = LocalStore(tmp_path / "traces.sqlite3")
    processor = QueueProcessor(LocalExporter(store.store), export_interval=60)
    multi = trace.get_tracer_provider()._active_span_processor  # type: ignore[attr-defined]
    # Only for this test: a provider has no method that removes a processor.
    monkeypatch.setattr(multi, "_span_processors", (*multi._span_processors, processor))
    found = Seen(tmp_path, processor, store)
    monkeypatch.setitem(globals(), "looks", [found.look])
    with override_settings(
        TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "off"}, ROOT_URLCONF=__name__
    ):
        yield found
    processor.shutdown()
    store.close()


def test_a_request_has_its_route_while_it_runs(seen: Seen) -> None:
    Client().get("/slow/7/")
    (running,) = seen.running
    assert (running.name, running.state) == ("GET /slow/<int:pk>/", "running")
    assert running.span_count == 2
    assert seen.processor.force_flush()
    (finished,) = seen.store.search()
    assert (finished.name, finished.state, finished.span_count) == ("GET /slow/<int:pk>/", "finished", 4)
    # One span is enough: each attribute costs room in each storage.
    assert seen.attributes("request.name").count("GET /slow/<int:pk>/") == 1


def test_a_request_that_ended_in_time_has_no_such_attribute(seen: Seen) -> None:
    looks.clear()
    Client().get("/slow/7/")
    assert seen.processor.force_flush()
    assert seen.attributes("request.name") == [None] * 4


def test_a_block_of_ones_own_has_its_name_while_it_runs(seen: Seen) -> None:
    with create_span("nightly import"):
        query()
        look()
    (running,) = seen.running
    assert (running.name, running.state) == ("nightly import", "running")


def test_the_name_is_passed_to_redact() -> None:
    exporter = InMemorySpanExporter()
    processor = QueueProcessor(exporter)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    redact = {"request.name": "hidden"}
    sanitizer = AttributeSanitizer(redact=lambda key, value: redact.get(key, value))
    factory = SpanFactory.of(provider.get_tracer("x"), lambda parent, trace_id: True, sanitizer=sanitizer)
    assert factory is not None
    state = RequestState("some-id")
    state.span = factory.start("nightly", Context(), SpanKind.INTERNAL, (), None, None, state)
    below = trace.set_span_in_context(state.span, Context())
    factory.start("step", below, SpanKind.INTERNAL, (), None, None, state).end()
    assert processor.force_flush()
    (span,) = exporter.get_finished_spans()
    assert span.attributes == {"request.name": "hidden"}
    processor.shutdown()


def test_a_block_that_continues_another_process_is_not_running(seen: Seen) -> None:
    """Its parent is not stored either, but nothing is waited for."""
    with use_trace_context({"traceparent": f"00-{7:032x}-{9:016x}-01"}), create_span("import"):
        query()
    look()
    (summary,) = seen.running
    assert (summary.name, summary.state) == ("import", "finished")
