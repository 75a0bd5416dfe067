"""Test what a process tells and prepares when it starts: uWSGI's threads. Workers of tasks are in ``tests/e2e``."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from django_tracing.process_starts import warn_of_missing_threads


@pytest.mark.parametrize(("has_threads", "lines"), [(0, 1), (1, 0)])
def test_uwsgi_without_threads_is_logged_with_the_option(
    has_threads: int, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(has_threads=has_threads))
    warn_of_missing_threads()
    assert caplog.text.count("start it with --enable-threads") == lines


def test_another_server_is_not_warned(caplog: pytest.LogCaptureFixture) -> None:
    assert "uwsgi" not in sys.modules
    warn_of_missing_threads()
    assert caplog.text == ""
