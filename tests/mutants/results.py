"""The results of mutation testing: a file with a line for each mutant, and the table of them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

from tests.mutants.equivalent import equivalents
from tests.mutants.modules import FOLDER, PARTS, part

RESULTS = FOLDER / "results.jsonl"
KILLED, SURVIVED, EQUIVALENT = "killed", "survived", "equivalent"


def results_so_far() -> dict[str, dict[str, Any]]:
    if not RESULTS.exists():
        return {}
    return {(result := json.loads(line))["name"]: result for line in RESULTS.read_text().splitlines()}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of docs: killed, with the interval that has the true share with a probability of 95 %."""
    listed = {each.name for each in equivalents()}
    rows = defaultdict(lambda: {KILLED: 0, SURVIVED: 0, EQUIVALENT: 0})
    for name, result in results.items():
        status = EQUIVALENT if name in listed and result["status"] == SURVIVED else result["status"]
        for row in (part(name.split("\n")[0]), "all"):
            rows[row][status] += 1
    order = [*PARTS, *(row for row in rows if row not in PARTS and row != "all"), "all"]
    lines = [
        "| Part | Mutants | Killed | Survived | Equivalent | Killed, without equivalent ones |",
        "|---|---|---|---|---|---|",
    ]
    for row in (row for row in order if row in rows):
        counts = rows[row]
        of = counts[KILLED] + counts[SURVIVED]
        low, high = interval(counts[KILLED], of)
        share = f"{counts[KILLED] / of:.0%} ({low:.0%} to {high:.0%})" if of else ""
        numbers = (sum(counts.values()), counts[KILLED], counts[SURVIVED], counts[EQUIVALENT])
        lines.append(f"| {row} | {' | '.join(f'{number:,}' for number in numbers)} | {share} |")
    return "\n".join(lines)


def interval(hits: int, of: int) -> tuple[float, float]:
    """Return Wilson's interval of 95 % for a share that a sample shows."""
    if not of:
        return 0.0, 1.0
    z = 1.96
    center = (hits + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(hits * (of - hits) / of + z * z / 4)
    return max(0.0, center - half), min(1.0, center + half)
