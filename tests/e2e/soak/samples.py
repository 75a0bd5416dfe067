"""Measure what processes use, and compare the beginning and the end of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

__all__ = ["Process", "Sample", "Series", "sample"]

#: How much more memory a process may use in the last third of the run.
MOST_GROWTH = 0.02


@dataclass(frozen=True)
class Sample:
    """What a process uses at one moment; memory is in bytes."""

    #: Memory that only the process can fill: its heap and stacks, not the files that it has mapped. It does not depend
    #: on other processes, as PSS and USS do when a sibling ends.
    anonymous: int
    resident: int
    descriptors: int
    threads: int


def sample(pid: int) -> Sample | None:
    """Return what the process uses; None if it has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        memory = _kilobytes((folder / "smaps_rollup").read_text())
        descriptors = len(os.listdir(folder / "fd"))
        threads = len(os.listdir(folder / "task"))
    except (OSError, KeyError):
        return None
    return Sample(memory["Anonymous"] * 1024, memory["Rss"] * 1024, descriptors, threads)


def _kilobytes(text: str) -> dict[str, int]:
    return {words[0][:-1]: int(words[1]) for words in map(str.split, text.splitlines()) if words[-1] == "kB"}


@dataclass
class Series:
    """The samples of one value, taken at the same moments of each cycle."""

    values: list[float] = field(default_factory=list)

    @property
    def _thirds(self) -> tuple[Sequence[float], Sequence[float]]:
        third = max(len(self.values) // 3, 1)
        return self.values[:third], self.values[-third:]

    def compare(self, average: Callable[[Sequence[float]], float] = mean) -> tuple[float, float]:
        """Return the averages of the first third and of the last one."""
        first, last = self._thirds
        return average(first), average(last)


class Process:
    """A process that lives for the whole run."""

    def __init__(self, name: str, samples: Sequence[Sample]) -> None:
        self.name = name
        self.anonymous = Series([each.anonymous for each in samples])
        self.resident = Series([each.resident for each in samples])
        self.descriptors = Series([each.descriptors for each in samples])
        self.threads = Series([each.threads for each in samples])

    @property
    def growth(self) -> float:
        """How much more memory it uses in the last third than in the first one, as a share."""
        first, last = self.anonymous.compare()
        return last / first - 1

    @property
    def missed(self) -> list[str]:
        """Name what is not flat."""
        missed = ["memory"] if self.growth > MOST_GROWTH else []
        for name, series in (("descriptors", self.descriptors), ("threads", self.threads)):
            first, last = series.compare(median)
            # One more: which of two numbers the median is may depend on chance.
            if last > first + max(1, first * MOST_GROWTH):
                missed.append(name)
        return missed
