"""OpenTelemetry's own instrumentations: switched on by entry point, and their spans made like ours.

Client-side ones get a provider that makes no root spans: a query outside a trace is nobody's. Their libraries are
not imported for them: one that is not loaded yet is instrumented when the user's code imports it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import INVALID_SPAN, SpanKind, Status

from django_tracing.attributes import OPERATION_TYPE
from django_tracing.conf import get_settings
from django_tracing.correlation import get_scope
from django_tracing.identity import identify
from django_tracing.instrumentation import http_client
from django_tracing.redaction import (
    SensitiveKeys,
    cut,
    redact_db_error,
    redact_stacktrace,
    sanitise_sql,
    sanitise_url,
)
from django_tracing.spans import MESSAGE_LENGTH, SCOPE_NAME, STACKTRACE_LENGTH, log_once

__all__ = ["ChildrenOnly", "UpstreamProcessor", "install", "is_available", "is_known", "uninstall"]

_logger = logging.getLogger("django_tracing")

_GROUP: Final = "opentelemetry_instrumentor"
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
}
#: Those whose spans need a parent, beside the ones above.
_CLIENTS: Final = frozenset(
    (
        *_LIBRARIES,
        "sqlite3",
        "mysql",
        "mysqlclient",
        "pymysql",
        "aiopg",
        "cassandra",
        "valkey",
        "tortoiseorm",
        "jinja2",
    )
    + ("boto", "grpc_client", "grpc_aio_client", "botocore")
)

#: Instrumentors that we switched on, by name; None while the library is not imported yet.
_on: dict[str, Any] = {}


def _entry_point(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=_GROUP, name=name)), None)


def is_known(name: str) -> bool:
    """Whether an instrumentation of that entry-point name is installed."""
    return _entry_point(name) is not None


def is_available(name: str) -> bool:
    """Whether it is installed and its library is, too. Imports neither."""
    if not is_known(name):
        return False
    library = _LIBRARIES.get(name)
    try:
        return library is None or library in sys.modules or find_spec(library) is not None
    except (ImportError, ValueError):
        return False


def install(name: str) -> bool:
    """Switches on OpenTelemetry's instrumentation of that entry-point name, at once or when its library is imported.

    False when it is not installed, its library is missing or of another version, or it is on already: then whoever
    switched it on (opentelemetry-instrument, say) has their way.
    """
    if name in _on:
        return True
    point = _entry_point(name)
    if point is None or not is_available(name):
        return False
    library = _LIBRARIES.get(name)
    if library is None or library in sys.modules:
        return _instrument(name, point)
    from wrapt import register_post_import_hook

    _on[name] = None
    register_post_import_hook(lambda module: _imported(name, point), library)
    return True


def _imported(name: str, point: EntryPoint) -> None:
    # In the midst of the user's import statement: nothing of ours may get out.
    try:
        if name in _on and _on[name] is None:
            _instrument(name, point)
    except Exception:
        log_once(f"instrument-{name}", 'The instrumentation "%s" could not be switched on.', name)


def _instrument(name: str, point: EntryPoint) -> bool:
    _on.pop(name, None)
    instrumentor = point.load()()
    if instrumentor.is_instrumented_by_opentelemetry:
        return False
    conflict = instrumentor._check_dependency_conflicts()
    if conflict is not None:
        _logger.debug('The instrumentation "%s" is left out: %s', name, conflict)
        return False
    provider: trace.TracerProvider = trace.get_tracer_provider()
    if name in _CLIENTS:
        provider = ChildrenOnly(provider)
    options: dict[str, Any] = {"tracer_provider": provider, "skip_dep_check": True}
    if name == "django":
        options["excluded_urls"] = ",".join(
            rf"^https?://[^/]+{re.escape(path.rstrip('/'))}(/|$|\?)" for path in get_settings().ignore_paths
        )
    instrumentor.instrument(**options)
    _on[name] = instrumentor
    return True


def uninstall(name: str) -> None:
    """Switches off what :func:`install` switched on."""
    instrumentor = _on.pop(name, None)
    if instrumentor is not None:
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

    def start_span(self, name: str, context: Context | None = None, *args: Any, **kwargs: Any) -> trace.Span:
        if not trace.get_current_span(context).get_span_context().is_valid:
            return INVALID_SPAN
        return self._tracer.start_span(name, context, *args, **kwargs)

    @contextmanager
    def _start_as_current_span(
        self, name: str, context: Context | None = None, *args: Any, **kwargs: Any
    ) -> Iterator[trace.Span]:
        if not trace.get_current_span(context).get_span_context().is_valid:
            yield INVALID_SPAN
            return
        with self._tracer.start_as_current_span(name, context, *args, **kwargs) as span:
            yield span

    start_as_current_span = _start_as_current_span  # type: ignore[assignment]


class UpstreamProcessor(SpanProcessor):
    """Makes spans that are not ours like ours: the request's attributes, names of calls, and redaction.

    It goes first among a provider's processors. Redaction happens when a span ends, before any processor is given
    it: by then an instrumentation has set what it sets.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        try:
            scope = span.instrumentation_scope
            name = scope.name if scope is not None else ""
            if name == SCOPE_NAME:
                return
            settings = get_settings()
            attributes: dict[str, Any] = {}
            request = get_scope(parent_context)
            if request is not None:
                identify(request, settings)
                attributes.update(request.common)
            if span.kind is SpanKind.CLIENT and name.startswith(_UPSTREAM) and span.attributes:
                described = http_client.describe(span.attributes, settings.peer_services)
                if described is not None:
                    span.update_name(described[0])
                    attributes.update(described[1])
            if attributes:
                span.set_attributes(attributes)
        except Exception:
            log_once("upstream-start", "A span of another instrumentation could not be completed.")

    def _on_ending(self, span: Span) -> None:
        # The specification's OnEnding; the SDK calls it by this name while it is experimental.
        try:
            scope = span.instrumentation_scope
            name = scope.name if scope is not None else ""
            if name == SCOPE_NAME:
                return
            if name.startswith(_UPSTREAM):
                _redact_attributes(span)
            _redact_errors(span)
        except Exception:
            # Half redacted is not redacted: the span keeps its times and name, and loses what it says.
            log_once("upstream-end", "A span of another instrumentation could not be redacted; it goes bare.")
            _strip(span)


_URLS: Final = ("http.url", "url.full", "http.target", "url.path")
_STATEMENTS: Final = ("db.statement", "db.query.text")
_STATEMENT_LENGTH: Final = 2000
#: Attributes of upstream's redis instrumentation that hold queries and documents as they are.
_REDIS_RAW: Final = "redis."


def _redact_attributes(span: Span) -> None:
    attributes: Any = span._attributes
    if not attributes:
        return
    changes: dict[str, Any] = {}
    sensitive = _sensitive()
    for key in _URLS:
        value = attributes.get(key)
        if isinstance(value, str):
            changes[key] = cut(sanitise_url(value, sensitive), _STATEMENT_LENGTH)
    query = attributes.get("url.query")
    if isinstance(query, str):
        changes["url.query"] = sanitise_url(f"?{query}", sensitive)[1:]
    system = attributes.get("db.system") or attributes.get("db.system.name")
    dropped: list[str] = []
    if system is not None:
        is_cache = system in ("redis", "memcached", "valkey")
        if OPERATION_TYPE not in attributes:
            changes[OPERATION_TYPE] = "cache" if is_cache else "database"
        for key in _STATEMENTS:
            value = attributes.get(key)
            if isinstance(value, str):
                changes[key] = (
                    _commands(value)
                    if is_cache
                    else sanitise_sql(
                        value,
                        _STATEMENT_LENGTH,
                        double_quotes="string" if system in ("mysql", "mariadb") else "identifier",
                    )
                )
        dropped = [key for key in attributes if key.startswith(_REDIS_RAW) or key == "db.statement.parameters"]
        if len(span.name) > 100:
            span._name = cut(span.name, 100)
    if changes or dropped:
        _change(attributes, changes, dropped)


def _commands(statement: str) -> str:
    """Redis commands, one a line, without anything but their names and the number of their arguments."""
    lines = []
    for line in statement[:_STATEMENT_LENGTH].splitlines()[:50]:
        words = line.split()
        if words:
            lines.append(" ".join([cut(words[0], 32).upper(), *("?" for _ in words[1:10])]))
    return "\n".join(lines)


def _redact_errors(span: Span) -> None:
    for event in span._events:
        attributes: Any = event._attributes
        if not attributes:
            continue
        changes = {}
        message = attributes.get("exception.message")
        if isinstance(message, str):
            changes["exception.message"] = cut(redact_db_error(message), MESSAGE_LENGTH)
        stack = attributes.get("exception.stacktrace")
        if isinstance(stack, str):
            changes["exception.stacktrace"] = redact_stacktrace(stack, STACKTRACE_LENGTH)
        if changes:
            _change(attributes, changes, ())
    description = span._status.description if span._status is not None else None
    if description:
        redacted = cut(redact_db_error(description), MESSAGE_LENGTH)
        if redacted != description:
            span._status = Status(span._status.status_code, redacted)


def _change(attributes: Any, changes: Mapping[str, Any], dropped: Any) -> None:
    """Changes attributes that the SDK has already closed; a plain dict (older SDKs) has no such flag."""
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
        _change(span._attributes, {}, list(span._attributes or ()))
        for event in span._events:
            _change(event._attributes, {}, list(event._attributes or ()))
    except Exception:
        log_once("upstream-strip", "A span of another instrumentation could not be emptied.")


_keys: tuple[tuple[str, ...], SensitiveKeys] | None = None


def _sensitive() -> SensitiveKeys:
    global _keys
    extra = get_settings().sensitive_keys
    if _keys is None or _keys[0] != extra:
        _keys = (extra, SensitiveKeys(extra))
    return _keys[1]
