"""Waiting for an import: told once, when the module is there, and nobody can tell that somebody waited."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path

import pytest

from django_tracing import faults
from django_tracing.instrumentation.imports import when_imported

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module under a name that no other test has; gives the name."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    number = abs(hash(tmp_path))

    def write(name: str, source: str) -> str:
        path = tmp_path.joinpath(*f"waited{number}{name}".split("."))
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".py").write_text(source)
        importlib.invalidate_caches()
        return ".".join(path.relative_to(tmp_path).parts)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_it_is_told_once_when_the_module_is_whole(write: Write) -> None:
    name = write("", "whole = False\nwhole = True\n")
    told: list[tuple[object, ...]] = []

    def tell(*args: object) -> None:
        told.append((sys.modules[name].whole, *args))

    when_imported(name, tell, "a", "b")
    when_imported(name, tell, "c")
    when_imported(name, tell, "a", "b")
    assert told == []
    module = importlib.import_module(name)
    importlib.import_module(name)
    importlib.reload(module)
    assert told == [(True, "a", "b"), (True, "c")]


def test_what_is_imported_already_is_told_at_once_and_may_raise() -> None:
    told: list[str] = []
    when_imported("json", told.append, "now")
    assert told == ["now"]
    with pytest.raises(ZeroDivisionError):
        when_imported("json", lambda: 1 / 0)


def test_a_submodule_is_waited_for_as_well(write: Write) -> None:
    name = write(".sub", "value = 7\n")
    told: list[int] = []
    when_imported(name, lambda: told.append(sys.modules[name].value))
    importlib.import_module(name.partition(".")[0])
    assert told == []
    importlib.import_module(name)
    assert told == [7]


def test_the_module_knows_nothing_of_it(write: Write) -> None:
    name = write("", "def function():\n    return 7\n")
    when_imported(name, lambda: None)
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.get_source(name).startswith("def function")  # type: ignore[attr-defined]
    module = importlib.import_module(name)
    assert type(module.__loader__) is SourceFileLoader
    assert module.__spec__ is not None
    assert type(module.__spec__.loader) is SourceFileLoader
    assert inspect.getsource(module.function) == "def function():\n    return 7\n"


def test_an_import_that_failed_may_be_tried_again(write: Write) -> None:
    name = write("", "1 / 0\n")
    told: list[str] = []
    when_imported(name, told.append, "done")
    with pytest.raises(ZeroDivisionError):
        importlib.import_module(name)
    assert told == []
    assert name not in sys.modules
    write("", "healthy = True  # and longer than before\n")
    importlib.import_module(name)
    assert told == ["done"]


def test_a_module_that_is_not_there_is_missing_as_ever() -> None:
    when_imported("no_such_module_anywhere", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module_anywhere'"):
        importlib.import_module("no_such_module_anywhere")


def test_a_mistake_of_ours_is_logged_and_the_import_goes_on(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    name = write("", "value = 7\n")
    told: list[str] = []
    when_imported(name, lambda: 1 / 0)
    when_imported(name, told.append, "the next one")
    assert importlib.import_module(name).value == 7
    assert told == ["the next one"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{name} was imported, and could not be traced."
    assert record.exc_info is not None
    faults._logged.discard(f"imported-{name}")


def test_another_hook_of_the_kind_gets_on_with_it(write: Write) -> None:
    from wrapt import register_post_import_hook

    name = write("", "value = 7\n")
    told: list[str] = []
    register_post_import_hook(lambda module: told.append("theirs"), name)
    when_imported(name, told.append, "ours")
    assert importlib.import_module(name).value == 7
    assert sorted(told) == ["ours", "theirs"]


def test_a_folder_of_modules_without_a_loader_is_imported_as_ever(tmp_path: Path, write: Write) -> None:
    name = write(".sub", "value = 7\n").partition(".")[0]
    when_imported(name, lambda: None)
    assert list(importlib.import_module(name).__path__) == [str(tmp_path / name)]
