"""Test that a trouble is logged when it begins, once an hour while it lasts, and when it ends."""

from __future__ import annotations

import ast
import itertools
import logging
import threading
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_tracing.exceptions import ExportError
from django_tracing.export.announcements import Announcements
from django_tracing.export.counters import Counters
from django_tracing.faults import Lasting, fault_counts, log_hourly, log_once

PACKAGE = Path(__file__).parent.parent / "django_tracing"
MINUTE, HOUR = 60.0, 3600.0

#: What happens after how many seconds.
PAUSES = st.sampled_from([0.0, 0.1, 5.0, 59.0, 61.0, 600.0, 3599.0, 3601.0])
HISTORIES = st.lists(st.tuples(PAUSES, st.booleans()), max_size=60)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_tracing.faults._faults.by_key", {})


@settings(max_examples=50)
@given(HISTORIES)
def test_no_history_floods_the_log_or_is_silent_for_longer_than_an_hour(history: list[tuple[float, bool]]) -> None:
    trouble = Lasting()
    now = 1000.0
    last_line: float | None = None
    told = False
    times = 0
    for pause, happens in history:
        now += pause
        with patch("time.monotonic", return_value=now):
            if happens:
                times += 1
                due = last_line is None or now - last_line >= (HOUR if told else MINUTE)
                assert trouble.happens() is due
                if due:
                    assert trouble.is_first is not told
                    told, last_line = True, now
            else:
                assert trouble.ends() == (times if told else 0)
                told, times = False, 0


def happen(key: str) -> None:
    try:
        raise LookupError("100 %s lost")
    except LookupError:
        log_once(key, "100 % is lost.")


def test_a_fault_is_logged_once_an_hour_with_the_number_of_times(caplog: pytest.LogCaptureFixture) -> None:
    for now in (10.0, 11.0, 12.0, 3611.0, 3612.0):
        with patch("time.monotonic", return_value=now):
            happen("lost")
    assert [record.getMessage() for record in caplog.records] == [
        "100 % is lost.",
        "100 % is lost. It happened 2 more times since it was last logged.",
    ]
    assert all(record.exc_info for record in caplog.records)
    assert fault_counts() == {"lost": 5}


def test_each_fault_of_many_threads_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    threads = [threading.Thread(target=lambda: [happen("raced") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fault_counts() == {"raced": 2000}
    assert len(caplog.records) == 1


def test_keys_of_other_packages_do_not_fill_the_memory() -> None:
    for number in range(1000):
        log_hourly(f"{number}{'x' * 200}", "Something failed.")
    assert len(fault_counts()) == 200
    assert max(map(len, fault_counts())) == 100


def test_a_logging_set_up_that_raises_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("a filter of the site")

    logger, broken = logging.getLogger("django_tracing"), Broken()
    logger.addFilter(broken)
    try:
        happen("filtered")
    finally:
        logger.removeFilter(broken)
    assert fault_counts() == {"filtered": 1}


# ----- exporting

EVENTS = st.sampled_from(["down", "accepted", "refused", "rejected", "full", "nothing"])


def failure(event: str) -> ExportError:
    return ExportError("No.", reason="refused", retryable=True, rejected=1 if event == "rejected" else None)


def lines_of(history: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the lines, and when they are logged, of a queue whose attempts have these results."""
    counters = Counters()
    announce = Announcements(counters)
    now = 1000.0
    logged: list[tuple[float, str]] = []
    for pause, event in history:
        now += pause
        with patch("time.monotonic", return_value=now):
            line: str | None = None
            if event == "down":
                line = announce.unavailable(failure(event), 7, "16 MiB")
            elif event == "accepted":
                line = announce.available()
            elif event in ("refused", "rejected"):
                line = announce.refused(failure(event), 3)
                counters.drop("rejected", 3)
            elif event == "full":
                counters.drop("queue_full_bytes", 2)
            logged += [(now, each) for each in (line, announce.overflow("16 MiB")) if each is not None]
    return logged


@settings(max_examples=50)
@given(st.lists(st.tuples(PAUSES, EVENTS), max_size=80))
def test_no_history_of_a_queue_floods_the_log(history: list[tuple[float, str]]) -> None:
    kinds = Counter[str]()
    logged = lines_of(history)
    for _, line in logged:
        kinds[line.partition(" because ")[0][:24]] += 1
    spent = sum(pause for pause, _ in history)
    # Four kinds of trouble; each begins and ends at most once a minute.
    assert len(logged) <= 2 * 4 * (spent // MINUTE + 1)
    for beginning in ("Spans can't be sent: No. 7", "Spans are dropped", "Spans can't be sent: No. They", "No. They"):
        times = [time for time, line in logged if line.startswith(beginning)]
        assert all(later - earlier >= MINUTE for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("event", ["down", "refused", "rejected", "full"])
def test_a_state_of_a_queue_has_a_line_at_its_beginning_each_hour_and_at_its_end(event: str) -> None:
    lasting = [(10.0, event)] * 1000
    logged = lines_of([*lasting, (61.0, "accepted"), (61.0, "accepted")])
    assert [time for time, _ in logged] == [1010.0, 4610.0, 8210.0, 11061.0]
    dropped = {"down": 0, "refused": 3000, "rejected": 3000, "full": 2000}[event]
    assert f"{dropped} were dropped meanwhile" in logged[-1][1] or f"{dropped} spans were dropped" in logged[-1][1]
    hourly = {"down": 0, "refused": 3 * 361, "rejected": 3 * 361, "full": 2 * 361}[event]
    assert f"{hourly} spans were dropped" in logged[1][1] or f"{hourly} were dropped" in logged[1][1]


# ----- every line of this app

#: Where a line is written without faults.py, and why that is no flood.
BOUNDED = {
    "apps.py:ready": "at the start",
    "export/announcements.py:warn": "Announcements decides",
    "faults.py:_log": "Lasting decides",
    "instrumentation/__init__.py:install": "once a start",
    "instrumentation/__init__.py:_uninstall": "once a start",
    "pages/downloads.py:_pieces": "one for each file that a person asked for and got no whole one of",
    "process_starts.py:warn_of_missing_threads": "at the start",
    "provider.py:_log": "at the start",
    "recording/probe.py:probe": "once a process",
    "sampling/refresh.py:_log_failure": "Lasting decides",
    "sampling/refresh.py:_log_missing_table": "once until the table is there",
    "sampling/refresh.py:_log_shared_connections": "Lasting decides",
    "sampling/refresh.py:_log_status_failure": "Lasting decides",
    "sampling/refresh.py:_store": "Lasting decides",
    "sampling/refresh.py:refresh": "Lasting decides",
    "sampling/refresh.py:use": "once until the rule is changed",
    "sampling/remote.py:_log_failure": "Lasting decides",
    "sampling/remote.py:ask": "Lasting decides",
    "traces/readers/sqlite/store.py:_give_up": "once an hour",
}


def test_every_line_is_bounded() -> None:
    """A new line goes through ``log_once``, ``log_hourly`` or ``Lasting``, unless it can't be repeated."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        for function in ast.walk(ast.parse(text)) if "getLogger(" in text else ():
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for node in ast.walk(function):
                    if (
                        isinstance(node, ast.Call)
                        and isinstance(node.func, ast.Attribute)
                        and node.func.attr in ("info", "warning", "error", "critical", "exception", "log")
                        and ast.unparse(node.func.value).startswith(("_logger", "logger", "logging."))
                    ):
                        found.add(f"{path.relative_to(PACKAGE).as_posix()}:{function.name}")
    assert found == set(BOUNDED)
