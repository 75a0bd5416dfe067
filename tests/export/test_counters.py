"""Test the counts of spans and attributes, and what a forked child begins with."""

from __future__ import annotations

import os

import pytest

from django_tracing.export import counters as module
from django_tracing.export.counters import Counters, drop_attributes


def dropped_attributes() -> int:
    return int(Counters().snapshot()["dropped_attributes"].get("unencodable", 0))


def test_attributes_are_counted_for_the_whole_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_attributes", module._Attributes())
    drop_attributes("unencodable", 2)
    drop_attributes("unencodable", 3)
    assert dropped_attributes() == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_counts_its_own_attributes() -> None:
    """Also if a thread of the parent held the lock."""
    drop_attributes("unencodable", 1)
    before = dropped_attributes()
    with module._attributes.lock:
        child = os.fork()
        if child == 0:
            try:
                lock = module._attributes.lock
                drop_attributes("unencodable", 4)
                # A lock that another thread held would not be this one's to release.
                os._exit(dropped_attributes() if not lock._is_owned() else 99)  # type: ignore[attr-defined]
            finally:
                os._exit(98)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert dropped_attributes() == before


def test_all_counts() -> None:
    counters = Counters()
    empty = counters.snapshot()
    assert [empty[name] for name in ("exported", "retries", "spooled", "unspooled", "dropped")] == [0, 0, 0, 0, {}]
    assert [empty[f"last_{name}"] for name in ("drop_time", "error", "error_time", "success_time")] == [None] * 4
    counters.sent(3)
    counters.spool(4)
    counters.unspool(5)
    counters.retried()
    counters.drop("queue_full_spans")
    counters.drop("queue_full_bytes", 2)
    counters.drop("shutdown", 6)
    counters.failed("No.")
    counts = counters.snapshot()
    assert [counts[name] for name in ("exported", "retries", "spooled", "unspooled")] == [3, 1, 4, 5]
    assert counts["dropped"] == {"queue_full_spans": 1, "queue_full_bytes": 2, "shutdown": 6}
    assert (counters.dropped_because_full(), counters.dropped_total()) == (3, 9)
    assert counts["last_error"] == "No."
    assert None not in [counts[f"last_{name}"] for name in ("drop_time", "error_time", "success_time")]
