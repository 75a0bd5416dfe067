"""Redact the content of a span that another tracer made."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry.trace import Status

from django_tracing.conf.loading import get_settings
from django_tracing.instrumentation.upstream import redis_commands
from django_tracing.recording.sdk import (
    change_attributes,
    events_of,
    links_of,
    plain_attributes,
    set_name,
    set_status,
    status_of,
)
from django_tracing.redaction import (
    SensitiveKeys,
    cut,
    describe_sql,
    dialect_of,
    redact_commands,
    redact_text,
    sanitise_url,
)
from django_tracing.redaction.attributes import AGENT_LENGTH
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
    USER_AGENT_ORIGINAL,
    Attributes,
)
from django_tracing.spans import runtime
from django_tracing.spans.attributes import NAMED, OF_REQUEST
from django_tracing.spans.runtime import SCOPE_NAME

__all__ = ["UPSTREAM_SCOPES", "redact_content", "scope_name"]

#: What the names of the instrumentation scopes of OpenTelemetry's instrumentations start with.
UPSTREAM_SCOPES: Final = "opentelemetry.instrumentation."

_URLS: Final = (HTTP_URL, URL_FULL, "http.target", "url.path")
_URL_LENGTH: Final = 2000
_AGENTS: Final = (HTTP_USER_AGENT, USER_AGENT_ORIGINAL)
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


def redact_content(span: Any) -> None:
    """Redact an ended span of another tracer, in place: a span of the SDK or a draft of one. May raise."""
    scope = scope_name(span)
    upstream = scope.startswith(UPSTREAM_SCOPES)
    redacted = _redact_attributes(span) if upstream else frozenset()
    rename = not upstream and scope != SCOPE_NAME
    # A name that this app chose needs no redaction.
    if rename or (scope == SCOPE_NAME and span.__dict__.get(NAMED) != span.name):
        set_name(span, runtime.current.sanitizer.name(span.name))
    _sanitize(span, redacted, rename=rename)


def scope_name(span: Any) -> str:
    """Return the name of a span's instrumentation scope; empty if it has none."""
    scope = span.instrumentation_scope
    return "" if scope is None else scope.name


def _redact_attributes(span: Any) -> frozenset[str]:
    """Redact the attributes that OpenTelemetry's instrumentations are known to fill; return their names."""
    attributes = plain_attributes(span)
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
            changes[key] = cut(redact_text(str(value)), AGENT_LENGTH)
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
        set_name(span, cut(name or span.name, 100))
    if changes or dropped:
        change_attributes(span, changes, dropped)
    return frozenset(changes)


def _describe_database(span: Any, attributes: Mapping[str, Any], system: str, changes: Attributes) -> str:
    """Put the redacted attributes of a database's or cache's span into ``changes``.

    Return the span's new name, "" if the old one may stay.
    """
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
            changes[key], command = redact_commands(text, pipelined=pipelined)
            changes[key] = known or changes[key]
            name = f"{system}.pipeline" if pipelined else f"{system}.{command}"
            continue
        statement = describe_sql(text, dialect_of(system))
        changes[key] = statement.text
        if system in _SQL:
            # Theirs is the first word of the statement as it was written, which may contain the start of a literal.
            name = f"db.{statement.operation}"
            described[DB_OPERATION] = statement.operation
            if statement.tables:
                name = f"{name}.{statement.tables[0]}"
                described[DB_TABLE] = statement.tables[0]
                if len(statement.tables) > 1:
                    described[DB_TABLES] = statement.tables
    changes.update(runtime.current.convention.apply(described))
    return name


def _sanitize(span: Any, redacted: frozenset[str], *, rename: bool) -> None:
    """Pass all content of a span through the sanitizer, and then through the user's ``REDACT``.

    Attributes called ``redacted`` skip the sanitizer.
    """
    sanitizer = runtime.current.sanitizer
    of_request: Attributes = span.__dict__.get(OF_REQUEST, {})
    if of_request:
        attributes = plain_attributes(span)
        redacted |= {key for key, value in of_request.items() if attributes.get(key) == value}
    _sanitize_attributes(span, redacted, rename=rename)
    for event in events_of(span):
        name = sanitizer.name(event.name)
        if name != event.name:
            set_name(event, name)
        _sanitize_attributes(event, frozenset(), rename=rename)
    for link in links_of(span):
        _sanitize_attributes(link, frozenset(), rename=rename)
    status = status_of(span)
    if status is not None and status.description:
        description = sanitizer.message(status.description)
        if sanitizer.redact is not None:
            description = sanitizer.last({EXCEPTION_MESSAGE: description}).get(EXCEPTION_MESSAGE)
        set_status(span, Status(status.status_code, description))


def _sanitize_attributes(holder: Any, redacted: frozenset[str], *, rename: bool) -> None:
    attributes = plain_attributes(holder)
    if not attributes:
        return
    sanitizer = runtime.current.sanitizer
    given: Mapping[str, Any] = attributes
    if redacted:
        given = {key: value for key, value in attributes.items() if key not in redacted}
    kept = sanitizer.attributes(given, rename=rename)
    if sanitizer.redact is not None:
        kept = sanitizer.last({**{key: attributes[key] for key in redacted if key in attributes}, **kept})
        given = attributes
    changes = {key: value for key, value in kept.items() if attributes.get(key) != value}
    dropped = [key for key in given if key not in kept]
    if changes or dropped:
        change_attributes(holder, changes, dropped)


@lru_cache(maxsize=8)
def _sensitive(extra: tuple[str, ...]) -> SensitiveKeys:
    return SensitiveKeys(extra)
