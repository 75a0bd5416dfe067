"""OpenTelemetry's own instrumentations: switched on by entry point, and their spans made like ours.

Client-side ones get a provider that makes no root spans: a query outside a trace is nobody's. Their libraries are
not imported for them: one that is not loaded yet is instrumented when the user's code imports it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, SpanKind
from opentelemetry.util.types import Attributes as OTelAttributes

from django_tracing.conf import environment
from django_tracing.conf.loading import get_settings
from django_tracing.context.current import span_context
from django_tracing.context.outgoing import CalledSpan
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.upstream import redirects, redis_commands
from django_tracing.recording.sdk import dependency_conflict
from django_tracing.semconv.names import (
    HTTP_URL,
    URL_FULL,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["ChildrenOnly", "install", "is_available", "library_of", "postpone_django", "uninstall"]

_logger = logging.getLogger("django_tracing")


_GROUP: Final = "opentelemetry_instrumentor"


#: What upstream's packages are called, with the entry point's name behind it; and their modules, with "_" for "-".
_PACKAGE: Final = "opentelemetry-instrumentation-"


#: What the instrumentation scope of upstream's spans begins with.
_UPSTREAM: Final = "opentelemetry.instrumentation."


#: Entry point -> the module whose import it waits for. What is not here is instrumented at once.
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


#: Those whose spans need a parent. Servers and consumers of messages, which begin traces, are not here.
_CLIENTS: Final = frozenset(
    {
        *(_LIBRARIES.keys() - {"celery"}),
        *("sqlite3", "mysql", "mysqlclient", "pymysql", "pymssql", "aiopg", "cassandra", "tortoiseorm"),
        *("boto", "botocore", "grpc_client", "grpc_aio_client", "jinja2"),
    }
)


#: Upstream's own switch for its Django instrumentation.
_DJANGO_SWITCH: Final = "OTEL_PYTHON_DJANGO_INSTRUMENT"


#: Instrumentors that we switched on, by name; None while the library is not imported yet.
_on: dict[str, Any] = {}


_django_postponed = False


@cache
def _entry_points() -> Mapping[str, EntryPoint]:
    # The metadata of every installed package is read for it, which takes milliseconds: once is enough.
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=_GROUP)}


def _entry_point(name: str) -> EntryPoint | None:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        # The metadata of one package, where it is called as upstream's are.
        for point in distribution(_PACKAGE + name).entry_points:
            if point.group == _GROUP and point.name == name:
                return point
    except PackageNotFoundError:
        pass
    return _entry_points().get(name)


def library_of(name: str) -> str | None:
    """The module that the instrumentation of that entry-point name instruments, where this app knows it."""
    return _LIBRARIES.get(name)


def is_available(name: str) -> bool:
    """Whether upstream's instrumentation of that entry-point name and its library are installed. Imports neither."""
    library = _LIBRARIES.get(name)
    if library is None:
        return _entry_point(name) is not None
    try:
        # Asking for the modules reads no metadata at all: this is asked for each of the defaults at start-up.
        return find_spec(_UPSTREAM + name.replace("-", "_")) is not None and (
            library in sys.modules or find_spec(library) is not None
        )
    except (ImportError, ValueError):
        return False


def install(name: str) -> bool:
    """Switches on OpenTelemetry's instrumentation of that entry-point name, at once or when its library is imported.

    True also when it is on already: whoever switched it on (opentelemetry-instrument, say) has their way, and
    :func:`uninstall` leaves it on. False when it is not installed, or its library is missing or of a version that
    it does not know.
    """
    if name in _on:
        return True
    if not is_available(name):
        return False
    library = _LIBRARIES.get(name)
    if library is None or library in sys.modules:
        return _instrument(name)
    _on[name] = None
    when_imported(library, _imported, name)
    return True


def _imported(name: str) -> None:
    if name in _on and _on[name] is None:
        _instrument(name)


def _instrument(name: str) -> bool:
    # Their packages import the metrics API, which reads the environment too.
    with environment.hidden():
        return _instrument_now(name)


def _instrument_now(name: str) -> bool:
    _on.pop(name, None)
    point = _entry_point(name)
    if point is None:  # its module is there, its package's metadata is not
        return False
    instrumentor = point.load()()
    if name == "django" and _django_postponed:
        _resume_django(instrumentor)
    if instrumentor.is_instrumented_by_opentelemetry:
        return True
    # Asked here, where it costs no log line: instrument() would log an error.
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
    _on[name] = instrumentor
    return True


def _excluded_urls(paths: Iterable[str]) -> str:
    """``IGNORE_PATHS`` as upstream's Django instrumentation takes them, beside what its own variable excludes."""
    environ = os.environ
    named = environ.get("OTEL_PYTHON_DJANGO_EXCLUDED_URLS", environ.get("OTEL_PYTHON_EXCLUDED_URLS", ""))
    # It splits at commas, wherever they stand.
    patterns = [re.escape(path.rstrip("/")).replace(",", r"\x2c") for path in paths]
    return ",".join([*([named] if named else []), *(rf"^https?://[^/]+{pattern}(/|$|\?)" for pattern in patterns)])


def postpone_django() -> None:
    """Called by opentelemetry-instrument (entry point ``opentelemetry_pre_instrument``) before it instruments.

    Where ``DJANGO_SETTINGS_MODULE`` is not set yet, as before a manage.py has run, upstream's Django instrumentation
    would configure Django with empty settings, and the project could not start. It has to wait: the settings say
    whether ``request`` or ``django`` traces requests.
    """
    global _django_postponed
    if "DJANGO_SETTINGS_MODULE" not in os.environ and _DJANGO_SWITCH not in os.environ:
        os.environ[_DJANGO_SWITCH] = "False"
        _django_postponed = True


def _resume_django(instrumentor: Any) -> None:
    global _django_postponed
    _django_postponed = False
    os.environ.pop(_DJANGO_SWITCH, None)
    # It counts as switched on, though it did nothing.
    instrumentor.uninstrument()


def uninstall(name: str) -> None:
    """Switches off what :func:`install` switched on."""
    instrumentor = _on.pop(name, None)
    if instrumentor is not None:
        if name == "redis":
            redis_commands.unwrap_pipelines()
        redirects.uninstall(name)
        instrumentor.uninstrument()


class ChildrenOnly(trace.TracerProvider):
    """``provider``, its tracers making spans only below another span."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return _ChildrenOnlyTracer(self._provider.get_tracer(*args, **kwargs))


class _ChildrenOnlyTracer(trace.Tracer):
    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: OTelAttributes = None,
        *args: Any,
        **kwargs: Any,
    ) -> trace.Span:
        if span_context(context).is_valid:
            span = self._tracer.start_span(name, context, kind, attributes, *args, **kwargs)
            if span.is_recording():
                return span
        else:
            span = INVALID_SPAN
        if kind is SpanKind.CLIENT:
            # What is injected into a call depends on where it goes, whether it is recorded or not.
            url = (attributes or {}).get(HTTP_URL) or (attributes or {}).get(URL_FULL)
            if url or get_settings().propagate_to is not None:
                return CalledSpan(span.get_span_context(), str(url or ""))
        return span

    def start_as_current_span(  # type: ignore[override]  # theirs is a decorator, too; instrumentations use a block
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: OTelAttributes = None,
        links: Sequence[trace.Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> AbstractContextManager[trace.Span]:
        failing = record_exception, set_status_on_exception
        span = self.start_span(name, context, kind, attributes, links, start_time, *failing)
        return nullcontext(span) if span is INVALID_SPAN else trace.use_span(span, end_on_exit, *failing)
