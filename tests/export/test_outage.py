"""Test that the queue holds a minute of traffic with the defaults."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace.export import SpanExportResult

from django_tracing.conf.loading import load
from django_tracing.exceptions import ExportError
from django_tracing.export.wire import EncodedBatch
from tests.export.builders import Recorder
from tests.export.queues import Make, end

REQUESTS = 50 * 60
#: The spans of a request: their attributes have the number and the length of a site's.
ATTRIBUTES: dict[str, Any] = {
    "operation.type": "database",
    "correlation.id": "0f3c1c9e-8a38-4a53-8b0e-7ad1c0ffee00",
    "user.id": "12345",
    "user.subscription": "premium",
    "db.system": "postgresql",
    "db.name": "shop",
    "db.statement": "SELECT a.id, a.name, a.price FROM shop_article a WHERE a.id = %s ORDER BY a.name LIMIT 21",
    "db.operation": "SELECT",
    "db.sql.table": "shop_article",
    "db.rows": 20,
    "net.peer.name": "db.internal",
    "net.peer.port": 5432,
}


class Receiver:
    """It counts the spans that arrive, unless it is down."""

    new_batch = EncodedBatch

    def __init__(self) -> None:
        self.down = True
        self.arrived = 0

    def export_batch(self, batch: EncodedBatch) -> SpanExportResult:
        if self.down:
            raise ExportError("Nothing listens.", reason="refused", retryable=True)
        self.arrived += batch.count
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def test_a_minute_of_50_requests_a_second_is_not_lost(make: Make) -> None:
    recorder = Recorder()
    for number in range(7):
        recorder.tracer.start_span(f"db.select.shop_article_{number}", attributes=ATTRIBUTES).end()
    settings = load({}, {})
    receiver = Receiver()
    processor = make(
        receiver,
        batch_size=settings.batch_size,
        queue_size=settings.queue_size,
        queue_bytes=settings.queue_bytes,
        retry_for=settings.retry_for,
    )
    for _ in range(REQUESTS):
        end(processor, list(recorder.spans))
    assert processor.counters.snapshot()["dropped"] == {}
    assert processor._bytes > 8 * 1024 * 1024, "the spans are too small for this test"
    receiver.down = False
    assert processor.force_flush()
    assert receiver.arrived == REQUESTS * 7


def test_the_bound_in_bytes_is_the_only_one(make: Make) -> None:
    recorder = Recorder()
    recorder.tracer.start_span("s").end()
    receiver = Receiver()
    processor = make(receiver, queue_bytes=1024 * 1024)
    for _ in range(20_000):
        end(processor, list(recorder.spans))
    processor.force_flush()
    assert set(processor.counters.snapshot()["dropped"]) == {"queue_full_bytes"}
    assert 1024 * 1024 - 200 < processor._bytes <= 1024 * 1024
