"""Test that ``make soak`` notices what grows and what is missing."""

from __future__ import annotations

import mmap
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.faults.accounts import Account
from tests.e2e.soak.report import Result, report
from tests.e2e.soak.samples import Process, Sample, sample

MIB = 1024 * 1024
LENGTH = 90


def process(memory: float = 0.0, descriptors: float = 0.0, threads: float = 0.0) -> Process:
    """A process whose use grows by so much from the first sample to the last, with some noise."""
    chance = random.Random(1)
    return Process(
        "shop",
        [
            Sample(
                anonymous=round(80 * MIB * (1 + memory * number / LENGTH) + chance.randint(0, MIB // 4)),
                resident=100 * MIB,
                descriptors=20 + round(descriptors * number / LENGTH) + chance.randint(0, 6),
                threads=10 + round(threads * number / LENGTH) + chance.randint(0, 2),
            )
            for number in range(LENGTH)
        ],
    )


def result(**changes: object) -> Result:
    account = Account(made=10, arrived=7, dropped=Counter(rejected=3))
    options = {"name": "site", "sent": 9, "statuses": Counter({200: 8, 500: 1}), "processes": [process()]}
    return Result(**{**options, "account": account, "disk": {"store": (MIB, 2 * MIB)}, **changes})  # type: ignore[arg-type]


def test_what_is_flat_meets_all_marks() -> None:
    assert process().missed == []
    assert result().missed == []


@pytest.mark.parametrize(
    ("grown", "missed"),
    [
        ({"memory": 0.05}, ["memory"]),
        ({"descriptors": 10}, ["descriptors"]),
        ({"threads": 6}, ["threads"]),
    ],
)
def test_what_grows_is_missed(grown: dict[str, float], missed: list[str]) -> None:
    assert process(**grown).missed == missed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"account": Account(made=10, arrived=9)}, "1 spans are unaccounted for"),
        ({"account": Account(made=10, arrived=9, waiting=1)}, "1 spans are still waiting"),
        ({"account": Account(made=10, arrived=10, unknown=1)}, "1 spans are unknown"),
        (
            {"statuses": Counter({200: 8, -1: 1}), "unanswered": ["1795795660 GET /x"]},
            "1 requests were not answered within 20 seconds (1795795660 GET /x)",
        ),
        ({"disk": {"store": (3 * MIB, 2 * MIB)}}, "the store had 3,145,728 bytes"),
        ({"processes": []}, "no process lived through the run"),
        ({"processes": [process(memory=0.05)]}, "shop: memory"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, object], words: str) -> None:
    found = result(**changes)
    assert found.missed == [f"site: {words}"]
    assert f"MISSED site: {words}" in report([found])


def test_the_tables() -> None:
    text = report([result()])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]
    assert rows[2][:3] == ["site", "shop", "80.1 MiB"]
    assert rows[2][4] == "+0.0 %"
    assert rows[5] == ["site", "9", "1", "10", "7", "rejected 3", "0", "store 1.0 of 2 MiB"]
    assert rows[6] == ["All marks are met."]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_a_process_is_measured() -> None:
    before = sample(os.getpid())
    assert before is not None
    # Not from memory that the process has, but does not use.
    held = mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"x" * (8 * MIB))
    with open(os.devnull):
        after = sample(os.getpid())
    assert after is not None
    assert after.anonymous - before.anonymous >= 6 * MIB
    assert after.descriptors == before.descriptors + 1
    held.close()
    # No process has this number.
    assert sample(2**22 + 1) is None
