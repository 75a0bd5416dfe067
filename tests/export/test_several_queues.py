"""Several exporters at once: a slow one takes no time from the others when a process ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from django_tracing import provider as provider_module
from django_tracing.conf.loading import load
from django_tracing.export.queue import QueueProcessor
from django_tracing.process_ends import flush_all
from tests.export.builders import make_spans

fast_has_sent = threading.Event()


class Slow:
    """Its backend answers when the other exporter has sent."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS if fast_has_sent.wait(10) else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        pass


class Fast(Slow):
    def export(self, spans: Any) -> SpanExportResult:
        fast_has_sent.set()
        return SpanExportResult.SUCCESS


@pytest.fixture
def queues() -> Iterator[list[QueueProcessor]]:
    fast_has_sent.clear()
    settings = load(
        {
            "EXPORTER": f"{__name__}.Slow",
            "EXPORT_INTERVAL": 600,
            "SHUTDOWN_TIMEOUT": 8,
            "ENABLED_IN_TESTS": True,
        },
        {},
    )
    assert not settings.problems
    queues = provider_module._make_queues(settings._replace(more_exporters=(f"{__name__}.Fast",)))
    for queue in queues:
        for span in make_spans(2):
            queue.on_end(span)
    yield queues
    fast_has_sent.set()
    for queue in queues:
        queue.shutdown()


def shut_down(queues: list[QueueProcessor]) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    for queue in queues:
        provider.add_span_processor(queue)
    provider.shutdown()


def flush(queues: list[QueueProcessor]) -> None:
    flush_all(queues, 8)


@pytest.mark.parametrize("end", [shut_down, flush])
def test_all_exporters_send_at_the_same_time(
    end: Callable[[list[QueueProcessor]], None], queues: list[QueueProcessor]
) -> None:
    end(queues)
    assert [queue.counters.snapshot()["exported"] for queue in queues] == [2, 2]
