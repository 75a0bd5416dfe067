"""List everything that reads what comes from outside: one row each."""

from __future__ import annotations

from typing import Final

from tests.fuzz import backends, callers, files, operators, texts
from tests.fuzz.running import Target

__all__ = ["TARGETS"]

TARGETS: Final[tuple[Target, ...]] = (
    *callers.TARGETS,
    *texts.TARGETS,
    *backends.TARGETS,
    *files.TARGETS,
    *operators.TARGETS,
)
