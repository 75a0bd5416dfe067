"""Switch OpenTelemetry's own instrumentations on and off, by the names of their entry points.

Their libraries are not imported for it: one that is not imported yet is instrumented when the user's code imports it.
Those of clients get a provider that starts no root spans (see ``children_only``).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from django_tracing.conf import environment
from django_tracing.conf.loading import get_settings
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.upstream import redirects, redis_commands
from django_tracing.instrumentation.upstream.children_only import ChildrenOnly
from django_tracing.recording.sdk import dependency_conflict

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["install", "is_available", "library_of", "postpone_django", "uninstall"]

_logger = logging.getLogger("django_tracing")


_GROUP: Final = "opentelemetry_instrumentor"


#: How the names of OpenTelemetry's packages start, before the entry point's name.
_PACKAGE: Final = "opentelemetry-instrumentation-"


#: The package of their modules, which are named as their entry points, with "_" for "-".
_UPSTREAM: Final = "opentelemetry.instrumentation."


#: Entry point -> the module whose import it waits for. Others are instrumented at once.
_LIBRARIES: Final[Mapping[str, str]] = {
    "psycopg": "psycopg",
    "psycopg2": "psycopg2",
    "redis": "redis",
    "requests": "requests",
    "httpx": "httpx",
    "urllib3": "urllib3",
    "urllib": "urllib.request",
    "pymongo": "pymongo",
    "pymemcache": "pymemcache",
    "elasticsearch": "elasticsearch",
    "aiohttp-client": "aiohttp",
    "sqlalchemy": "sqlalchemy",
    "asyncpg": "asyncpg",
    "celery": "celery",
}


#: Those whose spans need a parent. Servers and consumers of messages, which start traces, are not among them.
_CLIENTS: Final = frozenset(
    {
        *(_LIBRARIES.keys() - {"celery"}),
        *("sqlite3", "mysql", "mysqlclient", "pymysql", "pymssql", "aiopg", "cassandra", "tortoiseorm"),
        *("boto", "botocore", "grpc_client", "grpc_aio_client", "jinja2"),
    }
)


#: The variable by which OpenTelemetry's Django instrumentation is switched off.
_DJANGO_SWITCH: Final = "OTEL_PYTHON_DJANGO_INSTRUMENT"


class _State:
    """What this module has switched on."""

    __slots__ = ("django_postponed", "instrumentors")

    def __init__(self) -> None:
        #: By name; None while the library is not imported yet.
        self.instrumentors: dict[str, Any] = {}
        #: Whether :func:`postpone_django` has switched the Django instrumentation off.
        self.django_postponed = False


_state: Final = _State()


@cache
def _entry_points() -> Mapping[str, EntryPoint]:
    # This reads the metadata of every installed package, which takes milliseconds.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=_GROUP)}


def _entry_point(name: str) -> EntryPoint | None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        # The metadata of one package, if it is named as OpenTelemetry's are.
        for point in distribution(_PACKAGE + name).entry_points:
            if point.group == _GROUP and point.name == name:
                return point
    except PackageNotFoundError:
        pass
    return _entry_points().get(name)


def library_of(name: str) -> str | None:
    """Return the module that the instrumentation called ``name`` instruments, if this app knows it."""
    return _LIBRARIES.get(name)


def is_available(name: str) -> bool:
    """Return whether OpenTelemetry's instrumentation ``name`` and its library are installed. Imports neither."""
    library = _LIBRARIES.get(name)
    if library is None:
        return _entry_point(name) is not None
    try:
        # Looking for the modules reads no metadata: this is done for each of the defaults at start.
        return find_spec(_module_of(name)) is not None and (library in sys.modules or find_spec(library) is not None)
    except (ImportError, ValueError):
        return False


def install(name: str) -> bool:
    """Switch on OpenTelemetry's instrumentation ``name``, at once or when its library is imported.

    Return True also if it is on already, switched on by ``opentelemetry-instrument`` for example: :func:`uninstall`
    leaves it on then. Return False if it is not installed, or its library is missing or of an unsupported version.
    """
    if name in _state.instrumentors:
        return True
    if not is_available(name):
        return False
    library = _LIBRARIES.get(name)
    if library is None or library in sys.modules:
        return _instrument(name)
    _state.instrumentors[name] = None
    when_imported(library, _imported, name)
    # Who imports the instrumentation first imports the library by that, and can't be given it before it is complete.
    when_imported(_module_of(name), _instrumentation_imported, name)
    return True


def _imported(name: str) -> None:
    if _is_waiting(name) and not _is_being_imported(_module_of(name)):
        _instrument(name)


def _instrumentation_imported(name: str) -> None:
    if _is_waiting(name) and _LIBRARIES[name] in sys.modules:
        _instrument(name)


def _is_waiting(name: str) -> bool:
    return name in _state.instrumentors and _state.instrumentors[name] is None


def _module_of(name: str) -> str:
    return _UPSTREAM + name.replace("-", "_")


def _is_being_imported(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


def _instrument(name: str) -> bool:
    # Their packages import OpenTelemetry's metrics API, which reads the environment.
    with environment.hidden():
        return _instrument_now(name)


def _instrument_now(name: str) -> bool:
    _state.instrumentors.pop(name, None)
    point = _entry_point(name)
    if point is None:  # its module exists, but not the metadata of its package
        return False
    instrumentor = point.load()()
    if name == "django" and _state.django_postponed:
        _resume_django(instrumentor)
    if instrumentor.is_instrumented_by_opentelemetry:
        return True
    # instrument() would log an error.
    conflict = dependency_conflict(instrumentor)
    if conflict is not None:
        _logger.debug('The instrumentation "%s" is left out: %s', name, conflict)
        return False
    provider: trace.TracerProvider = trace.get_tracer_provider()
    options: dict[str, Any] = {
        "tracer_provider": ChildrenOnly(provider) if name in _CLIENTS else provider,
        "skip_dep_check": True,
    }
    if name == "django":
        options["excluded_urls"] = _excluded_urls(get_settings().ignore_paths)
    if name == "redis":
        options["request_hook"] = redis_commands.request_hook
    instrumentor.instrument(**options)
    if name == "redis":
        redis_commands.wrap_pipelines()
    redirects.install(name)
    _state.instrumentors[name] = instrumentor
    return True


def _excluded_urls(paths: Iterable[str]) -> str:
    """Return ``IGNORE_PATHS`` as OpenTelemetry's Django instrumentation takes them, and its own variable's paths."""
    environ = os.environ
    named = environ.get("OTEL_PYTHON_DJANGO_EXCLUDED_URLS", environ.get("OTEL_PYTHON_EXCLUDED_URLS", ""))
    # It splits the text at every comma.
    patterns = [re.escape(path.rstrip("/")).replace(",", r"\x2c") for path in paths]
    return ",".join([*([named] if named else []), *(rf"^https?://[^/]+{pattern}(/|$|\?)" for pattern in patterns)])


def postpone_django() -> None:
    """Keep ``opentelemetry-instrument`` from configuring Django (entry point ``opentelemetry_pre_instrument``).

    If ``DJANGO_SETTINGS_MODULE`` is not set yet, as before manage.py has run, OpenTelemetry's Django instrumentation
    would configure Django with empty settings, and the project could not start. It is installed later, if the
    settings ask for ``django`` and not for ``request``.
    """
    if "DJANGO_SETTINGS_MODULE" not in os.environ and _DJANGO_SWITCH not in os.environ:
        os.environ[_DJANGO_SWITCH] = "False"
        _state.django_postponed = True


def _resume_django(instrumentor: Any) -> None:
    _state.django_postponed = False
    os.environ.pop(_DJANGO_SWITCH, None)
    # It counts as installed, though it did nothing.
    instrumentor.uninstrument()


def uninstall(name: str) -> None:
    """Switch off what :func:`install` switched on."""
    instrumentor = _state.instrumentors.pop(name, None)
    if instrumentor is not None:
        if name == "redis":
            redis_commands.unwrap_pipelines()
        redirects.uninstall(name)
        instrumentor.uninstrument()
