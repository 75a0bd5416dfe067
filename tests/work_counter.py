"""Count the work of Python code, to test how it grows with the input. The result is the same on any machine.

What counts: each line that runs, each round of a comprehension or a generator, and of calls into C those that go
through all of a text or a list (``list.remove``, ``str.replace``): as many as it has items. What is not seen: work in C
that is no method call (``a in b``, ``a + b``, slices) and the engine of regular expressions, which
tests/test_linear.py proves.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

__all__ = ["growth", "work"]

#: Methods in C whose work grows with the object that they belong to.
_WHOLE: Final[dict[type, frozenset[str]]] = {
    list: frozenset({"copy", "count", "index", "insert", "remove", "reverse", "sort"}),
    # All of them but for those that look at an end.
    str: frozenset(name for name in vars(str) if name[0] != "_" and name not in ("startswith", "endswith")),
    bytes: frozenset({"count", "decode", "find", "hex", "index", "lower", "replace", "rfind", "split", "strip"}),
    dict: frozenset({"copy"}),
    set: frozenset({"copy", "difference", "intersection", "union"}),
}
#: Items that go by in C while the interpreter runs one line of Python.
_ITEMS_A_LINE: Final = 50


def work(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> int:
    """Return the work of ``function(*args, **kwargs)`` in lines of Python. Raise its exceptions."""
    lines = items = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event in ("line", "call"):
            lines += 1
        return trace

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal items
        if event == "c_call":
            owner = getattr(argument, "__self__", None)
            if argument.__name__ in _WHOLE.get(type(owner), ()):
                items += len(owner)

    traced, profiled, collecting = sys.gettrace(), sys.getprofile(), gc.isenabled()
    # Finalizers of other objects are not the function's work.
    gc.disable()
    try:
        sys.setprofile(profile)
        sys.settrace(trace)
        function(*args, **kwargs)
    finally:
        sys.settrace(traced)
        sys.setprofile(profiled)
        if collecting:
            gc.enable()
    return lines + items // _ITEMS_A_LINE


def growth(function: Callable[[Any], Any], make: Callable[[int], Any], *sizes: int) -> list[float]:
    """How many times more work each of ``sizes`` is than the one before it, for ``function(make(size))``.

    What the call does once, whatever the size, is taken off first; ``make`` does not count.
    """
    # The first call compiles and caches patterns, which later calls don't repeat.
    work(function, make(1))
    base = work(function, make(1))
    found = [max(work(function, make(size)) - base, 1) for size in sizes]
    return [later / earlier for earlier, later in zip(found, found[1:], strict=False)]
