"""Which folders can be a spool."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_tracing.export.spool import is_writable


@pytest.mark.parametrize(("given", "expected"), [("", False), ("w", False), ("x", False), ("wx", True)])
def test_it_needs_the_rights_to_write_and_to_enter(
    given: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The user of the tests may be root, who has all rights.
    rights = sum({"w": os.W_OK, "x": os.X_OK}[letter] for letter in given)
    monkeypatch.setattr(os, "access", lambda place, mode: mode & rights == mode)
    assert is_writable(tmp_path) is expected
    # One that is not there yet is made in the nearest that is.
    assert is_writable(tmp_path / "new" / "spool") is expected


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert is_writable(tmp_path)
    assert not is_writable(file)
    assert not is_writable(file / "spool")
