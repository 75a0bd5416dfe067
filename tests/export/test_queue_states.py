"""Test queues that are muted or have no thread, and what receivers accept in part."""

from __future__ import annotations

from threading import Thread
from types import SimpleNamespace

import pytest

from django_tracing.export import queue, sender
from tests.export.builders import make_spans
from tests.export.queues import Backend, Make, end, refuse


class TestWithoutThreads:
    def test_the_end_of_the_process_waits_for_the_time_limit_only(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where no thread can be started, what waits is sent by the one that ends the process."""
        clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
        for module in (queue, sender):
            monkeypatch.setattr(module, "time", clock)

        def refuse_to_start(thread: Thread) -> None:
            raise RuntimeError("can't start new thread at interpreter shutdown")

        def take_a_second() -> None:
            clock.now += 1

        monkeypatch.setattr(Thread, "start", refuse_to_start)
        backend = Backend(take_a_second)
        # One request takes no longer than all of them may.
        backend.timeout = 10.0  # type: ignore[attr-defined]
        processor = make(backend, batch_size=1, shutdown_timeout=2.5)
        end(processor, make_spans(10))
        processor.shutdown()
        assert backend.names == ["span-0", "span-1", "span-2"]
        assert processor.state()["dropped"] == {"shutdown": 7}
        assert backend.shut_down == 1
        assert backend.timeout == 2.5  # type: ignore[attr-defined]


class TestPartialSuccess:
    @pytest.mark.parametrize(("rejected", "exported"), [(0, 3), (2, 1), (3, 0), (500, 0)])
    def test_no_more_spans_are_rejected_than_were_sent(self, make: Make, rejected: int, exported: int) -> None:
        """A receiver may only warn, or count wrongly."""
        processor = make(Backend(refuse(reason="rejected", retryable=False, rejected=rejected)))
        end(processor, make_spans(3))
        assert processor.force_flush()
        state = processor.state()
        assert (state["queued"], state["exported"]) == (0, exported)
        assert state["dropped"] == ({"rejected": 3 - exported} if rejected else {})


class TestMuted:
    """While a site is tested, its spans are not sent, except those that the site asks for by name."""

    def test_only_what_is_passed_to_send_is_sent(self, make: Make) -> None:
        backend = Backend()
        processor = make(backend, muted=lambda: True)
        end(processor, make_spans(3, name="of a test"))
        assert processor.state()["queued"] == 0
        processor.send(make_spans(1, name="wanted")[0])
        # The thread runs now.
        end(processor, make_spans(100, name="of another test"))
        assert processor.force_flush()
        assert backend.names == ["wanted-0"]
        assert processor.state()["dropped"] == {}

    def test_it_stays_muted(self, make: Make) -> None:
        """Spans that ended in a test are not sent after the tests, nor are those that waited before."""
        backend, is_muted = Backend(), [False]
        processor = make(backend, muted=lambda: is_muted[0])
        end(processor, make_spans(3, name="before"))
        is_muted[0] = True
        end(processor, make_spans(3, name="of a test"))
        assert processor.force_flush()
        is_muted[0] = False
        end(processor, make_spans(3, name="after"))
        assert processor.force_flush()
        assert backend.names == []
        assert processor.state()["queued"] == 0
