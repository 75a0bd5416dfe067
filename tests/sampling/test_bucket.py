"""Test the token bucket."""

from __future__ import annotations

import pytest

from django_tracing.sampling.bucket import TokenBucket


def test_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("django_tracing.sampling.bucket.time.monotonic", lambda: now[0])
    bucket = TokenBucket(2)
    assert [bucket.take() for _ in range(4)] == [True, True, False, False]
    now[0] += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] += 3600
    assert [bucket.take() for _ in range(3)] == [True, True, False], (
        "after a pause, the budget of one second is available"
    )
    seldom = TokenBucket(0.1)
    assert [seldom.take() for _ in range(2)] == [True, False]
    now[0] += 10
    assert seldom.take()


def test_a_budget_of_zero_allows_nothing() -> None:
    assert not TokenBucket(0).take()
