"""Print the results of all rows as one Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.e2e.faults.rows import Result

__all__ = ["table"]

_HEAD: tuple[str, ...] = (
    "Fault",
    "Requests",
    "Failed because of tracing",
    "Spans made",
    "Arrived",
    "Buffered",
    "Arrived afterwards",
    "Dropped, by reason",
    "Unaccounted for",
)


def table(sections: Mapping[str, Sequence[Result]]) -> str:
    lines = [_HEAD]
    for section, results in sections.items():
        lines.append((f"**{section}**", *[""] * (len(_HEAD) - 1)))
        lines += [_line(result) for result in results]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _line(result: Result) -> tuple[str, ...]:
    during, final = result.during, result.final
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(final.dropped.items()))
    return (
        result.row.name,
        f"{result.requests:,}",
        f"{result.failed:,}",
        f"{final.made:,}",
        f"{during.arrived:,}",
        f"{during.waiting:,}",
        f"{final.arrived - during.arrived:,}",
        dropped or "0",
        f"{result.unaccounted:,}",
    )
