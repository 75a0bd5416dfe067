"""Hold what this process traces with, and what is cached for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from opentelemetry import trace

from django_tracing.caches import make_room
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction.attributes import AttributeSanitizer
from django_tracing.semconv.names import Attributes, Convention

if TYPE_CHECKING:
    from django_tracing.conf.values import Settings
    from django_tracing.recording.factory import SpanFactory

__all__ = ["SCOPE_NAME", "Cache", "Runtime", "clear_caches", "current", "share", "use"]

#: The instrumentation scope of all our spans.
SCOPE_NAME: Final = "django_tracing"


class Runtime:
    """What tracing works with in this process. It is built once and swapped as a whole: see :func:`use`."""

    __slots__ = (
        *("convention", "factory", "queue", "refresher", "sampler", "sanitizer", "settings", "started", "tracer"),
        *("tracing", "trouble"),
    )

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        tracer: trace.Tracer | None = None,
        factory: SpanFactory | None = None,
        convention: Convention | None = None,
        sanitizer: AttributeSanitizer | None = None,
        sampler: Any = None,
        refresher: Any = None,
        queue: Any = None,
        trouble: str = "",
    ) -> None:
        #: Whether ``provider.start()`` was called.
        self.started = False
        #: The settings that it was built from; None before tracing has started.
        self.settings = settings
        #: Whether this process traces at all.
        self.tracing = tracer is not None
        self.tracer = trace.NoOpTracer() if tracer is None else tracer
        #: Creates our spans, at a lower cost than ``tracer``; None where ``tracer`` is not the SDK's.
        self.factory = factory
        #: The attribute names in force.
        self.convention = Convention() if convention is None else convention
        #: Sanitizes attributes that users and libraries set.
        self.sanitizer = AttributeSanitizer() if sanitizer is None else sanitizer
        #: The ``sampling.sampler.RuleSampler``.
        self.sampler = sampler
        #: The ``sampling.refresh.Refresher`` that keeps the sampler's rules up to date.
        self.refresher = refresher
        #: The ``export.queue.QueueProcessor`` that holds ended spans until they are sent; None where this app exports
        #: nothing.
        self.queue = queue
        #: Why this process traces nothing, or sends nothing, in words for a person; empty where it does.
        self.trouble = trouble

    def replace(self, **changes: Any) -> Runtime:
        """Return a copy with ``changes``, which are named as this class's attributes."""
        copy = object.__new__(Runtime)
        for name in Runtime.__slots__:
            setattr(copy, name, changes.get(name, getattr(self, name)))
        return copy


#: Read it as ``runtime.current``: it is another object after :func:`use`.
current = Runtime()


def use(runtime: Runtime) -> Runtime:
    """Make ``runtime`` the one in force and return the former one. What was cached for that one is forgotten."""
    global current
    former, current = current, runtime
    clear_caches()
    return former


_caches: list[Cache[Any, Any]] = []

K = TypeVar("K")
V = TypeVar("V")


def clear_caches() -> None:
    """Clear the caches of names and attributes that spans share."""
    for cache in _caches:
        cache.forget()


class Cache(dict[K, V]):
    """A bounded cache of what repeats from span to span, emptied when the runtime changes."""

    def __init__(self, size: int = 2048) -> None:
        self._size = size
        #: Another object after each change of the runtime.
        self.generation = object()
        _caches.append(self)

    def forget(self) -> None:
        self.clear()
        self.generation = object()

    def keep(self, key: K, value: V) -> V:
        make_room(self, self._size)
        self[key] = value
        return value


def share(attributes: Attributes) -> SharedAttributes:
    """Return ``attributes`` under the names in force, to be shared by many spans."""
    return SharedAttributes(current.convention.apply(attributes))
