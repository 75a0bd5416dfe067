"""The mutants that behave like the app itself, each with the reason: ``equivalent.txt``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_name("equivalent.txt")


class Equivalent(NamedTuple):
    file: str
    before: str
    after: str
    reason: str

    @property
    def name(self) -> str:
        return f"{self.file}\n- {self.before}\n+ {self.after}"


def equivalents(text: str | None = None) -> list[Equivalent]:
    """Read the list. A block is a file, its line after ``-``, each changed line after ``+``, and the reason."""
    found = []
    for block in (LIST.read_text() if text is None else text).split("\n\n"):
        lines = [line for line in block.strip().splitlines() if not line.startswith("#")]
        if not lines:
            continue
        before = [line[2:] for line in lines[1:] if line.startswith("- ")]
        after = [line[2:] for line in lines[1:] if line.startswith("+ ")]
        reason = " ".join(line for line in lines[1:] if not line.startswith(("- ", "+ ")))
        if len(before) != 1 or not after or not reason:
            raise ValueError(f"{LIST.name}: not a file, a line with -, lines with + and a reason: {block!r}")
        found += [Equivalent(lines[0], before[0], each, reason) for each in after]
    return found
