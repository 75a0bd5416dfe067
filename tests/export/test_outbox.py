"""Test the order and the pauses of batches, with a clock and a receiver that are numbers and functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from django_tracing.exceptions import ExportError, ExportReason
from django_tracing.export.outbox import PROBE, Outbox


@dataclass
class Batch:
    number: int
    count: int = 1
    size: int = 1


def failure(
    reason: ExportReason = "unavailable", *, retryable: bool = True, after: float | None = None
) -> ExportError:
    return ExportError("No.", reason=reason, retryable=retryable, retry_after=after)


@dataclass
class Simulation:
    """Sends what the outbox wants sent to ``receive(batch, now)``, which returns an error or None, without waiting."""

    receive: Callable[[Batch | None, float], ExportError | None]
    can_probe: bool = True
    retry_for: float = 60.0
    now: float = 1000.0
    attempts: list[tuple[float, int | None]] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    made: int = 0

    def __post_init__(self) -> None:
        self.outbox = Outbox(retry_for=self.retry_for, room_bytes=1000, can_probe=self.can_probe)

    def put(self, count: int = 1) -> None:
        for _ in range(count):
            self.outbox.put(Batch(self.made))
            self.made += 1

    def step(self) -> bool:
        """Send one thing. Return False if everything waits."""
        step: Any = self.outbox.next(self.now)
        if isinstance(step, float):
            assert step > 0, "the thread would not wait"
            return False
        batch = None if step is PROBE else step.batch
        self.attempts.append((self.now, batch and batch.number))
        error = self.receive(batch, self.now)
        if batch is None:
            self.outbox.probed(error, self.now)
            return True
        self.outbox.start(step, len(self.attempts))
        if error is None:
            self.accepted.append(batch.number)
            self.outbox.accept(self.now)
        else:
            for reason, lost in self.outbox.fail(error, self.now):
                self.dropped[reason] += lost.count
        return True

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            for _ in range(10_000):
                if not self.step():
                    break
            else:
                raise AssertionError("10,000 attempts without a pause")
            wait = self.outbox.next(self.now)
            if self.now + wait > end:
                self.now = end
                return
            self.now = math.nextafter(self.now + wait, math.inf)

    @property
    def waiting(self) -> int:
        return sum(batch.count for batch in self.outbox.take_all())


@given(data=st.data(), can_probe=st.booleans(), retry_for=st.sampled_from([0.0, 5.0, 60.0]))
@settings(max_examples=200, deadline=None)
def test_each_batch_is_accepted_dropped_or_waits(data: st.DataObject, can_probe: bool, retry_for: float) -> None:
    reasons: list[ExportReason] = ["unavailable", "refused", "dns", "timeout", "failed", "rejected", "unauthorized"]
    answers = data.draw(
        st.lists(
            st.none()
            | st.builds(
                failure,
                st.sampled_from(reasons),
                retryable=st.booleans(),
                after=st.none() | st.floats(0, 1e9, allow_nan=False),
            ),
            max_size=60,
        )
    )
    simulation = Simulation(lambda batch, now: answers.pop(0) if answers else None, can_probe, retry_for)
    for pause in data.draw(st.lists(st.floats(0, 40), max_size=12)):
        simulation.put(data.draw(st.integers(0, 5)))
        simulation.run(pause)
    # Whatever happened: when the receiver accepts everything, everything is sent, in half a minute.
    answers.clear()
    simulation.run(31)
    assert not simulation.outbox
    assert len(set(simulation.accepted)) == len(simulation.accepted)
    assert simulation.made == len(simulation.accepted) + sum(simulation.dropped.values())


@given(
    reason=st.sampled_from(["unavailable", "refused", "timeout"]),
    outage=st.floats(0.1, 58),
    batches=st.integers(1, 40),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_an_outage_loses_nothing_and_its_end_is_noticed_within_a_second(
    reason: ExportReason, outage: float, batches: int, data: st.DataObject
) -> None:
    back = 1000.0 + outage
    simulation = Simulation(lambda batch, now: failure(reason) if now < back else None)
    while simulation.now < back:
        simulation.put(data.draw(st.integers(0, batches)))
        simulation.run(min(data.draw(st.floats(0.5, 20)), back - simulation.now) or 0.01)
    simulation.put()
    simulation.run(1)
    assert sorted(simulation.accepted) == list(range(simulation.made))
    # One attempt at a time: a probe a second, and batches after growing pauses.
    tried = [number for _, number in simulation.attempts if number is not None]
    assert len(tried) - simulation.made <= 2 + 12
    assert len(simulation.attempts) - len(tried) <= outage / 0.6 + 2


@given(order=st.permutations(["bad", "bad", *["good"] * 12]), after=st.none() | st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_batches_that_are_refused_for_ever_do_not_delay_others(order: list[str], after: float | None) -> None:
    simulation = Simulation(
        lambda batch, now: failure(after=after) if batch and order[batch.number] == "bad" else None
    )
    for _ in order:
        simulation.put()
        simulation.run(0.1)
    # If the first two are refused, the receiver seems to be overloaded, and it is given the time that it asks for.
    simulation.run(2 + min(after or 0, 30))
    assert len(simulation.accepted) == 12
    simulation.run(120)
    assert simulation.dropped == {"expired": 2}
    # With growing pauses: not more than a dozen attempts in a minute.
    for number, kind in enumerate(order):
        assert sum(tried == number for _, tried in simulation.attempts) <= (14 if kind == "bad" else 1)


def test_time_while_the_receiver_cannot_be_reached_does_not_count() -> None:
    simulation = Simulation(lambda batch, now: failure("refused") if now < 5000 else None)
    simulation.put(3)
    simulation.run(4001)
    assert simulation.accepted == [0, 1, 2]


def test_a_receiver_that_accepts_only_probes_is_not_overrun() -> None:
    simulation = Simulation(lambda batch, now: failure() if batch else None, retry_for=1e9)
    simulation.put(100)
    simulation.run(60)
    assert len(simulation.attempts) < 40


def test_pauses_grow_and_differ() -> None:
    def pauses() -> list[float]:
        simulation = Simulation(lambda batch, now: failure() if batch and not batch.number else None, retry_for=100)
        simulation.put(2)
        simulation.run(90)
        times = [now for now, number in simulation.attempts if number == 0]
        return [later - now for now, later in zip(times, times[1:], strict=False)]

    first, second = pauses(), pauses()
    assert first != second
    assert all(later > now for now, later in zip(first[:6], first[1:6], strict=False))
    assert max(first) <= 30.1


def test_a_retry_after_is_followed_up_to_half_a_minute() -> None:
    def next_attempt(asked: float) -> float:
        simulation = Simulation(lambda batch, now: failure(after=asked) if now < 1000.5 else None)
        simulation.put(5)
        simulation.run(40)
        return next(now for now, _ in simulation.attempts if now > 1000.5) - 1000

    assert 7 <= next_attempt(7) <= 8
    assert 29 <= next_attempt(1e9) <= 31


def test_the_number_of_refused_batches_is_bounded() -> None:
    # Every other batch is refused for ever.
    simulation = Simulation(lambda batch, now: failure(after=30) if batch and batch.number % 2 else None)
    for _ in range(500):
        simulation.put()
        simulation.run(0.001)
    assert len(simulation.accepted) == 250
    assert simulation.dropped == {"retry_full": 150}


@dataclass
class Large(Batch):
    def split(self) -> tuple[Large, Large]:
        first, second = self.count // 2, self.count - self.count // 2
        return Large(self.number, first, first), Large(self.number, second, second)


def test_after_eight_single_spans_that_are_too_large_no_other_of_their_size_is_sent() -> None:
    tried: list[int] = []

    def receive(batch: Batch | None, now: float) -> ExportError:
        assert batch is not None
        tried.append(batch.count)
        return failure("too_large", retryable=False)

    simulation = Simulation(receive)
    simulation.outbox.put(Large(0, 64, 64))
    simulation.run(1)
    assert simulation.dropped == {"too_large": 64}
    assert tried.count(1) == 8
    # The next batch gets eight attempts of its own.
    tried.clear()
    simulation.outbox.put(Large(1, 64, 64))
    simulation.run(1)
    assert tried.count(1) == 8


def test_spans_that_are_too_large_are_counted_in_a_row() -> None:
    """One that is accepted shows that the receiver takes that size: the next ones are sent, too."""
    singles: list[Batch] = []

    def receive(batch: Batch | None, now: float) -> ExportError | None:
        assert batch is not None
        if batch.count == 1:
            singles.append(batch)
        return None if batch.count == 1 and len(singles) % 2 else failure("too_large", retryable=False)

    simulation = Simulation(receive)
    simulation.outbox.put(Large(0, 64, 64))
    simulation.run(1)
    assert len(singles) == 64
    assert (len(simulation.accepted), simulation.dropped) == (32, {"too_large": 32})


def test_a_flush_waits_for_the_parts_of_all_batches() -> None:
    outbox = Outbox(retry_for=60, room_bytes=1000, can_probe=True)
    too_large = failure("too_large", retryable=False)
    for number in range(2):
        outbox.put(Large(number, count=2))
    outbox.start(outbox.next(0.0), 1)
    outbox.fail(too_large, 0.0)
    # The parts of the second batch come before those of the first one.
    outbox.start(outbox._fresh[0], 2)
    outbox.fail(too_large, 0.0)
    assert not outbox.is_done(1)
    for attempt in (3, 4):
        outbox.start(outbox._parts[0], attempt)
        outbox.accept(0.0)
    assert not outbox.is_done(1)
