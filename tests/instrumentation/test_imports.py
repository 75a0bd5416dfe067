"""Test that a callback is called once when a module was imported, and that the module is unchanged."""

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
    """Return a function that writes a module with a unique name and returns the name."""
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


def test_a_callback_is_called_once_after_the_import(write: Write) -> None:
    name = write("", "whole = False\nwhole = True\n")
    called: list[tuple[object, ...]] = []

    def callback(*args: object) -> None:
        called.append((sys.modules[name].whole, *args))

    when_imported(name, callback, "a", "b")
    when_imported(name, callback, "c")
    when_imported(name, callback, "a", "b")
    assert called == []
    module = importlib.import_module(name)
    importlib.import_module(name)
    importlib.reload(module)
    assert called == [(True, "a", "b"), (True, "c")]


def test_for_an_imported_module_the_callback_is_called_at_once_and_may_raise() -> None:
    called: list[str] = []
    when_imported("json", called.append, "now")
    assert called == ["now"]
    with pytest.raises(ZeroDivisionError):
        when_imported("json", lambda: 1 / 0)


def test_a_submodule(write: Write) -> None:
    name = write(".sub", "value = 7\n")
    called: list[int] = []
    when_imported(name, lambda: called.append(sys.modules[name].value))
    importlib.import_module(name.partition(".")[0])
    assert called == []
    importlib.import_module(name)
    assert called == [7]


def test_the_module_and_its_spec_are_unchanged(write: Write) -> None:
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


def test_a_failed_import_can_be_repeated(write: Write) -> None:
    name = write("", "1 / 0\n")
    called: list[str] = []
    when_imported(name, called.append, "done")
    with pytest.raises(ZeroDivisionError):
        importlib.import_module(name)
    assert called == []
    assert name not in sys.modules
    write("", "healthy = True  # and longer than before, so that the bytecode is not reused\n")
    importlib.import_module(name)
    assert called == ["done"]


def test_a_missing_module_raises_the_usual_error() -> None:
    when_imported("no_such_module_anywhere", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module_anywhere'"):
        importlib.import_module("no_such_module_anywhere")


def test_an_error_of_a_callback_is_logged_and_the_import_succeeds(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    name = write("", "value = 7\n")
    called: list[str] = []
    when_imported(name, lambda: 1 / 0)
    when_imported(name, called.append, "the next one")
    assert importlib.import_module(name).value == 7
    assert called == ["the next one"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{name} was imported, and could not be traced."
    assert record.exc_info is not None
    faults._faults.by_key.pop(f"imported-{name}")


def test_it_works_with_another_import_hook(write: Write) -> None:
    from wrapt import register_post_import_hook

    name = write("", "value = 7\n")
    called: list[str] = []
    register_post_import_hook(lambda module: called.append("theirs"), name)
    when_imported(name, called.append, "ours")
    assert importlib.import_module(name).value == 7
    assert sorted(called) == ["ours", "theirs"]


def test_a_namespace_package_is_imported_as_before(tmp_path: Path, write: Write) -> None:
    name = write(".sub", "value = 7\n").partition(".")[0]
    when_imported(name, lambda: None)
    assert list(importlib.import_module(name).__path__) == [str(tmp_path / name)]
