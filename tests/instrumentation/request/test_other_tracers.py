"""Test requests that another library has started a span for, in the ways of Logfire, Sentry and others.

``make tracers`` runs these tools themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, SpanKind

from django_tracing.instrumentation.request.middleware import TracingMiddleware
from tests.conftest import Spans

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Wrapped(trace.NonRecordingSpan):
    """An object around a span of the SDK, as Logfire makes them."""

    def __init__(self, span: Any) -> None:
        self.span = span

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "span"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "span"), name)


@pytest.fixture
def other() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def ask(span: Span) -> None:
    """Send a request through our middleware inside ``span``."""

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")

    with trace.use_span(span, end_on_exit=True):
        assert TracingMiddleware(view)(RequestFactory().get("/orders/")).status_code == 200  # type: ignore[union-attr]


@pytest.mark.parametrize("wrap", [lambda span: span, Wrapped], ids=["the SDK's", "an object around it"])
def test_a_span_of_our_provider_is_the_request_s(wrap: Any, spans: Spans) -> None:
    ask(wrap(trace.get_tracer("theirs").start_span("GET orders/", kind=SpanKind.SERVER)))
    [span] = spans
    assert span.attributes is not None
    assert span.attributes["operation.type"] == "http"
    assert span.attributes["correlation.id"]


@pytest.mark.parametrize("wrap", [lambda span: span, Wrapped], ids=["the SDK's", "an object around it"])
def test_a_request_that_another_provider_traces_has_a_span_on_each_side(
    wrap: Any, other: tuple[TracerProvider, InMemorySpanExporter], spans: Spans
) -> None:
    """Otherwise, what is below the request would be sent without it."""
    provider, exporter = other
    ask(wrap(provider.get_tracer("theirs").start_span("GET orders/", kind=SpanKind.SERVER)))
    [ours] = spans
    [theirs] = exporter.get_finished_spans()
    assert ours.kind is theirs.kind is SpanKind.SERVER
    # Whoever looks for one finds the other.
    assert ours.get_span_context().trace_id == theirs.get_span_context().trace_id
    assert "correlation.id" not in (theirs.attributes or {})


@dataclass
class Unhashable(TextMapPropagator):
    """As Logfire's propagators, which are dataclasses."""

    wrapped: TextMapPropagator

    def extract(self, *args: Any, **kwargs: Any) -> Context:
        return self.wrapped.extract(*args, **kwargs)

    def inject(self, *args: Any, **kwargs: Any) -> None:
        self.wrapped.inject(*args, **kwargs)

    @property
    def fields(self) -> set[str]:
        return self.wrapped.fields


def test_a_propagator_without_a_hash_is_used(
    spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", Unhashable(propagate.get_global_textmap()))
    for _ in range(2):
        Client().get("/empty/", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    assert [f"{span.get_span_context().trace_id:032x}" for span in spans] == [TRACE] * 2
    assert caplog.records == []
