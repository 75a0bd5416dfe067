"""Call a function when a module is imported, so that a library is wrapped when the user's code imports it.

A process pays only for the libraries that it uses, not for all that are installed: ``pybreaker`` imports ``redis``,
which takes longer than all of this app. wrapt has such a hook too, but it is installed only with OpenTelemetry's
instrumentations, and importing it costs more than this module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from threading import local
from types import ModuleType
from typing import Any, Final

from django_tracing.faults import contained, log_once

__all__ = ["when_imported"]

#: Module -> the calls to make, in order. A dict keeps the order and makes the same call once.
_waiting: dict[str, dict[tuple[Callable[..., object], tuple[object, ...]], None]] = {}


def when_imported(module: str, callback: Callable[..., object], *args: object) -> None:
    """Call ``callback(*args)`` when ``module`` (its full name) has been imported, or at once if it has been.

    An exception of a call at once is raised; one during the user's import is logged, and the import goes on. The same
    call is made once. For a namespace package (a folder without an ``__init__``) it is never made. A call cannot be
    withdrawn: the callback has to check whether it is still wanted.
    """
    if module in sys.modules:
        callback(*args)
        return
    _waiting.setdefault(module, {})[callback, args] = None
    # It is never removed: another thread may be iterating over the list. With nothing to wait for it costs 0.1 us.
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder:
    """Let the other finders find a module that is waited for, and wrap its loader."""

    def __init__(self) -> None:
        # Another finder of this kind, before or after ours, asks all the others, including ours.
        self._asking = local()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _waiting or getattr(self._asking, "name", None) == name:
            return None
        before = getattr(self._asking, "name", None)
        self._asking.name = name
        try:
            for finder in sys.meta_path:
                # A finder may be a class from before find_spec (Python 3.11 and older).
                find: Any = None if finder is self else getattr(finder, "find_spec", None)
                spec: ModuleSpec | None = None if find is None else find(name, path, target)
                if spec is not None:
                    break
            else:
                return None
        finally:
            self._asking.name = before
        # A namespace package has no loader. Loaders without exec_module are an old kind that importlib adapts.
        if hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(name, spec.loader)  # type: ignore[assignment]  # in all that importlib asks of one
        return spec


class _Loader:
    """A module's own loader, which makes the calls when the module is loaded. The module itself never sees it."""

    def __init__(self, name: str, loader: Any) -> None:
        self._name = name
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        # Code that reads a module's sources or resources checks the type of its loader.
        for holder, name in ((module, "__loader__"), (module.__spec__, "loader")):
            if getattr(holder, name, None) is self:
                setattr(holder, name, self._loader)
        self._loader.exec_module(module)
        # Only after the import: one that failed may be tried again.
        for callback, args in _waiting.pop(self._name, {}):
            try:
                with contained():
                    callback(*args)
            except Exception:
                log_once(f"imported-{self._name}", "%s was imported, and could not be traced.", self._name)


_finder: Final = _Finder()
