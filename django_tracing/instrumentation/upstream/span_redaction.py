"""Redact the content of a span that another tracer made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry.sdk.trace import Span
from opentelemetry.trace import Status

from django_tracing.conf.loading import get_settings
from django_tracing.instrumentation.upstream import redis_commands
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
from django_tracing.spans import runtime
from django_tracing.spans.attributes import OF_REQUEST

__all__ = []

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


@lru_cache(maxsize=8)
def _sensitive(extra: tuple[str, ...]) -> SensitiveKeys:
    return SensitiveKeys(extra)
