"""Find the instrumentations that other packages provide, by the entry point group ``django_tracing_instrumentation``.

``importlib.metadata.entry_points`` reads and parses the metadata of every installed package, which would double the
start-up time of this app. Few sites have such a package: only the files that contain the group's name are parsed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from django_tracing.faults import contained

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "load", "names"]

_logger = logging.getLogger("django_tracing")

GROUP: Final = "django_tracing_instrumentation"
_SECTION: Final = f"[{GROUP}]".encode()
#: A larger file is not read: real ones have some hundred bytes.
_MOST_BYTES: Final = 1_000_000


def names() -> tuple[str, ...]:
    """Return the names of the entry points of installed packages. Imports none of the packages. Never raises."""
    return tuple(_found())


def load(name: str) -> Any:
    """Import the instrumentation ``name`` and return it. Raises what its import raises, and KeyError."""
    with contained():
        loaded = _found()[name].load()
        return loaded() if isinstance(loaded, type) else loaded


def _found() -> Mapping[str, EntryPoint]:
    try:
        return _entry_points(tuple(path for path in sys.path if isinstance(path, str)))
    except Exception:
        _logger.debug("The instrumentations of other packages could not be found.", exc_info=True)
        return MappingProxyType({})


@lru_cache(maxsize=4)
def _entry_points(paths: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for folder in _metadata_folders(paths):
        # Imported only if a package has the group.
        from importlib.metadata import Distribution
        from pathlib import Path

        try:
            for point in Distribution.at(Path(folder)).entry_points:
                # As with imports, the first on sys.path counts.
                if point.group == GROUP:
                    found.setdefault(point.name, point)
        except Exception:
            _logger.debug("The entry points in %s could not be read.", folder, exc_info=True)
    return found


def _metadata_folders(paths: tuple[str, ...]) -> Iterator[str]:
    """Yield the metadata folders whose entry points name the group."""
    for path in paths:
        try:
            folders = os.listdir(path or os.curdir)
        except OSError:  # no such folder, or a zip file
            continue
        for folder in folders:
            if folder.endswith((".dist-info", ".egg-info")):
                try:
                    with open(f"{path or os.curdir}/{folder}/entry_points.txt", "rb", buffering=0) as file:
                        if _SECTION in file.read(_MOST_BYTES):
                            yield os.path.join(path, folder)
                except OSError:  # a package without entry points
                    continue
