"""Tests of the environment that the Makefile creates."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """An interpreter whose version is 3.9.1, or whose venv module fails halfway if FAIL is set.

    The python of its environments runs nothing: a symbolic link to ours would let pip install into ours.
    """
    old = 'import sys; sys.version_info = (3, 9, 1); sys.version = "3.9.1 (main)"; exec(sys.argv.pop(1))'
    path = tmp_path / "python"
    path.write_text(
        f"""#!/bin/sh
if [ "$1" = -c ] && [ -z "$FAIL" ]; then exec {sys.executable} -c '{old}' "$2"; fi
if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi
mkdir -p "$3/bin" && ln -s /bin/false "$3/bin/python"
echo "ensurepip is not available" >&2
exit "${{FAIL:-0}}"
"""
    )
    path.chmod(0o755)
    return path


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **environment},
    )


@pytest.mark.parametrize("target", ["setup", "demo", "docs", "release-check"])
def test_an_interpreter_that_is_too_old_is_named_and_leaves_nothing(
    target: str, interpreter: Path, tmp_path: Path
) -> None:
    made = make(target, f"PYTHON={interpreter}", f"VENV={tmp_path}/venv")
    assert made.returncode == 2
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lowest = setup["options"]["python_requires"].removeprefix(">=")
    assert made.stderr.startswith(f"This is Python 3.9.1, and {lowest} or later is needed.")
    assert not (tmp_path / "venv").exists()


def test_an_environment_that_could_not_be_created_is_not_used_next_time(interpreter: Path, tmp_path: Path) -> None:
    # Debian's python3 without python3-venv leaves an environment without pip.
    for _ in range(2):
        made = make("setup", f"PYTHON={interpreter}", f"VENV={tmp_path}/venv", FAIL="1")
        assert made.returncode == 2
        assert "ensurepip is not available" in made.stderr
        assert not (tmp_path / "venv" / "bin" / "python").exists()
