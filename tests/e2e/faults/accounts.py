"""Count the spans of a row: made, arrived, waiting, dropped, lost with a killed process, and not accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Account", "account", "given_up"]

#: The reason of spans that had not been handed over when their process was killed.
WITH_THE_PROCESS = "lost with the process"


@dataclass
class Account:
    """The spans of all processes of a row."""

    made: int = 0
    arrived: int = 0
    waiting: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    #: Spans that arrived and that no process made.
    unknown: int = 0

    @property
    def unaccounted(self) -> int:
        """Spans that are missing without a count; negative if more are counted than were made."""
        return self.made - self.arrived - self.waiting - sum(self.dropped.values())


@dataclass
class _Process:
    made: set[str] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    #: How many waited, by what the queue itself reported last.
    waiting: int = 0


def account(folder: Path, arrived: Set[str], *, stored: int = 0, killed: bool = False) -> Account:
    """Return the account of the processes that wrote into ``folder``.

    ``arrived`` has the ids of the spans that arrived, and ``stored`` is how many are in the spool. Spans that wait in
    a live process are those that its queue reports. A process that has ended holds none; if ``killed``, what it had
    not handed over is counted as lost with it: at most as many spans as its queue held.
    """
    total = Account(waiting=stored)
    known: set[str] = set()
    held = 0
    for path in folder.glob("*.spans"):
        process = _read(path)
        known |= process.made
        total.made += len(process.made)
        total.dropped += process.dropped
        if _is_alive(int(path.name.split(".")[1])):
            total.waiting += process.waiting
        else:
            held += process.waiting
    total.arrived = len(known & arrived)
    total.unknown = len(arrived - known)
    if killed and (lost := min(total.unaccounted, held)) > 0:
        total.dropped[WITH_THE_PROCESS] = lost
    return total


def given_up(folder: Path) -> set[str]:
    """Return the spans that the local store had stored when it deleted their traces to make room.

    A span that is stored after its trace was deleted is stored again: it is not one of them.
    """
    stored: list[tuple[str, str, int]] = []
    deleted: dict[str, int] = {}
    for path in folder.glob("*.spans"):
        for kind, *words in _lines(path):
            if kind == "L":
                stored.append((words[0], words[1], int(words[2])))
            elif kind == "G":
                deleted[words[0]] = max(int(words[1]), deleted.get(words[0], 0))
    return {span_id for span_id, trace_id, since in stored if since < deleted.get(trace_id, 0)}


def _read(path: Path) -> _Process:
    process = _Process()
    for kind, *words in _lines(path):
        if kind == "S":
            process.made.add(words[0])
            process.waiting = int(words[1])
        elif kind == "D":
            process.dropped[words[0]] += int(words[1])
        elif kind == "Q":
            process.waiting = int(words[0])
    return process


def _lines(path: Path) -> Iterator[list[str]]:
    # The last one may be half written.
    whole, _, _ = path.read_text().rpartition("\n")
    for line in whole.splitlines():
        yield line.split(" ")


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(") ")[2][0] != "Z"
