"""The guard of an ID generator of another package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace.id_generator import IdGenerator

from django_tracing import faults
from django_tracing.recording.ids import GuardedIdGenerator


class Generator(IdGenerator):
    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def generate_trace_id(self) -> Any:
        return self.make()

    def generate_span_id(self) -> Any:
        return self.make()

    def is_trace_id_random(self) -> Any:
        return self.make()


def leave() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("make", [leave, lambda: None, lambda: "x", lambda: 0, lambda: -1, lambda: 2**128])
def test_what_is_no_id_is_replaced_by_a_random_one(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_faults", faults._Faults())
    guarded = GuardedIdGenerator(Generator(make))
    made = [guarded.generate_trace_id() for _ in range(3)], [guarded.generate_span_id() for _ in range(3)]
    assert len({*made[0], *made[1]}) == 6
    assert all(0 < number < 2**128 for number in made[0])
    assert all(0 < number < 2**64 for number in made[1])
    # Once: it happens for every span.
    assert [record.getMessage() for record in caplog.records] == [
        "The generator of OTEL_PYTHON_ID_GENERATOR failed. Ids are random instead."
    ]
    assert guarded.is_trace_id_random() is (make not in (leave,) and bool(make()))


def test_ids_of_any_valid_size_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2**64 - 1):
        guarded = GuardedIdGenerator(Generator(lambda number=number: number))
        assert (guarded.generate_trace_id(), guarded.generate_span_id()) == (number, number)
    assert caplog.records == []
    large = GuardedIdGenerator(Generator(lambda: 2**64))
    assert large.generate_trace_id() == 2**64
    assert large.generate_span_id() < 2**64
    assert GuardedIdGenerator(Generator(lambda: 2**128 - 1)).generate_trace_id() == 2**128 - 1


def test_old_generators_do_not_say_whether_their_ids_are_random() -> None:
    class Old:
        generate_trace_id = generate_span_id = staticmethod(lambda: 1)

    old: Any = Old()
    assert GuardedIdGenerator(old).is_trace_id_random() is False
