"""Provide exporters that fail, wait and count, for the tests of the queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.exceptions import ExportError
from django_tracing.export.queue import QueueProcessor

__all__ = ["Backend", "Gate", "Make", "end", "refuse"]

Make = Callable[..., QueueProcessor]


class Backend(SpanExporter):
    """An exporter that calls ``behave`` for each batch and then stores its spans."""

    def __init__(self, behave: Callable[[], Any] = lambda: None) -> None:
        self.behave = behave
        self.batches: list[list[str]] = []
        self.attempts = 0
        self.enabled: list[bool] = []
        self.shut_down = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.attempts += 1
        self.enabled.append(is_instrumentation_enabled())
        result = self.behave()
        if result is not None:
            return result
        self.batches.append([span.name for span in spans])
        return SpanExportResult.SUCCESS

    @property
    def names(self) -> list[str]:
        return [name for batch in list(self.batches) for name in batch]

    def shutdown(self) -> None:
        self.shut_down += 1


class Gate:
    """A callable that blocks its callers until it is opened; ``reached`` is set when one is blocked."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._open.wait(60)

    def open(self) -> None:
        self._open.set()


def end(processor: QueueProcessor, spans: list[ReadableSpan]) -> None:
    for span in spans:
        processor.on_end(span)


def refuse(**options: Any) -> Callable[[], None]:
    def behave() -> None:
        raise ExportError("No.", **{"reason": "refused", "retryable": True, **options})

    return behave
