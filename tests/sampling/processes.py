"""Run scripts in processes of a site whose database is SQLite."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.e2e.processes import environment

__all__ = ["finished", "run", "start"]

ROOT = Path(__file__).parents[2]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process in which warnings are errors."""
    program = f"import sys\nfrom tests.sampling.sqlite_site import *\n{textwrap.dedent(script)}"
    variables = environment()
    del variables["DJANGO_SETTINGS_MODULE"]
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert not err
    return out


def run(script: str, *arguments: object) -> str:
    return finished(start(script, *arguments))
