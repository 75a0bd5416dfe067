"""Provide queues that are shut down after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter

from django_tracing.export.queue import QueueProcessor
from tests.export.queues import Gate


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def make() -> Iterator[Callable[..., QueueProcessor]]:
    """Return a function that makes processors, and shut them down after the test."""
    made: list[QueueProcessor] = []

    def make(exporter: SpanExporter, **options: Any) -> QueueProcessor:
        made.append(QueueProcessor(exporter, **{"export_interval": 60, "shutdown_timeout": 0.5, **options}))
        return made[-1]

    yield make
    for processor in made:
        processor.shutdown()
