"""Find what installed packages register with OpenTelemetry, by entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django_tracing.faults import contained

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["MOST_NAMES", "find_entry_point", "is_registered", "load_entry_point", "loads"]

#: How many names of a list are looked for: each time in the metadata of all packages.
MOST_NAMES: Final = 20


def find_entry_point(group: str, name: str) -> EntryPoint | None:
    """Return the entry point called ``name`` of ``group``; None where no installed package has one."""
    # Imported here: most processes look for none, and it takes some milliseconds.
    from importlib.metadata import entry_points

    return next(iter(entry_points(group=group, name=name)), None)


def is_registered(group: str, name: str) -> bool:
    """Return whether an installed package has the entry point ``name`` of ``group``. It is not imported."""
    return find_entry_point(group, name) is not None


def load_entry_point(group: str, name: str) -> Any:
    """Import what ``name`` of ``group`` refers to. Raise LookupError where no installed package has one.

    Raise what the import raises, and ``faults.ForeignExit`` where it would end the process.
    """
    point = find_entry_point(group, name)
    if point is None:
        raise LookupError(f"No installed package has {name!r} in the entry points {group}.")
    with contained():
        return point.load()


def loads(group: str, name: str) -> bool:
    """Return whether :func:`load_entry_point` succeeds."""
    try:
        load_entry_point(group, name)
    except Exception:
        return False
    return True
