"""Replace attributes of other packages' classes and modules, and restore them.

An instrumentation has one :class:`Patches`. Its wrappers call straight through while ``active`` is False::

    _patches = Patches()

    def install():
        if _patches.start():
            when_imported("library.client", _patch)

    def _patch():
        from library.client import Client

        _patches.wrap(Client, "send", _traced_send)

    def uninstall():
        _patches.stop()

An attribute is restored only if our wrapper is still what stands there. If another tool has wrapped it since,
restoring would remove that tool's wrapper too: ours stays below it and does nothing. The same holds if a tool has
changed the code of our wrapper (ddtrace does). The wrapper holds what it wraps, so that a call of another thread ends
as it started, and a call costs nothing more than the wrapper itself.

A tool that was installed before ours and is removed after it takes ours away; one that was installed after ours puts
an old wrapper of ours back. So :meth:`Patches.wrap` looks for any wrapper of ours in what stands there, and through
other tools' wrappers: if there is one, it works again; if not, what stands there is wrapped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from threading import RLock
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, Final, NamedTuple, Protocol

from django_tracing.faults import log_hourly, log_once

__all__ = ["Patches", "Place"]

_MISSING: Final = object()
#: How many objects of another tool's wrapper are looked at to find ours.
_MOST_OBJECTS: Final = 500
#: How many wrappers of one place are known again.
_MOST_WRAPPERS: Final = 8
#: How many places one instrumentation wraps. What stands there is kept alive: a site that makes a class for each
#: request, of a kind whose subclasses are wrapped, would fill the memory.
_MOST_PLACES: Final = 1000


class Place(Protocol):
    """Where something is replaced. Places of the same kind compare equal where they are the same."""

    def get(self) -> Any:
        """Return what stands there."""

    def set(self, value: Any) -> None:
        """Put ``value`` there."""


class _Attribute:
    """The attribute of a class or module: what is in its own ``__dict__``, also a property or a static method."""

    __slots__ = ("_name", "_owner")

    def __init__(self, owner: Any, name: str) -> None:
        self._owner = owner
        self._name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Attribute) and self._owner is other._owner and self._name == other._name

    def __hash__(self) -> int:
        return hash((id(self._owner), self._name))

    def get(self) -> Any:
        found = vars(self._owner).get(self._name, _MISSING)
        return getattr(self._owner, self._name) if found is _MISSING else found

    def set(self, value: Any) -> None:
        setattr(self._owner, self._name, value)

    def is_own(self) -> bool:
        return self._name in vars(self._owner)

    def delete(self) -> None:
        delattr(self._owner, self._name)


class _Wrapper(NamedTuple):
    """A wrapper of ours at a place."""

    ours: Any
    #: What it wraps.
    original: Any
    #: Whether ``original`` is inherited: our wrapper is set on the subclass, and deleted from it to restore it.
    inherited: bool
    #: The code of ``ours``, which other tools may change.
    code: CodeType | None


class Patches:
    """The wrappers that one instrumentation has put in place."""

    __slots__ = ("_lock", "_placed", "active")

    def __init__(self) -> None:
        #: Whether the wrappers have something to do: between :meth:`start` and :meth:`stop`. Wrappers read it.
        self.active = False
        #: Place -> our wrappers. Each may be put back by a tool that has found it there.
        self._placed: dict[Place, deque[_Wrapper]] = {}
        # Reentrant: wrapping may import a module, whose import wraps something else.
        self._lock = RLock()

    def start(self) -> bool:
        """Activate the wrappers. Return False if they are active already."""
        with self._lock:
            if self.active:
                return False
            self.active = True
            return True

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace the attribute ``name`` of a class or module by ``make(original)``, unless a wrapper is in place.

        Does nothing unless the patches are active: an import that was waited for may come after :meth:`stop`.
        """
        self.wrap_at(_Attribute(owner, name), make)

    def wrap_at(self, place: Place, make: Callable[[Any], Any]) -> None:
        """Replace what stands at ``place`` by ``make(original)``. As :meth:`wrap` does."""
        with self._lock:
            if not self.active:
                return
            current = place.get()
            wrappers = self._placed.get(place)
            if wrappers is None:
                if len(self._placed) >= _MOST_PLACES:
                    log_hourly("places", "So many classes are traced that further ones are not: %d.", _MOST_PLACES)
                    return
                wrappers = self._placed[place] = deque(maxlen=_MOST_WRAPPERS)
            elif _contains(current, [wrapper.ours for wrapper in wrappers]):
                return
            ours = make(current)
            inherited = isinstance(place, _Attribute) and not place.is_own()
            place.set(ours)
            wrappers.append(_Wrapper(ours, current, inherited, _code(ours)))

    def stop(self) -> bool:
        """Deactivate the wrappers, and remove those that no other tool has wrapped. Return False if not active.

        What can't be removed stays, and does nothing.
        """
        with self._lock:
            was_active, self.active = self.active, False
            for place, wrappers in self._placed.items():
                try:
                    self._restore(place, wrappers)
                except Exception:
                    log_once(f"restore-{hash(place)}", "A wrapper could not be removed; it does nothing.")
            return was_active

    @staticmethod
    def _restore(place: Place, wrappers: Iterable[_Wrapper]) -> None:
        current = place.get()
        for wrapper in wrappers:
            if current is wrapper.ours:
                if _code(current) is not wrapper.code:
                    return
                if wrapper.inherited and isinstance(place, _Attribute):
                    place.delete()
                else:
                    place.set(wrapper.original)
                return


def _code(wrapper: Any) -> CodeType | None:
    return wrapper.__code__ if isinstance(wrapper, FunctionType) else None


def _contains(wrapper: Any, wanted: list[Any]) -> bool:
    """Return whether ``wrapper`` is one of ``wanted``, or wraps one."""
    seen: set[int] = set()
    waiting = deque([wrapper])
    while waiting and len(seen) < _MOST_OBJECTS:
        found = waiting.popleft()
        if any(found is one for one in wanted):
            return True
        if id(found) not in seen:
            seen.add(id(found))
            with suppress(Exception):
                waiting.extend(_held_by(found))
    return False


def _held_by(holder: Any) -> Iterator[Any]:
    """Yield the objects that a wrapper may keep what it wraps in, nearest first. Evaluates no lazy object."""
    # Not isinstance(), which asks the object for its class.
    kind = type(holder)
    if kind is FunctionType:
        for cell in holder.__closure__ or ():
            with suppress(ValueError):  # it is empty
                yield cell.cell_contents
        yield from vars(holder).values()
        yield from holder.__defaults__ or ()
        yield from (holder.__kwdefaults__ or {}).values()
        for name in _names(holder.__code__):
            if name in holder.__globals__:
                yield holder.__globals__[name]
    elif kind in (staticmethod, classmethod):
        yield holder.__func__
    elif kind is MethodType:
        yield from (holder.__func__, holder.__self__)
    elif kind is property:
        yield from (holder.fget, holder.fset, holder.fdel)
    elif issubclass(kind, partial):
        yield from (holder.func, *holder.args, *holder.keywords.values())
    elif kind is dict:
        yield from list(holder.values())
    elif kind in (list, tuple):
        yield from list(holder)
    elif not issubclass(kind, (type, ModuleType, Patches, str, bytes, int, float)):
        # wrapt's wrappers, and other objects that can be called.
        for owner in kind.__mro__:
            for name, member in list(vars(owner).items()):
                if name == "__wrapped__" or type(member) is MemberDescriptorType:
                    with suppress(Exception):
                        yield member.__get__(holder, kind)
        with suppress(Exception):
            yield from list(object.__getattribute__(holder, "__dict__").values())


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
