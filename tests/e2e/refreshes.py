"""Write down which processes of a worker read the sampling rules."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["processes", "write_down_refreshes"]


def write_down_refreshes(path: Path) -> None:
    """Add a line to the file ``path`` each time that this process, or one forked from it, reads the rules."""
    from django_tracing.sampling.refresh import Refresher

    original = Refresher.refresh

    def refresh(self: Any) -> None:
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        original(self)

    Refresher.refresh = refresh  # type: ignore[method-assign]


def processes(path: Path) -> set[str]:
    """Return the processes that have read the rules."""
    return set(path.read_text().split())
