"""Test that one diagnosis at a time runs on a machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from django_tracing.diagnosis import alone as module
from django_tracing.diagnosis.alone import alone

ELSEWHERE = "from django_tracing.diagnosis.alone import alone\nwith alone() as is_alone:\n    print(is_alone)"


def elsewhere() -> str:
    """Return what another process finds."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip() or done.stderr


def test_one_in_all_processes() -> None:
    with alone() as first:
        assert first
        with alone() as second:
            assert not second
        assert elsewhere() == "False"
    assert elsewhere() == "True"
    with alone() as again:
        assert again


def test_an_exception_ends_it() -> None:
    with pytest.raises(ZeroDivisionError), alone():
        1 / 0  # noqa: B018
    with alone() as again:
        assert again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_child_that_is_forked_meanwhile_holds_nothing_back() -> None:
    read, write = os.pipe()
    with alone() as first:
        assert first
        child = os.fork()
        if not child:
            with alone() as is_alone:
                os.write(write, b"busy" if not is_alone else b"free")
            # It lives on, with a copy of the parent's descriptor.
            os.read(read, 0)
            os.execvp(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])
        assert os.read(read, 4) == b"busy", "the parent still runs its diagnosis"
    try:
        with alone() as again:
            assert again
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_where_no_file_can_be_locked_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FILE", "/nonexistent")
    with alone() as first, alone() as second:
        assert (first, second) == (True, False)
    with alone() as again:
        assert again
