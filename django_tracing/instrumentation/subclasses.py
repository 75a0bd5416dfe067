"""Wrap methods of a class, and of all of its subclasses that have their own, existing and future.

For backends that many packages write: Django calls a method that each of them defines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
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
            if definer is one:
                patches.wrap(one, name, make)
            elif not issubclass(definer, parent):
                patches.wrap(one, name, partial(_wrap_inherited, one, name, make))
        except Exception:
            log_once(f"subclasses-{name}", "A method of the class %s could not be traced.", one)


def _wrap_inherited(one: Any, name: str, make: Callable[[Any], Any], original: Any) -> Any:
    """Wrap a method that ``one`` inherits. The object's class decides which one, with its own bases."""

    @wraps(original)
    def inherited(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(one, self), name)(*args, **kwargs)

    return make(inherited)
