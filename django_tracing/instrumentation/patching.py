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
restoring would remove that tool's wrapper too: ours stays below it and does nothing. The wrapper holds what it wraps,
so that a call of another thread ends as it started, and a call costs nothing more than the wrapper itself.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any, Final, Protocol

__all__ = ["Patches", "Place"]

_MISSING: Final = object()


class Place(Protocol):
    """Where something is replaced. Places of the same kind compare equal where they are the same."""

    def get(self) -> Any:
        """Return what stands there."""

    def set(self, value: Any) -> None:
        """Put ``value`` there."""


class _Attribute:
    """The attribute of a class or module: what is in its own ``__dict__``, also a property or a static method."""

    __slots__ = ("_name", "_own", "_owner")

    def __init__(self, owner: Any, name: str) -> None:
        self._owner = owner
        self._name = name
        #: Inherited attributes are set on the subclass, and deleted from it to restore them.
        self._own = name in vars(owner)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Attribute) and self._owner is other._owner and self._name == other._name

    def __hash__(self) -> int:
        return hash((id(self._owner), self._name))

    def get(self) -> Any:
        found = vars(self._owner).get(self._name, _MISSING)
        return getattr(self._owner, self._name) if found is _MISSING else found

    def set(self, value: Any) -> None:
        setattr(self._owner, self._name, value)

    def restore(self, original: Any) -> None:
        if self._own:
            self.set(original)
        else:
            delattr(self._owner, self._name)


class Patches:
    """The wrappers that one instrumentation has put in place."""

    __slots__ = ("_lock", "_placed", "active")

    def __init__(self) -> None:
        #: Whether the wrappers have something to do: between :meth:`start` and :meth:`stop`. Wrappers read it.
        self.active = False
        #: Place -> what stood there, and our wrapper.
        self._placed: dict[Place, tuple[Any, Any]] = {}
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
        """Replace the attribute ``name`` of a class or module by ``make(original)``, once.

        Does nothing unless the patches are active: an import that was waited for may come after :meth:`stop`.
        """
        self.wrap_at(_Attribute(owner, name), make)

    def wrap_at(self, place: Place, make: Callable[[Any], Any]) -> None:
        """Replace what stands at ``place`` by ``make(original)``, once. As :meth:`wrap` does."""
        with self._lock:
            if not self.active:
                return
            current = place.get()
            placed = self._placed.get(place)
            # Not twice: ours may be below another tool's wrapper. If what stood there before is back, ours is gone.
            if placed is not None and current is not placed[0]:
                return
            ours = make(current)
            place.set(ours)
            self._placed[place] = current, ours

    def stop(self) -> bool:
        """Deactivate the wrappers, and remove those that no other tool has wrapped. Return False if not active."""
        with self._lock:
            was_active, self.active = self.active, False
            for place, (original, ours) in list(self._placed.items()):
                if place.get() is ours:
                    (place.restore if isinstance(place, _Attribute) else place.set)(original)
                    del self._placed[place]
            return was_active
