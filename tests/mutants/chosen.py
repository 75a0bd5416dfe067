"""Run the chosen tests in the chosen order, up to the first failure: a pytest plugin.

This module is imported in the process from which the mutants are forked, so it imports nothing of the app.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import Phase, settings


class Chosen:
    def __init__(self, tests: list[str], known: set[str], report: Path) -> None:
        self._places = {test: place for place, test in enumerate(tests)}
        self._known = known
        self._report = report

    def pytest_sessionstart(self) -> None:
        # After tests/conftest.py, and before the tests are imported. The first example that fails is enough: a smaller
        # one is not looked for, which would take minutes.
        settings.register_profile(
            "mutants", settings(), phases=(Phase.explicit, Phase.generate), database=None, report_multiple_bugs=False
        )
        settings.load_profile("mutants")

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
