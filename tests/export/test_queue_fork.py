"""Test the queue in forked processes."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from django_tracing.exceptions import ExportError
from django_tracing.export.announcements import Announcements, SharedTimes
from django_tracing.export.counters import Counters
from django_tracing.export.otlp import OTLPHTTPExporter
from tests.export.builders import make_spans
from tests.export.queues import Backend, Gate, Make, end
from tests.receivers import OTLPReceiver

ROOT = Path(__file__).parents[2]


def test_each_line_is_logged_once_where_the_times_are_shared() -> None:
    times = SharedTimes()
    refused = ExportError("no", reason="rejected", retryable=False)
    partly = ExportError("no", reason="rejected", retryable=False, rejected=1)
    for expected in (True, False):
        # As in another process.
        announce = Announcements(Counters())
        announce.share(times)
        lines = [announce.unavailable(refused, 1, "1 MiB"), announce.spool_failed("no")]
        lines += [announce.refused(refused, 1), announce.refused(partly, 1)]
        assert [line is not None for line in lines] == [expected] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestFork:
    def test_each_process_sends_its_own_spans_once(self, make: Make) -> None:
        with OTLPReceiver() as receiver:
            # The child must send its spans within this time.
            processor = make(OTLPHTTPExporter(receiver.endpoint), shutdown_timeout=30)
            end(processor, make_spans(3, name="before"))
            assert processor.force_flush()
            end(processor, make_spans(2, name="waiting"))
            child = os.fork()
            if child == 0:
                try:
                    end(processor, make_spans(2, name="child"))
                    processor.shutdown()
                    os._exit(0 if processor.counters.snapshot()["exported"] == 2 else 1)
                finally:
                    os._exit(2)
            assert os.waitpid(child, 0)[1] == 0
            end(processor, make_spans(2, name="after"))
            assert processor.force_flush()
            names = [span.name for span in receiver.spans]
            assert sorted(names) == sorted(
                [
                    "before-0",
                    "before-1",
                    "before-2",
                    "waiting-0",
                    "waiting-1",
                    "child-0",
                    "child-1",
                    "after-0",
                    "after-1",
                ]
            )
            assert processor.counters.snapshot()["exported"] == 7

    @pytest.mark.parametrize(("shared", "lines"), [(True, 1), (False, 3)])
    def test_processes_of_a_worker_log_once_that_the_receiver_is_down(
        self, make: Make, tmp_path: Path, shared: bool, lines: int
    ) -> None:
        processor = make(OTLPHTTPExporter("http://127.0.0.1:1"), shutdown_timeout=30)
        if shared:
            processor.share_log_times()
        log = tmp_path / "log"
        for _ in range(3):
            child = os.fork()
            if child == 0:
                try:
                    handler = logging.FileHandler(log)
                    logging.getLogger("django_tracing.export").handlers = [handler]
                    end(processor, make_spans(1))
                    processor.force_flush()
                    handler.close()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
        assert log.read_text().count("Spans can't be sent") == lines

    def test_fork_while_the_lock_is_held_and_a_batch_is_sent(self, make: Make, gate: Gate) -> None:
        backend = Backend(gate)
        processor = make(backend, batch_size=1, queue_size=5)
        end(processor, make_spans(5))
        assert gate.reached.wait(20)
        holder, held = threading.Event(), threading.Event()

        def hold() -> None:
            with processor._changed:
                held.set()
                holder.wait(60)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(20)
        child = os.fork()
        if child == 0:
            try:
                backend.behave = lambda: None
                end(processor, make_spans(2, name="child"))
                os._exit(0 if processor.force_flush(20_000) and len(backend.names) == 2 else 1)
            finally:
                os._exit(2)
        holder.set()
        thread.join()
        assert os.waitpid(child, 0)[1] == 0

    def test_a_child_of_a_process_that_shut_tracing_down(self, make: Make) -> None:
        backend = Backend()
        processor = make(backend)
        end(processor, make_spans())
        processor.shutdown()
        child = os.fork()
        if child == 0:
            try:
                end(processor, make_spans(1, name="child"))
                os._exit(0 if processor.force_flush(20_000) and backend.names[-1] == "child-0" else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
