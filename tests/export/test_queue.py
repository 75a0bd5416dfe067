"""Test the queue: its limits, and spans when the backend is down or the process ends."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from django_tracing.conf.loading import load
from django_tracing.exceptions import ExportError
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.export.queue import QueueProcessor
from tests.export.builders import make_spans
from tests.export.queues import Backend, Gate, Make, end, refuse
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver

ROOT = Path(__file__).parents[2]


class TestSending:
    def test_a_full_batch_is_sent_immediately(self, make: Make) -> None:
        backend = Backend()
        processor = make(backend, batch_size=4)
        end(processor, make_spans(10))
        wait_until(lambda: len(backend.batches) == 2, "two batches")
        assert [len(batch) for batch in backend.batches] == [4, 4]
        # A batch stays in the queue until its export returns, after the backend received it.
        wait_until(lambda: processor.queued <= 2, "the second batch to leave the queue")
        assert processor.queued == 2

    def test_waiting_spans_are_sent_after_the_interval(self, make: Make) -> None:
        backend = Backend()
        processor = make(backend, export_interval=0.05)
        end(processor, make_spans(3))
        wait_until(lambda: len(backend.names) == 3, "the interval to pass")
        end(processor, make_spans(1, name="later"))
        wait_until(lambda: len(backend.names) == 4, "the next interval to pass")
        wait_until(lambda: processor.counters.snapshot()["exported"] == 4, "the last batch to be counted")
        assert processor.counters.snapshot()["last_success_time"] is not None

    def test_it_waits_between_two_intervals(self, make: Make) -> None:
        processor = make(Backend(), export_interval=0.02)
        pauses: list[float] = []
        wait = processor._changed.wait

        def noted(timeout: float) -> bool:
            pauses.append(timeout)
            return wait(timeout)

        processor._changed.wait = noted
        end(processor, make_spans(1))
        wait_until(lambda: len(pauses) >= 6, "several intervals")
        # Without a pause, the thread would use a processor all the time.
        assert all(0 < pause < 0.03 for pause in list(pauses))

    def test_in_order_and_once_from_many_threads(self, make: Make) -> None:
        backend = Backend()
        processor = make(backend, batch_size=100, queue_size=100_000, queue_bytes=2**30)
        spans = {number: make_spans(500, name=f"thread{number}") for number in range(8)}
        threads = [threading.Thread(target=end, args=(processor, spans[number])) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert processor.force_flush()
        assert len(backend.names) == 4000
        for number in range(8):
            mine = [name for name in backend.names if name.startswith(f"thread{number}-")]
            assert mine == [span.name for span in spans[number]]

    def test_unsampled_spans_are_not_queued(self, make: Make) -> None:
        processor = make(Backend())
        provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        provider.get_tracer("x").start_span("x").end()
        assert processor.queued == 0

    def test_exports_are_not_traced(self, make: Make) -> None:
        backend = Backend()
        processor = make(backend)
        end(processor, make_spans())
        assert processor.force_flush()
        assert backend.enabled == [False]
        assert is_instrumentation_enabled()


class TestBounds:
    def test_without_settings_it_has_their_defaults(self) -> None:
        """A limit that is left out is not missing."""
        settings = load({"EXPORTER": "otlp", "ENDPOINT": "http://localhost:4318"}, {})
        assert QueueProcessor(Backend()).state()["queue_bytes"] == settings.queue_bytes
        defaults = {name: each.default for name, each in inspect.signature(QueueProcessor).parameters.items()}
        for name in ("batch_size", "export_interval", "queue_size", "shutdown_timeout", "retry_for", "spool"):
            assert defaults[name] == getattr(settings, name), name

    def test_by_spans(self, make: Make, gate: Gate) -> None:
        backend = Backend(gate)
        processor = make(backend, batch_size=4, queue_size=10)
        end(processor, make_spans(4))
        assert gate.reached.wait(20)
        end(processor, make_spans(20, name="more"))
        assert processor.queued == 10
        assert processor.counters.snapshot()["dropped"] == {"queue_full_spans": 14}
        gate.open()
        assert processor.force_flush()
        assert len(backend.names) == 10
        # There is space again.
        end(processor, make_spans(1, name="last"))
        assert processor.force_flush()
        assert backend.names[-1] == "last-0"

    def test_by_bytes(self, make: Make, gate: Gate) -> None:
        backend = Backend(gate)
        processor = make(backend, batch_size=2, queue_size=1000, queue_bytes=100_000)
        end(processor, make_spans(20, text="x" * 20_000))
        assert processor.queued == 4
        assert processor.counters.snapshot()["dropped"] == {"queue_full_bytes": 16}
        gate.open()
        assert processor.force_flush()
        end(processor, make_spans(4, text="x" * 20_000))
        assert processor.force_flush()
        assert len(backend.names) == 8

    def test_a_batch_is_bounded_by_bytes_too(self, make: Make) -> None:
        backend = Backend()
        processor = make(backend, queue_bytes=2**30)
        end(processor, make_spans(5, text="x" * 900_000))
        end(processor, make_spans(1, name="huge", text="x" * 9_000_000))
        end(processor, make_spans(2, name="small"))
        assert processor.force_flush()
        assert [len(batch) for batch in backend.batches] == [2, 2, 1, 1, 2]


class TestBackendDown:
    def test_spans_wait_and_arrive_with_one_log_line_each_way(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        with OTLPReceiver() as receiver:
            receiver.mode = 503
            processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=5, queue_size=12)
            end(processor, make_spans(10))
            receiver.wait_for_requests(2)
            for _ in range(5):
                assert not processor.force_flush()
            end(processor, make_spans(7, name="more"))
            lines = [record.getMessage() for record in caplog.records if record.name == "django_tracing.export"]
            assert len(lines) == 1
            assert lines[0].startswith(
                f"Spans can't be sent: http://127.0.0.1:{receiver.port}/v1/traces is overloaded or unavailable (503)."
            )
            assert "check_tracing" in lines[0]
            assert not receiver.spans
            receiver.mode = "ok"
            assert processor.force_flush()
            assert len(receiver.spans) == 12
            assert len({span.span_id for span in receiver.spans}) == 12
            lines = [record.getMessage() for record in caplog.records if record.name == "django_tracing.export"]
            assert lines[1:] == ["Spans are sent again; 5 were dropped meanwhile."]
            counts = processor.counters.snapshot()
            assert counts["exported"] == 12
            assert counts["dropped"] == {"queue_full_spans": 5}
            assert "503" in counts["last_error"]

    def test_waiting_spans_are_not_retried_too_often(self, make: Make) -> None:
        backend = Backend(refuse(retry_after=30))
        processor = make(backend, batch_size=1, queue_size=1000)
        end(processor, make_spans(1))
        wait_until(lambda: backend.attempts == 1, "the first attempt")
        end(processor, make_spans(200, name="more"))
        assert backend.attempts == 1
        assert processor.queued == 201

    def test_sends_again_after_an_outage(self, make: Make) -> None:
        backend = Backend(refuse())
        processor = make(backend, batch_size=1)
        end(processor, make_spans(3))
        wait_until(lambda: backend.attempts >= 2, "a second attempt")
        backend.behave = lambda: None
        wait_until(lambda: len(backend.names) == 3, "the spans")
        assert backend.names == ["span-0", "span-1", "span-2"]

    def test_a_batch_that_is_never_accepted_is_dropped_and_counted(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = Backend(refuse(reason="unauthorized", retryable=False))
        processor = make(backend, batch_size=2)
        end(processor, make_spans(6))
        wait_until(lambda: backend.attempts == 3, "three batches")
        wait_until(lambda: processor.queued == 0, "an empty queue")
        assert processor.counters.snapshot()["dropped"] == {"unauthorized": 6}
        assert len(caplog.records) == 1
        assert "They are dropped." in caplog.text

    def test_the_rejected_part_of_a_batch_is_counted_and_logged_once(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = Backend(refuse(reason="rejected", retryable=False, rejected=2))
        processor = make(backend, batch_size=5)
        end(processor, make_spans(10))
        assert processor.force_flush()
        counts = processor.counters.snapshot()
        assert counts["exported"] == 6
        assert counts["dropped"] == {"rejected": 4}
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("kind", ["returns", "raises"])
    def test_a_custom_exporter_has_three_attempts_for_each_batch(self, make: Make, kind: str) -> None:
        def behave() -> Any:
            if kind == "raises":
                raise MemoryError("no more")
            return SpanExportResult.FAILURE

        backend = Backend(behave)
        processor = make(backend, batch_size=2)
        end(processor, make_spans(4))
        while processor.queued:
            processor.force_flush()  # otherwise it would pause between the attempts
        assert backend.attempts == 6
        assert processor.counters.snapshot()["dropped"] == {"export_error": 4}

    def test_secrets_in_errors_of_custom_exporters_are_not_logged(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        def behave() -> None:
            raise RuntimeError("POST https://user:s3cret@collector/v1/traces failed\nAuthorization: Bearer t0ken.abc")

        processor = make(Backend(behave), batch_size=1)
        end(processor, make_spans())
        assert not processor.force_flush()
        assert "RuntimeError: POST https://" in caplog.text
        for text in (caplog.text, processor.counters.snapshot()["last_error"]):
            assert "s3cret" not in text
            assert "t0ken" not in text

    @pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
    def test_after_any_exception_of_an_exporter_the_next_spans_are_sent(
        self, make: Make, error: BaseException
    ) -> None:
        def behave() -> None:
            raise error

        backend = Backend(behave)
        processor = make(backend, batch_size=2)
        end(processor, make_spans(2))
        wait_until(lambda: processor.queued == 0, "the batch to be lost")
        backend.behave = lambda: None
        end(processor, make_spans(2, name="next"))
        assert processor.force_flush()
        assert backend.names == ["next-0", "next-1"]
        assert processor.counters.snapshot()["dropped"] == {"export_error": 2}

    def test_a_broken_span_or_log_filter_loses_nothing_else(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Filter(logging.Filter):
            def filter(self, record: logging.LogRecord) -> bool:
                raise RuntimeError("the user's own mistake")

        backend = Backend(refuse(reason="rejected", retryable=False))
        processor = make(backend, batch_size=1)
        logger = logging.getLogger("django_tracing.export")
        monkeypatch.setattr(logger, "filters", [Filter()])
        processor.on_end(object())  # type: ignore[arg-type]
        end(processor, make_spans())
        wait_until(lambda: processor.queued == 0, "the batch to be dropped")
        backend.behave = lambda: None
        end(processor, make_spans())
        assert processor.force_flush()
        assert backend.names == ["span-0"]
        assert processor.counters.snapshot()["dropped"] == {"unencodable": 1, "rejected": 1}


class TestFlush:
    def test_nothing_to_do(self, make: Make) -> None:
        assert make(Backend()).force_flush()

    def test_its_timeout_applies(self, make: Make, gate: Gate) -> None:
        processor = make(Backend(gate))
        end(processor, make_spans())
        assert not processor.force_flush(50)
        gate.open()
        assert processor.force_flush()

    def test_ends_while_more_spans_are_added(self, make: Make) -> None:
        # Each export brings a new span: a flush that waited for an empty queue would never end.
        backend = Backend(lambda: processor.on_end(make_spans(name="new")[0]))
        processor = make(backend)
        end(processor, make_spans(3))
        assert processor.force_flush()
        assert {"span-0", "span-1", "span-2"} <= set(backend.names)

    def test_false_when_the_backend_is_down(self, make: Make) -> None:
        backend = Backend(refuse())
        processor = make(backend)
        end(processor, make_spans())
        assert not processor.force_flush()
        assert processor.queued == 1
        backend.behave = lambda: None
        assert processor.force_flush()

    def test_an_attempt_that_started_before_it_does_not_count(self, make: Make, gate: Gate) -> None:
        def behave() -> None:
            gate()
            if backend.attempts == 1:
                refuse(retry_after=30)()

        backend = Backend(behave)
        processor = make(backend, batch_size=2)
        end(processor, make_spans(3))
        assert gate.reached.wait(20)
        flushed: list[bool] = []
        flush = threading.Thread(target=lambda: flushed.append(processor.force_flush()))
        flush.start()
        wait_until(lambda: processor._outbox.hurries, "the flush to wait")
        gate.open()
        flush.join(20)
        assert flushed == [True]
        assert backend.names == ["span-0", "span-1", "span-2"]

    @pytest.mark.parametrize("error", [SystemExit(1), ExportError("No.", reason="rejected", retryable=False)])
    def test_false_when_spans_are_lost(self, make: Make, error: BaseException) -> None:
        def behave() -> None:
            raise error

        processor = make(Backend(behave))
        end(processor, make_spans())
        assert not processor.force_flush()
        assert processor.queued == 0


class TestEnd:
    def test_sends_waiting_spans_and_shuts_the_exporter_down_once(self, make: Make) -> None:
        backend = Backend()
        processor = make(backend, batch_size=2, shutdown_timeout=30)
        end(processor, make_spans(5))
        processor.shutdown()
        processor.shutdown()
        assert len(backend.names) == 5
        assert backend.shut_down == 1
        end(processor, make_spans(2))
        assert processor.counters.snapshot()["dropped"] == {"shutdown": 2}
        assert processor.force_flush()

    def test_without_a_span(self, make: Make) -> None:
        backend = Backend()
        make(backend).shutdown()
        assert backend.shut_down == 1

    def test_a_hanging_backend_is_abandoned(self, make: Make, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
        backend = Backend(gate)
        processor = make(backend, batch_size=2, shutdown_timeout=0.1)
        end(processor, make_spans(5))
        assert gate.reached.wait(20)
        processor.shutdown()
        assert processor.counters.snapshot()["dropped"] == {"shutdown": 5}
        assert processor.queued == 0
        assert "5 spans could not be sent before the process ended." in caplog.text
        assert not processor.force_flush(50)

    def test_an_exporter_that_exits_when_no_thread_can_be_started(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def behave() -> None:
            raise SystemExit(3)

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(threading.Thread, "start", start)
        processor = make(Backend(behave), batch_size=2)
        end(processor, make_spans(5))
        processor.shutdown()
        assert processor.counters.snapshot()["dropped"] == {"shutdown": 5}
        assert processor.queued == 0

    @pytest.mark.parametrize("hangs", [False, True])
    def test_a_span_that_ends_meanwhile_is_counted_once(self, make: Make, gate: Gate, hangs: bool) -> None:
        late = make_spans()

        def behave() -> None:
            # Like a thread that is interrupted before it acquires the lock.
            processor._ended.extend(late)
            late.clear()
            if hangs:
                gate()

        backend = Backend(behave)
        processor = make(backend, batch_size=2, shutdown_timeout=0.1 if hangs else 30)
        end(processor, make_spans(2))
        processor.shutdown()
        end(processor, make_spans(1))
        assert backend.attempts == 1, "no empty batch may be sent"
        assert processor.counters.snapshot()["dropped"] == {"shutdown": 4 if hangs else 2}

    def test_a_backend_that_is_down_is_tried_once_more(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        backend = Backend(refuse(retry_after=30))
        processor = make(backend, shutdown_timeout=60)
        end(processor, make_spans(5))
        assert not processor.force_flush()
        processor.shutdown()
        assert backend.attempts == 2
        assert processor.counters.snapshot()["dropped"] == {"shutdown": 5}
        assert len(caplog.records) == 2

    @pytest.mark.parametrize("where", ["sent", "atexit", "thread"])
    def test_waiting_spans_are_sent_when_the_interpreter_ends(self, where: str) -> None:
        with OTLPReceiver() as receiver:
            run = _run(
                """
                import atexit, threading
                def work(name):
                    provider.get_tracer("t").start_span(name).end()
                if where == "sent":
                    work("first")
                    processor.force_flush()
                    work("a")
                elif where == "atexit":
                    # Runs before the provider's own exit handler, when no thread can be started any more.
                    atexit.register(work, "a")
                else:
                    threading.Thread(target=work, args=("a",)).start()
                """,
                receiver.endpoint,
                where,
            )
            assert run.returncode == 0, run.stderr
            assert run.stderr == ""
            receiver.wait_for(lambda spans: "a" in [span.name for span in spans])

    @pytest.mark.parametrize("mode", ["hang", 503, "drop", "refused"])
    def test_the_interpreter_ends_with_any_backend(self, mode: str | int) -> None:
        with OTLPReceiver() as receiver:
            endpoint = receiver.endpoint
            if mode == "refused":
                endpoint = "http://127.0.0.1:9"
            else:
                receiver.mode = mode
            run = _run('provider.get_tracer("t").start_span("a").end()', endpoint)
        assert run.returncode == 0, run.stderr
        assert "1 spans could not be sent before the process ended." in run.stderr
        assert "Traceback" not in run.stderr
        assert len(run.stderr.splitlines()) <= 2


def _run(code: str, endpoint: str, where: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a new interpreter, with a ``provider`` whose ``processor`` sends to ``endpoint``."""
    prelude = f"""
import textwrap
from opentelemetry.sdk.trace import TracerProvider
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.export.queue import QueueProcessor
where = {where!r}
processor = QueueProcessor(OTLPHTTPExporter({endpoint!r}), export_interval=600, shutdown_timeout=2)
provider = TracerProvider()
provider.add_span_processor(processor)
exec(textwrap.dedent({code!r}))
"""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )


def test_a_span_that_ends_during_on_end_of_another(make: Make) -> None:
    """A span of a signal handler or a finalizer may do so, which interrupts a thread that holds the locks."""
    processor = make(Backend())
    with processor._changed, processor.counters._lock:
        end(processor, make_spans(3))
        processor.counters.drop("shutdown")
    assert processor.force_flush()


request_of_another_tracer: ContextVar[str] = ContextVar("request_of_another_tracer", default="none")


def test_the_thread_is_not_part_of_the_request_that_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry, and free-threaded Python, give a thread the context that it is started in."""
    seen = []
    start = Thread.start

    def inheriting_start(self: Thread) -> None:
        seen.append(request_of_another_tracer.get())
        start(self)

    monkeypatch.setattr(Thread, "start", inheriting_start)
    processor = QueueProcessor(InMemorySpanExporter())
    token = request_of_another_tracer.set("GET /orders/")
    try:
        processor._start()
    finally:
        request_of_another_tracer.reset(token)
        processor.shutdown()
    assert seen == ["none"]
