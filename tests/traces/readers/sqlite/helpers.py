"""Run scripts in other processes, and examine the store's files."""

from __future__ import annotations

import sqlite3
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

REPOSITORY = Path(__file__).parents[4]


def run(script: str, *arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
    """Start a Python process that runs ``script`` with ``sys.argv[1:]`` and with warnings as errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=REPOSITORY,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not err
    return out


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


def span_ids(connection: sqlite3.Connection, after: int = 0) -> tuple[set[str], int]:
    """Return the ids of the spans in chunks after the one with the number ``after``, and the number of the latest."""
    found: set[str] = set()
    for chunk, ids in connection.execute("SELECT chunk, ids FROM parts WHERE chunk > ?", [after]).fetchall():
        found.update(f"{span_id:016x}" for (span_id,) in struct.iter_unpack("<Q", ids))
        after = max(after, chunk)
    return found, after


def set_asides(path: Path) -> list[Path]:
    return [each for each in path.parent.glob(f"{path.name}.corrupt-*") if not each.name.endswith(("-wal", "-shm"))]
