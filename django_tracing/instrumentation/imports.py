"""Waiting for an import: what a library is wrapped in goes on when the user's code imports it, and not before.

An application pays for the libraries that it uses, not for those that happen to be installed: ``pybreaker`` imports
``redis``, which takes longer than all of this app. wrapt has such a hook too; it is not there without upstream's
instrumentations, and importing it costs more than what follows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from threading import local
from types import ModuleType
from typing import Any, Final

from django_tracing.faults import log_once

__all__ = ["when_imported"]

#: Module -> what is to be called, in order (a dict for its order; the same thing is called once).
_waiting: dict[str, dict[tuple[Callable[..., object], tuple[object, ...]], None]] = {}


def when_imported(module: str, callback: Callable[..., object], *args: object) -> None:
    """Calls ``callback(*args)`` when ``module`` (its full name) has been imported: at once where it has been.

    Called at once, what it raises goes on to the caller; in the midst of the user's own import it is logged, and the
    import goes on. Asked twice for the same, it is called once; for a folder without an ``__init__``, never. There is
    no way back: a callback finds out for itself whether it is still wanted.
    """
    if module in sys.modules:
        callback(*args)
        return
    _waiting.setdefault(module, {})[callback, args] = None
    # Never taken out again: another thread may be in the midst of the list. With nothing to wait for it costs 0.1 us.
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


class _Finder:
    """Lets the others find a module that is waited for, and puts its loader in ours."""

    def __init__(self) -> None:
        # Another finder of this kind, before or behind ours, asks all the others, ours too.
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
        # A namespace package has no loader; one without exec_module is of an old kind that importlib helps by itself.
        if hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(name, spec.loader)  # type: ignore[assignment]  # in all that importlib asks of one
        return spec


class _Loader:
    """A module's own loader, which says when the module is there. The module never sees it."""

    def __init__(self, name: str, loader: Any) -> None:
        self._name = name
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        # What reads a module's sources or resources looks at its loader's type.
        for holder, name in ((module, "__loader__"), (module.__spec__, "loader")):
            if getattr(holder, name, None) is self:
                setattr(holder, name, self._loader)
        self._loader.exec_module(module)
        # Only now: an import that failed may be tried again.
        for callback, args in _waiting.pop(self._name, {}):
            try:
                callback(*args)
            except Exception:
                log_once(f"imported-{self._name}", "%s was imported, and could not be traced.", self._name)


_finder: Final = _Finder()
