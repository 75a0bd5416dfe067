"""Test the queue with a spool: what can't be sent survives on disk, and is sent once the receiver is back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from django_tracing.export.announcements import Announcements
from django_tracing.export.counters import Counters
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.export.spool import Spool, can_spool
from django_tracing.export.spooling import Spooling
from tests.export.builders import make_spans
from tests.export.queues import Make, end
from tests.export.test_spool import encode
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver, ReceivedSpan

pytestmark = pytest.mark.skipif(not can_spool(), reason="needs flock()")
ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def shared() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(shared: OTLPReceiver) -> Iterator[OTLPReceiver]:
    shared.clear()
    shared.mode = "ok"
    yield shared
    shared.decide = None


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 64 * MIB)


def names(receiver: OTLPReceiver) -> list[str]:
    return [span.name for span in receiver.spans]


def spooled(spool: Spool) -> int:
    return spool.contents().spans


class TestAnOutage:
    def test_what_waits_is_on_disk_and_is_sent_when_the_receiver_is_back(
        self, make: Make, receiver: OTLPReceiver, spool: Spool
    ) -> None:
        receiver.mode = 503
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=2, spool=spool)
        for number in range(10):
            end(processor, make_spans(2, name=f"batch{number}"))
        wait_until(lambda: spooled(spool) == 20, "all spans to be on disk")
        wait_until(lambda: processor.queued == 0, "an empty queue")
        receiver.mode = "ok"
        receiver.wait_for(20)
        assert names(receiver) == [f"batch{number}-{span}" for number in range(10) for span in range(2)]
        wait_until(lambda: spooled(spool) == 0, "an empty spool")
        wait_until(lambda: processor.counters.snapshot()["unspooled"] == 20, "the last batch to be counted")
        counts = processor.counters.snapshot()
        assert (counts["exported"], counts["spooled"], counts["dropped"]) == (20, 20, {})

    @pytest.mark.parametrize(("filled", "stored"), [(0.6, False), (0.9, True)])
    def test_a_queue_that_is_nearly_full_is_stored_though_the_receiver_answers(
        self, filled: float, stored: bool, make: Make, receiver: OTLPReceiver, spool: Spool
    ) -> None:
        answered = threading.Event()
        receiver.decide = lambda spans: (200 if answered.wait(60) else 500, {}, b"")
        processor = make(
            OTLPHTTPExporter(receiver.endpoint, timeout=60), batch_size=1, queue_bytes=40_000, spool=spool
        )
        end(processor, make_spans(1, name="first"))
        wait_until(lambda: processor._outbox.current is not None, "the first batch to be sent")
        count = 1
        while processor.state()["queued_bytes"] < filled * 40_000:
            end(processor, make_spans(1, text="x" * 1000))
            count += 1
        answered.set()
        wait_until(lambda: processor.state()["exported"] == count, "all spans to be sent")
        assert processor.state()["spooled"] == (count - 1 if stored else 0)
        assert processor.state()["dropped"] == {}

    def test_an_incomplete_batch_is_stored_after_the_interval(
        self, make: Make, receiver: OTLPReceiver, spool: Spool
    ) -> None:
        receiver.mode = 503
        processor = make(OTLPHTTPExporter(receiver.endpoint), export_interval=0.05, spool=spool)
        for number in range(3):
            end(processor, make_spans(1, name=f"s{number}"))
            wait_until(lambda number=number: spooled(spool) == number + 1, "the span to be on disk")

    def test_new_spans_do_not_wait_for_the_spool(self, make: Make, receiver: OTLPReceiver, spool: Spool) -> None:
        other = make(OTLPHTTPExporter("http://127.0.0.1:9"), batch_size=1, spool=spool)
        end(other, make_spans(60, name="old"))
        wait_until(lambda: spooled(spool) == 60, "all spans to be on disk")
        all_wait = threading.Event()

        def decide(spans: list[ReceivedSpan]) -> tuple[str | int, dict[str, str], bytes]:
            assert all_wait.wait(20)
            return "ok", {}, b""

        receiver.decide = decide
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1, spool=Spool(spool.folder, 64 * MIB))
        end(processor, make_spans(10, name="new"))
        all_wait.set()
        receiver.wait_for(70)
        # In turn: with ten new batches and sixty old ones, the new ones are among the first twenty or so.
        assert set(names(receiver)[:25]) >= {f"new-{number}" for number in range(10)}

    def test_a_process_that_starts_sends_what_another_one_left(
        self, make: Make, receiver: OTLPReceiver, spool: Spool, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = make(OTLPHTTPExporter("http://127.0.0.1:9"), batch_size=2, spool=spool)
        end(first, make_spans(5, name="left"))
        first.shutdown()
        assert first.counters.snapshot()["dropped"] == {}
        assert spooled(spool) == 5
        assert "could not be sent before" not in caplog.text
        second = make(OTLPHTTPExporter(receiver.endpoint), spool=Spool(spool.folder, MIB))
        end(second, make_spans(1, name="new"))
        second.force_flush()
        receiver.wait_for(6)
        wait_until(lambda: spooled(spool) == 0, "an empty spool")

    def test_a_hanging_receiver_at_the_end(self, make: Make, receiver: OTLPReceiver, spool: Spool) -> None:
        receiver.mode = "hang"
        exporter = OTLPHTTPExporter(receiver.endpoint)
        processor = make(exporter, batch_size=2, spool=spool, shutdown_timeout=0.1)
        end(processor, make_spans(5))
        receiver.wait_for_requests(1)
        processor.shutdown()
        assert processor.counters.snapshot()["dropped"] == {}
        assert spooled(spool) == 5
        receiver.mode = "ok"
        assert processor._thread is not None
        processor._thread.join(20)
        exporter.shutdown()

    def test_a_flush_that_fails_stores_what_waits(self, make: Make, spool: Spool) -> None:
        """A process may end by os._exit() after it."""
        processor = make(OTLPHTTPExporter("http://127.0.0.1:9"), spool=spool)
        end(processor, make_spans(3))
        assert not processor.force_flush()
        assert spooled(spool) == 3


CRASH = """
import os, sys
from pathlib import Path
from django_tracing.export.announcements import Announcements
from django_tracing.export.counters import Counters
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.export.spool import Spool
from tests.export.builders import make_spans
spool = Spool(Path(sys.argv[1]), 64 * 1024 * 1024)
processor = QueueProcessor(OTLPHTTPExporter("http://127.0.0.1:9"), export_interval=0.05, spool=spool)
number = 0
while True:
    for span in make_spans(7, name=f"{number}"):
        processor.on_end(span)
    number += 1
    print(number, flush=True)
    sys.stdin.readline()
"""


def test_kill_9_loses_at_most_the_last_interval(make: Make, receiver: OTLPReceiver, spool: Spool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH, str(spool.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        for number in range(4):
            assert process.stdout.readline() == f"{number + 1}\n"
            wait_until(lambda number=number: spooled(spool) >= 7 * (number + 1), "the interval to pass")
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1, spool=spool)
    end(processor, make_spans(1, name="new"))
    receiver.wait_for(lambda spans: len({span.name for span in spans}) >= 29)
    assert {f"{number}-{span}" for number in range(4) for span in range(7)} <= set(names(receiver))


class TestRefusedBatches:
    @staticmethod
    def refuse(receiver: OTLPReceiver, status: int) -> None:
        def decide(spans: list[ReceivedSpan]) -> tuple[str | int, dict[str, str], bytes]:
            return (status if any(span.name.startswith("poison") for span in spans) else "ok"), {}, b""

        receiver.decide = decide

    def test_a_batch_waits_on_disk_after_retry_for_and_is_dropped_in_the_end(
        self,
        make: Make,
        receiver: OTLPReceiver,
        spool: Spool,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr("django_tracing.export.spooling._REFUSED_PAUSE", 0.05)
        self.refuse(receiver, 503)
        options = {"batch_size": 2, "retry_for": 0.4, "export_interval": 0.05}
        processor = make(OTLPHTTPExporter(receiver.endpoint), spool=spool, **options)
        end(processor, make_spans(2, name="good"))
        receiver.wait_for(2)
        end(processor, make_spans(2, name="poison"))
        wait_until(lambda: processor.counters.snapshot()["spooled"] == 2, "the batch to be stored")
        assert processor.counters.snapshot()["dropped"] == {}
        assert "They are dropped" not in caplog.text
        # As long as nothing else is accepted, it stays: the receiver may be down.
        sent = iter(range(1000))

        def send() -> bool:
            end(processor, make_spans(2, name=f"next{next(sent)}"))
            processor.force_flush()
            return bool(processor.counters.snapshot()["dropped"])

        caplog.clear()
        wait_until(send, "the batch to be dropped")
        assert processor.counters.snapshot()["dropped"] == {"expired": 2}
        assert spooled(spool) == 0

    def test_the_line_of_a_batch_that_others_pass_says_that_it_is_stored(
        self, make: Make, receiver: OTLPReceiver, spool: Spool, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.refuse(receiver, 503)
        options = {"batch_size": 2, "retry_for": 0.4, "export_interval": 0.05}
        processor = make(OTLPHTTPExporter(receiver.endpoint), spool=spool, **options)
        end(processor, make_spans(2, name="poison"))

        def is_stored() -> bool:
            end(processor, make_spans(2, name="good"))
            processor.force_flush()
            return "They wait on disk, in SPOOL." in caplog.text

        wait_until(is_stored, "the batch to be stored")
        assert "They are dropped" not in caplog.text

    @pytest.mark.parametrize(("status", "reason"), [(400, "wrong_protocol"), (413, "too_large"), (500, "rejected")])
    def test_one_that_is_refused_for_ever(
        self, make: Make, receiver: OTLPReceiver, spool: Spool, status: int, reason: str
    ) -> None:
        left = make(OTLPHTTPExporter("http://127.0.0.1:9"), batch_size=4, spool=spool)
        spans = [*make_spans(3, name="good"), *make_spans(1, name="poison")]
        end(left, spans)
        left.shutdown()
        self.refuse(receiver, status)
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1, spool=Spool(spool.folder, 64 * MIB))
        end(processor, make_spans(1, name="new"))
        wait_until(lambda: processor.counters.snapshot()["dropped"], "the batch to be dropped")
        wait_until(lambda: processor.queued == 0 and not spooled(spool), "everything to be sent")
        lost = 1 if status == 413 else 4
        assert processor.counters.snapshot()["dropped"] == {reason: lost}
        assert len(names(receiver)) == 5 - lost


class TestBounds:
    def test_the_oldest_are_dropped_and_counted(self, make: Make, tmp_path: Path) -> None:
        spool = Spool(tmp_path, 100_000)
        processor = make(OTLPHTTPExporter("http://127.0.0.1:9"), batch_size=1, spool=spool)
        end(processor, make_spans(20, text="x" * 20_000))
        wait_until(lambda: processor.counters.snapshot()["spooled"] == 20, "all spans to be stored")
        assert processor.counters.snapshot()["dropped"] == {"spool_full": 16}
        assert spooled(spool) == 4
        assert spool.contents().bytes <= 100_000

    def test_a_folder_that_cannot_be_used_costs_nothing_else(
        self, make: Make, receiver: OTLPReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        receiver.mode = 503
        processor = make(
            OTLPHTTPExporter(receiver.endpoint), batch_size=2, spool=Spool(tmp_path / "file" / "spool", MIB)
        )
        end(processor, make_spans(6))
        wait_until(lambda: "The spool can't be used: Not a directory" in caplog.text, "the failure")
        assert processor.queued == 6
        receiver.mode = "ok"
        receiver.wait_for(6)
        assert sorted(names(receiver)) == [f"span-{number}" for number in range(6)]
        receiver.mode = 503
        end(processor, make_spans(2, name="last"))
        processor.shutdown()
        assert processor.counters.snapshot()["dropped"] == {"shutdown": 2}

    def test_damaged_records_are_counted(self, make: Make, receiver: OTLPReceiver, spool: Spool) -> None:
        left = make(OTLPHTTPExporter("http://127.0.0.1:9"), batch_size=3, spool=spool)
        end(left, make_spans(6, name="left"))
        left.shutdown()
        first, _second = sorted(spool.folder.glob("*.spans"))
        first.write_bytes(first.read_bytes()[:-1])
        processor = make(OTLPHTTPExporter(receiver.endpoint), batch_size=1, spool=Spool(spool.folder, MIB))
        end(processor, make_spans(1, name="new"))
        receiver.wait_for(4)
        assert processor.counters.snapshot()["dropped"] == {"spool_damaged": 3}


def test_what_is_known_of_refused_batches_is_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_tracing.export.spooling._MOST_REFUSED", 5)
    counters = Counters()
    spooling = Spooling(spool, counters, Announcements(counters), 60.0)
    for _ in range(20):
        spooling.store([encode()], sync=False)
    for now in range(100, 120):
        if spooling.next(now) is not None:
            assert spooling.keep(now, accepted=0)
    assert 0 < len(spooling._refused) <= 5


class TestOneSide:
    """What a queue asks of its side of the spool, with times of its own."""

    @pytest.fixture
    def counters(self) -> Counters:
        return Counters()

    @pytest.fixture
    def spooling(self, spool: Spool, counters: Counters) -> Spooling:
        return Spooling(spool, counters, Announcements(counters), 60.0)

    def test_an_empty_spool_is_looked_at_once_a_second(self, spooling: Spooling) -> None:
        assert spooling.is_due(100.0)
        assert spooling.next(100.0) is None
        assert not spooling.is_due(100.9)
        assert spooling.is_due(101.0)
        spooling.store([encode()], sync=False)
        assert spooling.is_due(100.9)
        assert spooling.next(100.9) is not None
        assert spooling.is_due(100.9)

    def test_a_refused_batch_waits_for_others(self, spooling: Spooling) -> None:
        spooling.store([encode(name="first"), encode(name="second")], sync=False)
        first = spooling.next(100.0)
        assert first is not None
        assert spooling.keep(100.0, accepted=0)
        second = spooling.next(100.0)
        assert second is not None and second.name != first.name
        spooling.done()
        assert spooling.next(104.9) is None
        again = spooling.next(105.0 + 0.1)
        assert again is not None and again.name == first.name
        # Not yet RETRY_FOR seconds; then, only if others were accepted meanwhile.
        assert spooling.keep(159.0, accepted=7)
        assert spooling.next(170.0) is not None
        assert spooling.keep(160.0, accepted=0)
        assert spooling.next(170.0) is not None
        assert not spooling.keep(160.0, accepted=1)
        spooling.done()
        assert spooling.next(200.0) is None
        assert spooling.keep(200.0, accepted=9)

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(28, "No space left on device", "/secret/path"), "No space left on device (OSError)"),
            (OSError("The spool is full."), "The spool is full. (OSError)"),
            (RuntimeError("something else"), "something else (RuntimeError)"),
        ],
    )
    def test_a_failure_is_named_without_the_path(
        self,
        error: Exception,
        words: str,
        spooling: Spooling,
        counters: Counters,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(os, "open", fail)
        assert spooling.store([encode(), encode()]) == 0
        now = time.monotonic()
        monkeypatch.undo()
        line = f"The spool can't be used: {words}."
        assert counters.snapshot()["last_error"] == line
        assert line in caplog.text
        assert counters.snapshot()["spooled"] == 0
        # For a while, nothing is tried; then, again.
        assert not spooling.is_usable(now + 5) and not spooling.is_due(now + 5)
        assert spooling.is_usable(now + 11) and spooling.is_due(now + 11)
        assert spooling.store([encode(), encode()]) == 2

    def test_a_folder_that_cannot_be_read(
        self, spooling: Spooling, spool: Spool, counters: Counters, caplog: pytest.LogCaptureFixture
    ) -> None:
        spool.folder.touch()
        assert spooling.next(100.0) is None
        assert counters.snapshot()["last_error"] == "The spool can't be used: Not a directory (NotADirectoryError)."
        assert "The spool can't be used: Not a directory" in caplog.text
        assert not spooling.is_due(time.monotonic() + 5)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_shares_the_spool(make: Make, spool: Spool) -> None:
    processor = make(OTLPHTTPExporter("http://127.0.0.1:9"), batch_size=1, spool=spool)
    end(processor, make_spans(2, name="parent"))
    wait_until(lambda: spooled(spool) == 2, "the parent's spans")
    child = os.fork()
    if child == 0:
        try:
            end(processor, make_spans(2, name="child"))
            processor.shutdown()
            os._exit(0 if processor.counters.snapshot()["spooled"] == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert spooled(spool) == 4


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.sampled_from(["ok", 503, 400, "drop"]), st.integers(0, 12)), min_size=1, max_size=8),
    flush=st.booleans(),
)
def test_every_span_has_one_place(
    shared: OTLPReceiver, tmp_path: Path, steps: list[tuple[Any, int]], flush: bool
) -> None:
    """Made = exported + dropped + queued + on disk, whatever the receiver did."""
    shared.mode = "ok"
    shared.clear()
    spool = Spool(tmp_path / "spool", MIB)
    spool.empty()
    processor = QueueProcessor(
        OTLPHTTPExporter(shared.endpoint), batch_size=4, export_interval=60, spool=spool, shutdown_timeout=20
    )
    made = 0
    for number, (mode, count) in enumerate(steps):
        shared.mode = mode
        end(processor, make_spans(count, name=f"step{number}") if count else [])
        made += count
        if flush:
            processor.force_flush()
    processor.shutdown()
    counts = processor.counters.snapshot()
    assert processor.queued == 0
    assert made == counts["exported"] + sum(counts["dropped"].values()) + spooled(spool)
    assert set(counts["dropped"]) <= {"wrong_protocol"}
    assert len(names(shared)) == len(set(names(shared))) == counts["exported"]
