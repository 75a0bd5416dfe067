"""Print what a soak measured as Markdown tables, and name the marks that were missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.e2e.faults.accounts import Account
from tests.e2e.soak.samples import Process, Series

__all__ = ["Result", "report"]

_MIB = 1024 * 1024


@dataclass
class Result:
    """What one site did and used."""

    name: str
    sent: int
    statuses: Counter[int]
    processes: list[Process]
    account: Account
    #: The largest size in bytes, and the limit, by name.
    disk: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: The requests without an answer.
    unanswered: list[str] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        missed = [f"{self.name}: {process.name}: {what}" for process in self.processes for what in process.missed]
        if not self.processes:
            missed.append(f"{self.name}: no process lived through the run")
        if self.statuses[-1]:
            requests = "; ".join(self.unanswered[:20])
            missed.append(
                f"{self.name}: {self.statuses[-1]} requests were not answered within 20 seconds ({requests})"
            )
        for name, (size, limit) in self.disk.items():
            if size > limit:
                missed.append(f"{self.name}: the {name} had {size:,} bytes")
        for name, count in (
            ("unaccounted for", self.account.unaccounted),
            ("unknown", self.account.unknown),
            ("still waiting", self.account.waiting),
        ):
            if count:
                missed.append(f"{self.name}: {count:,} spans are {name}")
        return missed


def report(results: Sequence[Result]) -> str:
    """Return both tables, and a line for each mark that was missed."""
    processes = [
        (result.name, process.name, *_memory(process), *_counts(process.descriptors), *_counts(process.threads))
        for result in results
        for process in result.processes
    ]
    heading = ("Site", "Process", "Memory at first", "at last", "Growth", "RSS at last", "Descriptors at first")
    tables = [
        _table((*heading, "at last", "Threads at first", "at last"), processes),
        _table(
            ("Site", "Requests", "5xx", "Spans made", "Arrived", "Dropped, by reason", "Unaccounted for", "On disk"),
            [_spans(result) for result in results],
        ),
        "\n".join([f"MISSED {line}" for result in results for line in result.missed] or ["All marks are met."]),
    ]
    return "\n\n".join(tables)


def _memory(process: Process) -> tuple[str, ...]:
    first, last = process.anonymous.compare()
    return (
        f"{first / _MIB:.1f} MiB",
        f"{last / _MIB:.1f} MiB",
        f"{process.growth:+.1%}".replace("%", " %"),
        f"{process.resident.compare()[1] / _MIB:.1f} MiB",
    )


def _counts(series: Series) -> tuple[str, str]:
    first, last = series.compare(median)
    return f"{first:.0f}", f"{last:.0f}"


def _spans(result: Result) -> tuple[str, ...]:
    account = result.account
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(account.dropped.items()))
    disk = ", ".join(
        f"{name} {size / _MIB:.1f} of {limit / _MIB:.0f} MiB" for name, (size, limit) in result.disk.items()
    )
    errors = sum(count for status, count in result.statuses.items() if status >= 500)
    return (
        result.name,
        f"{result.sent:,}",
        f"{errors:,}",
        f"{account.made:,}",
        f"{account.arrived:,}",
        dropped or "0",
        f"{account.unaccounted:,}",
        disk,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
