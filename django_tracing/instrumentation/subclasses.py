"""Wrap methods of a class, and of all of its subclasses that have their own, existing and future.

For backends that many packages write: Django calls a method that each of them defines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django_tracing.faults import log_once
from django_tracing.instrumentation.patching import Patches

__all__ = ["wrap_methods"]


def wrap_methods(patches: Patches, parent: Any, methods: Mapping[str, Callable[[Any], Any]]) -> None:
    """Replace each method of ``methods`` by what its function makes of it, in ``parent`` and its subclasses.

    A method that calls ``super()`` has a wrapper around it and in it: they have to make one span.
    """

    def watched(original: Any) -> Any:
        def init_subclass(cls: Any, /, **kwargs: Any) -> None:
            if isinstance(original, classmethod):
                original.__get__(None, cls)(**kwargs)
            else:
                super(parent, cls).__init_subclass__(**kwargs)
            _wrap_own(patches, cls, parent, methods)

        return classmethod(init_subclass)

    patches.wrap(parent, "__init_subclass__", watched)
    for one in _family(parent):
        _wrap_own(patches, one, parent, methods)


def _family(parent: Any) -> Iterator[Any]:
    yield parent
    for child in type.__subclasses__(parent):
        yield from _family(child)


def _wrap_own(patches: Patches, one: Any, parent: Any, methods: Mapping[str, Callable[[Any], Any]]) -> None:
    """Wrap the methods that ``one`` defines, or inherits from a class that is not in the family. Never raises."""
    for name, make in methods.items():
        try:
            definer = next((base for base in one.__mro__ if name in vars(base)), None)
            # Neither a static or class method, nor None.
            if definer is None or not callable(vars(definer)[name]):
                continue
            if definer is one or not issubclass(definer, parent):
                patches.wrap(one, name, make)
        except Exception:
            log_once(f"subclasses-{name}", "A method of the class %s could not be traced.", one)
