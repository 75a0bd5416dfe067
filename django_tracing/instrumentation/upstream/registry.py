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
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import INVALID_SPAN, SpanKind, Status
from opentelemetry.util.types import Attributes as OTelAttributes

from django_tracing.conf import environment
from django_tracing.conf.loading import get_settings
from django_tracing.context.current import current_context, span_context
from django_tracing.context.outgoing import CalledSpan
from django_tracing.context.request import get_request_state
from django_tracing.context.user import identify
from django_tracing.faults import log_once
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.upstream import http_client, redirects, redis_commands
from django_tracing.recording.undecided import undecided_traces
from django_tracing.redaction import (
    SensitiveKeys,
    cut,
    describe_sql,
    dialect_of,
    redact_text,
    sanitise_url,
)
from django_tracing.semconv.names import (
    DB_OPERATION,
    DB_QUERY_TEXT,
    DB_STATEMENT,
    DB_TABLE,
    DB_TABLES,
    EXCEPTION_MESSAGE,
    HTTP_URL,
    HTTP_USER_AGENT,
    OPERATION_TYPE,
    URL_FULL,
    Attributes,
)
from django_tracing.spans import locations as code_locations
from django_tracing.spans import runtime
from django_tracing.spans.attributes import NAMED, OF_REQUEST, set_request_attributes
from django_tracing.spans.runtime import SCOPE_NAME

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["ChildrenOnly", "UpstreamProcessor", "install", "is_available", "postpone_django", "uninstall"]

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

#: The instrumentation scope of the spans of Celery's tasks.
_CELERY: Final = f"{_UPSTREAM}celery"

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
    conflict = instrumentor._check_dependency_conflicts()
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


# ----- no roots


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


# ----- their spans like ours


class UpstreamProcessor(SpanProcessor):
    """Makes spans that are not ours like ours: the request's attributes, names of calls, and redaction.

    What upstream's instrumentations take as it comes is redacted by what it is; everything, the user's own tracers'
    too, follows the guidelines. It happens when a span ends, before any processor is given it, so that nobody
    sees what was there before.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            name = _scope_name(span)
            if name == SCOPE_NAME:
                return
            settings = get_settings()
            attributes: Attributes = {}
            request = get_request_state(parent_context)
            if request is not None:
                identify(request, settings)
                set_request_attributes(span, request.common)
            if name == _CELERY:
                attributes[OPERATION_TYPE] = "task"
            if span.kind is SpanKind.CLIENT and name.startswith(_UPSTREAM):
                context = current_context() if parent_context is None else parent_context
                call: Any = context.get(http_client.CALL_KEY)
                described = http_client.describe(span.attributes or {}, settings.peer_services, call)
                if described is not None:
                    span.update_name(described[0])
                    attributes.update(described[1])
                if code_locations.on is not False:
                    for part in code_locations.located(()):
                        attributes.update(part.attributes)
            if attributes:
                span.set_attributes(attributes)
        except Exception:
            log_once("upstream-start", "A span of another instrumentation could not be completed.")

    def _on_ending(self, span: Span) -> None:
        # The specification's OnEnding; the SDK calls it by this name while it is experimental.
        try:
            name = _scope_name(span)
            upstream = name.startswith(_UPSTREAM)
            treated = _redact_attributes(span) if upstream else frozenset()
            rename = not upstream and name != SCOPE_NAME
            if rename or (name == SCOPE_NAME and span.__dict__.get(NAMED) != span.name):
                span._name = runtime.current.sanitizer.name(span.name)
            _guide(span, treated, rename=rename)
            if undecided_traces:
                known = span.get_span_context()
                undecided = None if known is None else undecided_traces.get(known.trace_id)
                if known is not None and undecided is not None and not known.trace_flags.sampled:
                    # The trace waits for its decision; the processors will not take what is not sampled.
                    undecided.end_sdk_span(span)
        except Exception:
            # Half redacted is not redacted: the span keeps its times, and loses what it says.
            log_once("upstream-end", "A span of another instrumentation could not be redacted; it goes bare.")
            _strip(span)


def _scope_name(span: Span) -> str:
    state = span.instrumentation_scope
    return "" if state is None else state.name


_URLS: Final = (HTTP_URL, URL_FULL, "http.target", "url.path")
_URL_LENGTH: Final = 2000
_AGENTS: Final = (HTTP_USER_AGENT, "user_agent.original")
#: Followed by the header's name, where OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_... asks for headers.
_HEADERS: Final = ("http.request.header.", "http.response.header.")
_SYSTEMS: Final = ("db.system", "db.system.name")
_STATEMENTS: Final = (DB_STATEMENT, DB_QUERY_TEXT)
#: Parameters, queries and documents as they are; dropped.
_RAW: Final = ("db.statement.parameters", "db.query.parameter", "redis.", "elasticsearch.params")
_CACHES: Final = frozenset({"redis", "valkey", "memcached"})
_SQL: Final = frozenset(
    {"postgresql", "sqlite", "cockroachdb", "redshift", "oracle", "oracle.db", "mssql", "microsoft.sql_server"}
    | {"mysql", "mariadb"}
)


def _redact_attributes(span: Span) -> frozenset[str]:
    """Redacts what upstream's instrumentations are known to take as it comes; the names that need no more of it."""
    attributes: Any = span._attributes
    if not attributes:
        return frozenset()
    sensitive = _sensitive(get_settings().sensitive_keys)
    changes: Attributes = {}
    dropped: list[str] = []
    system = ""
    for key, value in attributes.items():
        if key in _URLS:
            changes[key] = cut(sanitise_url(str(value), sensitive), _URL_LENGTH)
        elif key == "url.query":
            changes[key] = cut(sanitise_url(f"?{value}", sensitive)[1:], _URL_LENGTH)
        elif key in _AGENTS:
            changes[key] = redact_text(str(value))
        elif key in _SYSTEMS:
            system = str(value)
        elif key.startswith(_HEADERS):
            values = (value,) if isinstance(value, str) else value
            hidden = sensitive.matches(key.rpartition(".")[2])
            changes[key] = tuple("[redacted]" if hidden else redact_text(str(text)) for text in values)
        elif key.startswith(_RAW):
            dropped.append(key)
    if system:
        name = _describe_database(span, attributes, system, changes)
        span._name = cut(name or span.name, 100)
    if changes or dropped:
        _change(attributes, changes, dropped)
    return frozenset(changes)


def _describe_database(span: Span, attributes: Mapping[str, Any], system: str, changes: Attributes) -> str:
    """Puts what may be said of a database's or cache's span into ``changes``; its name, "" where theirs may stay."""
    name = ""
    known: str | None = span.__dict__.get(redis_commands.ATTRIBUTE)
    if known is None and "db.redis.pipeline_length" in attributes:
        known = redis_commands.pipeline.get()
    described: Attributes = {}
    if OPERATION_TYPE not in attributes:
        described[OPERATION_TYPE] = "cache" if system in _CACHES else "database"
    for key in _STATEMENTS:
        text = attributes.get(key)
        if not isinstance(text, str):
            continue
        if system in _CACHES:
            pipelined = "db.redis.pipeline_length" in attributes
            changes[key], command = _commands(text, pipelined=pipelined)
            changes[key] = known or changes[key]
            name = f"{system}.pipeline" if pipelined else f"{system}.{command}"
            continue
        statement = describe_sql(text, dialect_of(system))
        changes[key] = statement.text
        if system in _SQL:
            # Theirs is the statement's first word as it was written, which may have a literal's beginning in it.
            name = f"db.{statement.operation}"
            described[DB_OPERATION] = statement.operation
            if statement.tables:
                name = f"{name}.{statement.tables[0]}"
                described[DB_TABLE] = statement.tables[0]
                if len(statement.tables) > 1:
                    described[DB_TABLES] = statement.tables
    changes.update(runtime.current.convention.apply(described))
    return name


_NO_COMMAND: Final = re.compile(r"[^a-z0-9_.]")


def _commands(text: str, *, pipelined: bool) -> tuple[str, str]:
    """Commands of Redis or memcached, those of a pipeline one a line, arguments as ``?``; the name of the first."""
    lines = []
    first = ""
    text = text[:_URL_LENGTH]
    # A single command's arguments may hold line breaks, and what follows one is no command.
    for line in text.splitlines()[:50] if pipelined else [text]:
        command, *arguments = line.split() or [""]
        if command:
            command = _NO_COMMAND.sub("", command.lower())[:32]
            first = first or command
            lines.append(" ".join([command.upper(), *("?" for _ in arguments[:20])]))
    return "\n".join(lines), first or "unknown"


def _guide(span: Span, treated: frozenset[str], *, rename: bool) -> None:
    """Makes all that a span says follow the guidelines, and the user's ``REDACT`` the last of them."""
    rules = runtime.current.sanitizer
    of_request: Attributes = span.__dict__.get(OF_REQUEST, {})
    treated |= {key for key, value in of_request.items() if (span._attributes or {}).get(key) == value}
    said: Any
    for said in (span, *span._events, *span._links):
        attributes: Any = said._attributes
        if not attributes:
            continue
        if said is not span:
            # Nobody has read what these say, whatever the span itself says under the same name.
            treated = frozenset()
        given = {key: value for key, value in attributes.items() if key not in treated}
        kept = rules.attributes(given, rename=rename)
        if rules.redact is not None:
            kept = rules.last({**{key: attributes[key] for key in treated if key in attributes}, **kept})
            given = dict(attributes)
        changes = {key: value for key, value in kept.items() if attributes.get(key) != value}
        dropped = [key for key in given if key not in kept]
        if changes or dropped:
            _change(attributes, changes, dropped)
    status = span._status
    if status is not None and status.description:
        description = rules.message(status.description)
        if rules.redact is not None:
            description = rules.last({EXCEPTION_MESSAGE: description}).get(EXCEPTION_MESSAGE)
        span._status = Status(status.status_code, description)


def _change(attributes: Any, changes: Mapping[str, Any], dropped: Iterable[str]) -> None:
    """Changes attributes that the SDK closed when the span ended (those of events: when they were added)."""
    closed = getattr(attributes, "_immutable", False)
    if closed:
        attributes._immutable = False
    try:
        for key, value in changes.items():
            attributes[key] = value
        for key in dropped:
            del attributes[key]
    finally:
        if closed:
            attributes._immutable = True


def _strip(span: Span) -> None:
    try:
        span._name = _scope_name(span).rpartition(".")[2]
        if span._status is not None:
            span._status = Status(span._status.status_code)
        _change(span._attributes, {}, list(span._attributes or ()))
        for event in span._events:
            _change(event._attributes, {}, list(event._attributes or ()))
    except Exception:
        log_once("upstream-strip", "A span of another instrumentation could not be emptied.")


@lru_cache(maxsize=8)
def _sensitive(extra: tuple[str, ...]) -> SensitiveKeys:
    return SensitiveKeys(extra)
