"""Test what is told from the errors of what is called: interruptions, which remove all marks."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from django.core.cache import cache

from django_tracing import create_span
from django_tracing.context.marks import is_interruption
from django_tracing.faults import fault_counts, log_once
from tests.conftest import Spans


class TimeLimit(Exception):
    """As those of Celery, RQ and Django-Q2."""


@pytest.fixture
def _limit() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TimeLimit

    before = signal.signal(signal.SIGUSR1, stop)
    yield
    signal.signal(signal.SIGUSR1, before)


def contained() -> None:
    """Contain every exception, as the hooks of this app do."""
    try:
        signal.raise_signal(signal.SIGUSR1)
    except Exception:
        log_once("a fault of a test", "It failed.")


@pytest.mark.usefixtures("_limit")
def test_a_time_limit_that_strikes_in_a_hook_is_passed_on() -> None:
    with pytest.raises(TimeLimit):
        contained()
    assert "a fault of a test" not in fault_counts()


@pytest.mark.usefixtures("_limit")
def test_a_time_limit_that_the_host_is_handling_is_not_raised_again() -> None:
    def hook() -> None:
        log_once("another fault of a test", "It is logged while the host handles its own exception.")

    try:
        signal.raise_signal(signal.SIGUSR1)
    except TimeLimit:
        hook()
    assert fault_counts()["another fault of a test"] == 1


@pytest.mark.usefixtures("_limit")
@pytest.mark.parametrize(
    ("error", "interrupts"),
    [
        (KeyboardInterrupt(), True),
        (SystemExit(1), True),
        (ValueError(), False),
        (StopIteration(), False),
        (asyncio.CancelledError(), False),
        (GeneratorExit(), False),
    ],
)
def test_interruptions(error: BaseException, interrupts: bool) -> None:
    assert is_interruption(error) is interrupts
    try:
        signal.raise_signal(signal.SIGUSR1)
    except TimeLimit as limit:
        assert is_interruption(limit)


def test_a_shell_goes_on_tracing_after_ctrl_c(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came when the cache had answered, and its mark was not removed yet."""
    from django_tracing.instrumentation import cache as instrumentation

    with pytest.raises(KeyboardInterrupt), create_span("first"):
        instrumentation._inside.set(True)
        raise KeyboardInterrupt
    with create_span("second"):
        cache.get("blueprint:1")
    assert spans.names == ["first", "cache.get.blueprint:*", "second"]
