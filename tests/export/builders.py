"""Make spans with the SDK for the tests of the exporters."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

__all__ = ["ANY_VALUES", "Recorder", "make_spans"]


class Recorder:
    """A separate provider (no environment, no exit handler) that collects its ended spans."""

    def __init__(self, resource: dict[str, Any] | None = None, *, limits: SpanLimits | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": "shop", **(resource or {})}, "https://example.org/schema"),
            span_limits=limits,
            shutdown_on_exit=False,
        )
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests", "1.0")

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


def make_spans(count: int = 1, *, name: str = "span", **attributes: Any) -> list[ReadableSpan]:
    """Return ended spans called ``name-0``, ``name-1``, ..."""
    recorder = Recorder()
    for number in range(count):
        recorder.tracer.start_span(f"{name}-{number}", attributes=attributes).end()
    return list(recorder.spans)


#: Whether this SDK keeps attributes of every kind on spans (bytes, maps, mixed lists), as 1.45 and later do.
ANY_VALUES = bool(make_spans(1, map={"a": 1})[0].attributes)
