"""Measure which test runs which line of the app, and how long the test takes: a pytest plugin."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

_times: dict[str, float] = {}
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # For the processes that the test starts.
    os.environ["MUTANTS_TEST"] = item.nodeid
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        if measured is not None:
            measured.switch_context("")
        os.environ["MUTANTS_TEST"] = ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _times[report.nodeid] = _times.get(report.nodeid, 0) + report.duration
    if not report.passed:
        # A test that is skipped here kills nothing.
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    config: Any = session.config
    if hasattr(config, "workerinput"):
        return
    passed = {test: seconds for test, seconds in _times.items() if test not in _failed}
    Path(os.environ["MUTANTS_DATA"], "new_times.json").write_text(json.dumps(passed))
