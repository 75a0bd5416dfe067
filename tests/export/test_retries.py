"""Test what the queue does with a receiver's answers, with a real receiver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.exceptions import ExportError
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.export.queue import QueueProcessor
from tests.export.builders import make_spans
from tests.export.queues import Make, end
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver, ReceivedSpan

Answer = tuple[str | int, dict[str, str], bytes]
OK: Answer = ("ok", {}, b"")

#: Why spans are dropped, by the status that the receiver answers.
REASONS = {
    301: "rejected",
    400: "wrong_protocol",
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    415: "wrong_protocol",
    418: "rejected",
    500: "rejected",
    501: "rejected",
}


@pytest.fixture(scope="module")
def shared() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(shared: OTLPReceiver) -> Iterator[OTLPReceiver]:
    shared.clear()
    yield shared
    shared.decide = None


def partial(count: int, message: str = "") -> bytes:
    answer = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=count, error_message=message)
    )
    return answer.SerializeToString()


def flush(processor: QueueProcessor) -> None:
    """Flush until nothing waits: a flush does not wait for pauses."""
    for _ in range(1000):
        if not processor.queued:
            return
        processor.force_flush()
    raise AssertionError(f"{processor.queued} spans wait, after 1,000 flushes")


def names(receiver: OTLPReceiver) -> list[str]:
    return [span.name for span in receiver.spans]


class TestTheModel:
    """Made spans = arrived + queued + dropped, by reason."""

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_every_span_has_one_fate(self, shared: OTLPReceiver, data: st.DataObject) -> None:
        answers = data.draw(
            st.lists(
                st.one_of(
                    st.just("ok"),
                    st.sampled_from((429, 502, 503, 504)),
                    st.sampled_from(sorted(REASONS)),
                    st.just(413),
                    st.integers(-1, 30).map(lambda count: ("partial", count)),
                ),
                max_size=25,
            ),
            label="answers",
        )
        retry_for = data.draw(st.sampled_from([0.0, 60.0]), label="retry for")
        batches = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=8), label="batches")
        expected: Counter[str] = Counter()
        arrived: list[str] = []

        def decide(spans: list[ReceivedSpan]) -> Answer:
            if not spans:
                return OK  # a probe
            answer: Any = answers.pop(0) if answers else "ok"
            received = [span.name for span in spans]
            if answer == "ok":
                arrived.extend(received)
                return OK
            if isinstance(answer, tuple):
                rejected = min(max(answer[1], 0), len(received))
                # Which ones are rejected is not known: the first.
                arrived.extend(received[rejected:])
                expected["rejected"] += rejected
                return "ok", {}, partial(answer[1])
            if answer == 413:
                expected["too_large"] += len(received) == 1
            elif answer in REASONS:
                expected[REASONS[answer]] += len(received)
            elif not retry_for:
                expected["expired"] += len(received)
            return answer, {}, b""

        shared.decide = decide
        processor = QueueProcessor(
            OTLPHTTPExporter(shared.endpoint),
            batch_size=10,
            export_interval=60,
            retry_for=retry_for,
            shutdown_timeout=20,
        )
        made = 0
        for number, count in enumerate(batches):
            end(processor, make_spans(count, name=f"batch{number}"))
            processor.force_flush(0)
            made += count
        flush(processor)
        counts = processor.counters.snapshot()
        processor.shutdown()
        assert len(set(arrived)) == len(arrived), "a span arrived twice"
        assert counts["dropped"] == {reason: count for reason, count in expected.items() if count}
        assert counts["exported"] == len(arrived)
        assert made == counts["exported"] + sum(counts["dropped"].values())


class TestOneBatchDoesNotStopOthers:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504, "drop"])
    def test_refused_for_ever(self, make: Make, receiver: OTLPReceiver, status: str | int) -> None:
        def decide(spans: list[ReceivedSpan]) -> Answer:
            refuses = any(span.name.startswith("poison") for span in spans)
            return (status, {"Retry-After": "30"}, b"") if refuses else OK

        receiver.decide = decide
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=5)
        end(processor, make_spans(5, name="poison"))
        end(processor, make_spans(50, name="good"))
        receiver.wait_for(50)
        assert len(names(receiver)) == 50
        # The poisoned batch waits, or was dropped; it is not sent again and again.
        wait_until(lambda: processor.queued <= 5, "the last batch to leave the queue")
        assert len(receiver.headers) <= 25

    def test_it_is_dropped_after_retry_for(self, make: Make, receiver: OTLPReceiver) -> None:
        receiver.decide = lambda spans: (503, {}, b"") if "poison-0" in [span.name for span in spans] else OK
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=5, retry_for=0.6)
        end(processor, make_spans(5, name="poison"))
        end(processor, make_spans(5, name="good"))
        wait_until(lambda: processor.queued == 0, "the batch to be dropped")
        assert processor.counters.snapshot()["dropped"] == {"expired": 5}
        assert processor.counters.snapshot()["retries"] >= 2
        assert len(names(receiver)) == 5

    def test_refused_batches_have_bounded_room(self, make: Make, receiver: OTLPReceiver) -> None:
        accepted = iter(range(1_000_000))

        def decide(spans: list[ReceivedSpan]) -> Answer:
            # Every other batch, so that the receiver never seems to be down.
            return (503, {"Retry-After": "30"}, b"") if spans and next(accepted) % 2 else OK

        receiver.decide = decide
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1, queue_bytes=20_000)
        for number in range(14):
            end(processor, make_spans(1, name=f"s{number}", text="x" * 3000))
            wait_until(lambda: processor._outbox.current is None and not processor._outbox._fresh, "the batch")
        assert processor._bytes <= 10_000
        counts = processor.counters.snapshot()
        assert counts["dropped"]["retry_full"] > 0
        assert counts["exported"] + sum(counts["dropped"].values()) + processor.queued == 14


class TestTooLarge:
    def test_one_span_costs_itself(self, make: Make, receiver: OTLPReceiver) -> None:
        receiver.decide = lambda spans: (413, {}, b"") if "poison-0" in [span.name for span in spans] else OK
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=100)
        spans = make_spans(99, name="good")
        spans.insert(57, make_spans(1, name="poison")[0])
        end(processor, spans)
        flush(processor)
        assert sorted(names(receiver)) == sorted(f"good-{number}" for number in range(99))
        assert processor.counters.snapshot()["dropped"] == {"too_large": 1}

    def test_a_limit_in_bytes(self, make: Make, receiver: OTLPReceiver) -> None:
        receiver.decide = lambda spans: (413, {}, b"") if len(spans) > 3 else OK
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=64)
        end(processor, make_spans(64))
        assert processor.force_flush()
        assert names(receiver) == [f"span-{number}" for number in range(64)]
        # Resource and scope are in each part.
        assert {(span.service, span.scope) for span in receiver.spans} == {("shop", "tests")}

    def test_a_receiver_that_refuses_all_sizes_is_not_asked_for_each_span(
        self, make: Make, receiver: OTLPReceiver
    ) -> None:
        receiver.decide = lambda spans: (413, {}, b"")
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=512)
        end(processor, [span for number in range(512) for span in make_spans(1, text="x" * (number * 37 % 511))])
        flush(processor)
        assert processor.counters.snapshot()["dropped"] == {"too_large": 512}
        # Nine halves, eight spans with the halves between them, and a span each time that it is the smallest one yet.
        assert len(receiver.headers) < 60

    def test_small_spans_beside_many_that_are_too_large(self, make: Make, receiver: OTLPReceiver) -> None:
        receiver.decide = lambda spans: (413, {}, b"") if any(span.attributes for span in spans) else OK
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=64)
        spans = make_spans(60, name="large", text="x" * 1000)
        for place in (10, 30, 50, 63):
            spans.insert(place, make_spans(1, name=f"small{place}")[0])
        end(processor, spans)
        flush(processor)
        assert sorted(names(receiver)) == ["small10-0", "small30-0", "small50-0", "small63-0"]
        assert processor.counters.snapshot()["dropped"] == {"too_large": 60}


class TestReceiverDown:
    def test_one_probe_at_a_time(self, make: Make, receiver: OTLPReceiver) -> None:
        requests: list[int] = []

        def decide(spans: list[ReceivedSpan]) -> Answer:
            requests.append(len(spans))
            return 503, {}, b""

        receiver.decide = decide
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1)
        end(processor, make_spans(200))
        wait_until(lambda: requests.count(0) >= 2, "two probes")
        # Two batches show that it is down; the next ones follow after growing pauses.
        assert len(requests) - requests.count(0) <= 10
        assert processor.queued == 200
        receiver.decide = None
        receiver.wait_for(200)

    def test_it_is_noticed_by_a_probe_that_it_is_back(self, make: Make, receiver: OTLPReceiver) -> None:
        receiver.mode = 503
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1, retry_for=600)
        end(processor, make_spans(3))
        wait_until(lambda: processor._outbox.paused, "the receiver to be down")
        # However long the pause between batches has become.
        processor._outbox._resume_at += 1000
        receiver.mode = "ok"
        receiver.wait_for(3)

    def test_retry_after_is_followed(self, make: Make, receiver: OTLPReceiver) -> None:
        receiver.decide = lambda spans: (503, {"Retry-After": "20"}, b"")
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1)
        end(processor, make_spans(5))
        receiver.wait_for_requests(2)
        wait_until(lambda: processor._outbox.paused, "the receiver to be down")
        now = processor._outbox._probe_at + 10
        assert 0 < processor._outbox.next(now) <= 20
        assert processor._outbox.next(now + 20) is not None
        receiver.decide = None


class TestPartialSuccess:
    def test_it_is_counted_with_the_receivers_words(
        self, make: Make, receiver: OTLPReceiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        words = "too old\x1b[31m\nAuthorization: Bearer t0ken.abc.def " + "x" * 5000
        receiver.decide = lambda spans: ("ok", {}, partial(2, words))
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=5)
        end(processor, make_spans(5))
        assert processor.force_flush()
        counts = processor.counters.snapshot()
        assert (counts["exported"], counts["dropped"]) == (3, {"rejected": 2})
        [line] = [record.getMessage() for record in caplog.records]
        for text in (counts["last_error"], line):
            assert "rejected 2 spans of a batch: too old" in text
            assert "t0ken" not in text
            assert "\x1b" not in text and "\n" not in text
            assert len(text) < 700


class Refusing(SpanExporter):
    """An exporter of another package, which is not typed."""

    def __init__(self, **error: Any) -> None:
        self.error = error

    def export(self, spans: Any) -> SpanExportResult:
        raise ExportError("no", reason="rejected", **self.error)

    def shutdown(self) -> None:
        pass


@pytest.mark.parametrize("number", ["5", -7, -0.5, float("nan"), float("inf"), float("-inf"), 10**400, [], b"5"])
@pytest.mark.parametrize("name", ["retry_after", "rejected"])
def test_numbers_of_any_type_in_an_error(make: Make, name: str, number: Any) -> None:
    processor = make(Refusing(**{name: number}, retryable=name == "retry_after"), batch_size=5, retry_for=0)
    end(processor, make_spans(10))
    flush(processor)
    counts = processor.counters.snapshot()
    # A whole number of rejected spans, however large, is one.
    reason = "expired" if name == "retry_after" else "rejected"
    assert (counts["exported"], counts["dropped"]) == (0, {reason: 10})


def test_a_log_line_an_hour_for_what_is_refused(
    make: Make, receiver: OTLPReceiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every third batch is refused: the state changes all the time.
    count = iter(range(1000))
    receiver.decide = lambda spans: (400, {}, b"") if next(count) % 3 == 0 else OK
    processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1)
    end(processor, make_spans(30))
    flush(processor)
    assert processor.counters.snapshot()["dropped"] == {"wrong_protocol": 10}
    assert len(caplog.records) == 1
    monkeypatch.setattr("django_tracing.export.announcements._AGAIN", 0.0)
    end(processor, make_spans(3))
    flush(processor)
    assert len(caplog.records) == 2
