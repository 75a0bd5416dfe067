"""What is traced: a registry of modules with the same three verbs.

``TRACING["INSTRUMENTATIONS"]`` names them. A name of ours is a module here; any other is the entry-point name of
an OpenTelemetry instrumentation (group ``opentelemetry_instrumentor``), which ``upstream`` switches on and off.
Adding a traced thing means one module here, one line in ``_MODULES``, and one page in docs/.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Final, Protocol

from django_tracing.instrumentation.upstream import registry as upstream

__all__ = ["OURS", "Instrumentation", "install", "installed", "is_available", "uninstall"]

_logger = logging.getLogger("django_tracing")

#: Name in INSTRUMENTATIONS -> module.
_MODULES: Final[Mapping[str, str]] = {
    "request": "django_tracing.instrumentation.request.placing",
    "layers": "django_tracing.instrumentation.layers",
    "database": "django_tracing.instrumentation.database",
    "cache": "django_tracing.instrumentation.cache",
    "circuit_breaker": "django_tracing.instrumentation.circuit_breaker",
    "rate_limit": "django_tracing.instrumentation.rate_limit",
    "commands": "django_tracing.instrumentation.commands",
    "tasks": "django_tracing.instrumentation.tasks",
}
OURS: Final = tuple(_MODULES)

_installed: list[str] = []


class Instrumentation(Protocol):
    """The three verbs of an instrumentation module."""

    def is_available(self) -> bool:
        """Whether what it traces is installed. Imports nothing heavy."""

    def install(self) -> None:
        """Starts tracing; a second call does nothing."""

    def uninstall(self) -> None:
        """Puts everything back as it was; does nothing when not installed."""


def _module(name: str) -> Instrumentation:
    return import_module(_MODULES[name])


def install(names: Iterable[str]) -> None:
    """Switches on the instrumentations called ``names``; what is not available is left out. Never raises."""
    for name in names:
        if name in _installed:
            continue
        try:
            if name in _MODULES:
                module = _module(name)
                if not module.is_available():
                    continue
                module.install()
            elif upstream.install(name):
                if name == "django":
                    # Our middleware, inside upstream's, is what puts the user and the correlation id on its span.
                    _module("request").install()
            else:
                continue
        except Exception:
            _logger.warning('The instrumentation "%s" could not be switched on; it is left out.', name, exc_info=True)
            continue
        _installed.append(name)


def uninstall() -> None:
    """Switches all of them off, the last one first."""
    while _installed:
        name = _installed.pop()
        try:
            if name in _MODULES:
                _module(name).uninstall()
            else:
                upstream.uninstall(name)
        except Exception:
            _logger.warning('The instrumentation "%s" could not be switched off.', name, exc_info=True)


def is_available(name: str) -> bool:
    """Whether the instrumentation called ``name``, ours or upstream's, and what it traces are installed."""
    return _module(name).is_available() if name in _MODULES else upstream.is_available(name)


def installed() -> tuple[str, ...]:
    """The names of those that are switched on."""
    return tuple(_installed)
