"""Switch instrumentations on and off, by the names in ``TRACING["INSTRUMENTATIONS"]``.

A name is that of a module here, or of an entry point of another package: in the group
``django_tracing_instrumentation`` (``third_party``), or of an OpenTelemetry instrumentation (``upstream``). To add
one here, write a module with the three functions of :class:`Instrumentation`, a line in ``conf/table.py`` and a page
in docs/.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Protocol

from django_tracing.conf.table import OUR_INSTRUMENTATIONS as OURS
from django_tracing.conf.values import Settings
from django_tracing.faults import contained
from django_tracing.instrumentation import third_party
from django_tracing.instrumentation.upstream import registry as upstream

__all__ = ["OURS", "Instrumentation", "install", "installed", "is_available", "uninstall", "wanted"]

_logger = logging.getLogger("django_tracing")

#: Those that are named as the package that they trace: where it is not installed, they are not imported.
_OF_PACKAGES: Final = frozenset({"rq", "huey", "django_q", "dramatiq"})
#: Name in INSTRUMENTATIONS -> module.
_MODULES: Final[Mapping[str, str]] = {
    **{name: f"{__name__}.{name}" for name in OURS},
    "request": f"{__name__}.request.placing",
    **{name: f"{__name__}.jobs.{name}" for name in _OF_PACKAGES},
}

#: Name -> what was switched on: a module of ours, or another package's; None for one of OpenTelemetry's.
_installed: Final[dict[str, Any]] = {}


class Instrumentation(Protocol):
    """The three functions of an instrumentation: a module, or an object."""

    def is_available(self) -> bool:
        """Return whether the library that it traces is installed. Should not import the library."""

    def install(self) -> None:
        """Start tracing. A second call does nothing."""

    def uninstall(self) -> None:
        """Restore what :meth:`install` has replaced. Does nothing if it is not installed."""


def wanted(settings: Settings) -> tuple[str, ...]:
    """Return the names of the instrumentations to switch on.

    Those of other packages are among the defaults: to install the package is to ask for it. A list in ``TRACING`` is
    complete. (OTEL_PYTHON_DISABLED_INSTRUMENTATIONS only removes names of OpenTelemetry's.)
    """
    listed = settings.instrumentations
    if settings.source("INSTRUMENTATIONS").startswith("TRACING"):
        return listed
    return (*listed, *(name for name in third_party.names() if name not in listed))


def _load(name: str) -> Instrumentation | None:
    """Return the instrumentation ``name``; None if it is not ours or another package's, but maybe OpenTelemetry's."""
    if name in _MODULES:
        return import_module(_MODULES[name])
    return third_party.load(name) if name in third_party.names() else None


def install(names: Iterable[str]) -> None:
    """Switch on the instrumentations called ``names``. Those that are not available are left out. Never raises."""
    for name in names:
        if name in _installed:
            continue
        instrumentation: Instrumentation | None = None
        try:
            with contained():
                if name in _OF_PACKAGES and find_spec(name) is None:
                    continue
                instrumentation = _load(name)
                if instrumentation is None:
                    if not upstream.install(name):
                        continue
                    if name == "django":
                        # Our middleware, inside OpenTelemetry's, puts the user and the correlation id on its span.
                        import_module(_MODULES["request"]).install()
                elif not instrumentation.is_available():
                    continue
                else:
                    instrumentation.install()
        except Exception:
            _logger.warning('The instrumentation "%s" could not be switched on; it is left out.', name, exc_info=True)
            if instrumentation is not None:
                _uninstall(name, instrumentation)
            continue
        _installed[name] = instrumentation


def uninstall() -> None:
    """Switch all of them off, the last one first."""
    while _installed:
        _uninstall(*_installed.popitem())


def _uninstall(name: str, instrumentation: Instrumentation | None) -> None:
    try:
        with contained():
            if instrumentation is None:
                upstream.uninstall(name)
            else:
                instrumentation.uninstall()
    except Exception:
        _logger.warning('The instrumentation "%s" could not be switched off.', name, exc_info=True)


def is_available(name: str) -> bool:
    """Return whether the instrumentation ``name`` and what it traces are installed. Never raises."""
    try:
        with contained():
            instrumentation = _load(name)
            return bool(upstream.is_available(name) if instrumentation is None else instrumentation.is_available())
    except Exception:
        _logger.debug('The instrumentation "%s" could not be loaded.', name, exc_info=True)
        return False


def installed() -> tuple[str, ...]:
    """Return the names of those that are switched on."""
    return tuple(_installed)
