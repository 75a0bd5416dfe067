"""Run the chosen tests in the chosen order, up to the first failure: a pytest plugin.

This module is imported in the process from which the mutants are forked, so it imports nothing of the app.
"""

from __future__ import annotations

from pathlib import Path

import pytest


class Chosen:
    def __init__(self, tests: list[str], known: set[str], report: Path) -> None:
        self._places = {test: place for place, test in enumerate(tests)}
        self._known = known
        self._report = report

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # A test that was not there when coverage was measured may well be about the mutant.
        new = [item for item in items if item.nodeid not in self._known]
        old = [item for item in items if item.nodeid in self._places]
        items[:] = new + sorted(old, key=lambda item: self._places[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._report.write_text(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._report.write_text(f"import of {report.nodeid}")
