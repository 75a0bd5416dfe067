"""Trace Django's database connections, of every vendor: ``db.connect``, ``db.select.blueprints``, ``db.commit``.

Django's own hook, ``connection.execute_wrappers``, is called once for each statement, whatever the driver. There is
no such hook for connecting (the signal ``connection_created`` is sent only after it has worked), so ``connect`` is
wrapped, which Django calls for new connections only. Drivers that are used directly are traced by OpenTelemetry's
instrumentations; these are removed from Django's own connections, so that no statement is traced twice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import Dialect, cut, describe_sql, dialect_of, redact_text
from django_tracing.semconv.names import (
    DB_ALIAS,
    DB_BATCH_SIZE,
    DB_NAME,
    DB_OPERATION,
    DB_POOL_AVAILABLE,
    DB_POOL_SIZE,
    DB_POOL_WAITING,
    DB_ROWS,
    DB_STATEMENT,
    DB_SYSTEM,
    DB_TABLE,
    DB_TABLES,
    DB_USER,
    NET_PEER_NAME,
    NET_PEER_PORT,
    OPERATION_TYPE,
    Attributes,
)
from django_tracing.spans.locations import code_locations

__all__ = ["install", "is_available", "uninstall"]

#: Django's vendor -> ``db.system`` of the semantic conventions; the others are the same word.
_SYSTEMS: Final = {"microsoft": "mssql"}
_DEFAULT_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "oracle": 1521, "microsoft": 1433}
#: The attribute of a connection that holds the facts that its spans share.
_FACTS: Final = "_django_tracing_facts"
#: Longer statements are not cached: they hardly repeat.
_KEPT_LENGTH: Final = 10_000
#: The most bytes that are read of a statement in bytes.
_MOST_BYTES: Final = 200_000

#: How the names of the modules of OpenTelemetry's cursors and connections start.
_UPSTREAM: Final = "opentelemetry.instrumentation."
#: Some drivers return larger numbers, which attributes cannot hold, to mean -1.
_MAX_ROWS: Final = 2**63 - 1

_patches: Final = Patches()


def is_available() -> bool:
    return True


def install() -> None:
    """Put the wrapper on every connection, existing and future."""
    if not _patches.start():
        return
    # commit and rollback rather than _commit and _rollback, which vendors replace (Oracle does).
    for owner, name, traced in (
        (BaseDatabaseWrapper, "connect", _traced_connect),
        (BaseDatabaseWrapper, "commit", _traced_end("commit")),
        (BaseDatabaseWrapper, "rollback", _traced_end("rollback")),
        (CursorWrapper, "callproc", _traced_callproc),
    ):
        _patches.wrap(owner, name, traced)
    for connection in connections.all(initialized_only=True):
        # One that is not open is wrapped when it is opened.
        if connection.connection is not None:
            _wrap(connection)


def uninstall() -> None:
    """Stop tracing SQL. The wrapper stays on the connections of other threads, and does nothing there."""
    _patches.stop()
    for connection in connections.all(initialized_only=True):
        try:
            _unwrap(connection)
        except Exception:
            spans.log_once("database-restore", "A connection's wrapper could not be removed; it traces nothing.")


def _traced_connect(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def connect(self: BaseDatabaseWrapper) -> Any:
        if not _patches.active:
            return original(self)
        parent = spans.recording_span()
        span = INVALID_SPAN if parent is None else _start_connect(parent, self)
        # OpenTelemetry's instrumentation of the driver would trace what Django sends on a new connection.
        token = spans.attach(spans.suppressed() if span is INVALID_SPAN else spans.with_suppressed_span(span))
        try:
            result = original(self)
        except BaseException as error:
            spans.detach(token)
            if span is not INVALID_SPAN:
                spans.record_error(span, error)
                _end_connect(span, self, error)
            raise
        spans.detach(token)
        _wrap(self)
        if span is not INVALID_SPAN:
            _end_connect(span, self)
        return result

    return connect


def _start_connect(parent: Span, connection: BaseDatabaseWrapper) -> Span:
    try:
        # For the statements on the new connection: MySQL's settings, those of receivers of ``connection_created``.
        _prepare(connection)
        name = f"db.{'pool.wait' if _is_pooled(connection) else 'connect'}"
        # Its attributes come when it ends: not all are known before.
        return spans.start_child(parent, name, SpanKind.CLIENT, ())
    except Exception:
        spans.log_once("database-connect", "Connecting to a database could not be traced.")
        return INVALID_SPAN


def _end_connect(span: Span, connection: BaseDatabaseWrapper, error: BaseException | None = None) -> None:
    try:
        facts = _facts(connection)
        pooled = _is_pooled(connection)
        # When connecting has failed before there was a pool, ``connection.pool`` would create it.
        if facts.pooled or (pooled and type(error).__module__.partition(".")[0] == "psycopg_pool"):
            spans.set_attributes(span, _pool_figures(connection))
        shared: tuple[SharedAttributes, ...] = (facts.part, _connects.get(pooled) or _describe_connect(pooled))
        if code_locations.on is not False:
            shared = code_locations.add_to(shared)
        spans.set_shared(span, shared)
    except Exception:
        spans.log_once("database-connect", "Connecting to a database could not be traced.")
    spans.end_span(span)


#: The attributes of connecting alone, by whether a pool gives the connection.
_connects: Final[spans.Cache[bool, SharedAttributes]] = spans.Cache()


def _describe_connect(pooled: bool) -> SharedAttributes:
    return _connects.keep(pooled, spans.share({DB_OPERATION: "pool.wait" if pooled else "connect"}))


def _is_pooled(connection: BaseDatabaseWrapper) -> bool:
    """Return whether Django's own pool (of PostgreSQL and Oracle) gives the connection. Does not create the pool."""
    return (
        hasattr(type(connection), "pool")
        and bool(connection.settings_dict.get("OPTIONS", {}).get("pool"))
        and connection.alias != NO_DB_ALIAS
    )


def _unwrap(connection: BaseDatabaseWrapper) -> None:
    if _execute in connection.execute_wrappers:
        connection.execute_wrappers.remove(_execute)


def _prepare(connection: BaseDatabaseWrapper) -> None:
    # Made again for each connection: a test run renames its database.
    connection.__dict__.pop(_FACTS, None)
    if _execute not in connection.execute_wrappers:
        # The first in the list is the outermost, and `with connection.execute_wrapper()` removes the last one.
        connection.execute_wrappers.insert(0, _execute)


def _wrap(connection: BaseDatabaseWrapper) -> None:
    try:
        _prepare(connection)
        _take_from_upstream(connection)
    except Exception:
        spans.log_once("database-connect", "A database connection could not be traced.")


def _take_from_upstream(connection: BaseDatabaseWrapper) -> None:
    """Remove what OpenTelemetry put on the driver's connection: its cursors (psycopg) or a proxy (others)."""
    raw = connection.connection
    while type(raw).__module__.startswith(_UPSTREAM) and hasattr(raw, "__wrapped__"):
        connection.connection = raw = raw.__wrapped__
    factory = original = getattr(raw, "cursor_factory", None)
    while isinstance(factory, type) and factory.__module__.startswith(_UPSTREAM):
        # get_connection_params() is not called again: it may fetch a password.
        factory = factory.__bases__[0]
    if factory is not original:
        raw.cursor_factory = factory


class _Facts:
    """The facts about a connection that are the same for all its statements."""

    __slots__ = ("asks", "dialect", "generation", "part", "pooled")

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        #: The generation of the names in ``part``.
        self.generation = _statements.generation
        self.part = _part(connection)
        self.dialect = _dialect(connection)
        #: Whether the meaning of a backslash depends on the session, where each statement may change it.
        self.asks = self.dialect in ("postgresql", "mysql")
        # Drivers of other vendors have other kinds of pools. Before there is a connection, ``pool`` would create one.
        self.pooled = connection.connection is not None and hasattr(getattr(connection, "pool", None), "get_stats")


#: Django backends from which others, with a vendor name of their own, are derived: PlanetScale's and TiDB's derive
#: from MySQL's. PostgreSQL's is left out: databases whose backend is derived from it read some literals otherwise.
_BACKENDS: Final[dict[str, Dialect]] = {
    "django.db.backends.mysql.base": "mysql",
    "django.db.backends.sqlite3.base": "sqlite",
    "django.db.backends.oracle.base": "oracle",
}


def _dialect(connection: BaseDatabaseWrapper) -> Dialect:
    known = dialect_of(connection.vendor)
    if known != "unknown":
        return known
    for base in type(connection).__mro__:
        if base.__module__ in _BACKENDS:
            return _BACKENDS[base.__module__]
    with suppress(Exception):
        if connection.ops.quote_name("x") == '"x"':
            return "names-in-double-quotes"
    return "unknown"


_MYSQL_BY_BACKSLASHES: Final[dict[int, Dialect]] = {1: "mysql-no-escapes", 2: "mysql-escapes"}


def _session_dialect(connection: BaseDatabaseWrapper, dialect: Dialect) -> Dialect:
    """Return how this session reads a backslash, as far as its driver knows without asking the server."""
    raw = connection.connection
    try:
        if dialect == "postgresql":
            standard = raw.info.parameter_status("standard_conforming_strings")
            return "names-in-double-quotes" if standard == "off" else dialect
        # With each result the server reports whether NO_BACKSLASH_ESCAPES is in force. Drivers escape accordingly.
        escaped = (getattr(raw, "escape_string", None) or raw.escape)("\\")
        return _MYSQL_BY_BACKSLASHES.get(escaped.count(b"\\" if isinstance(escaped, bytes) else "\\"), dialect)
    except Exception:  # a driver that does not know it
        return dialect


def _facts(connection: BaseDatabaseWrapper) -> _Facts:
    facts: _Facts | None = connection.__dict__.get(_FACTS)
    if facts is None or facts.generation is not _statements.generation:
        facts = connection.__dict__[_FACTS] = _Facts(connection)
    return facts


#: What all spans of the connections to a database share, by its settings. Without CONN_MAX_AGE each request connects.
_parts: Final[spans.Cache[tuple[str, ...], SharedAttributes]] = spans.Cache(1024)


def _part(connection: BaseDatabaseWrapper) -> SharedAttributes:
    settings = connection.settings_dict
    vendor = connection.vendor
    system = "mariadb" if _is_mariadb(connection) else _SYSTEMS.get(vendor, vendor)
    name, user, host, port = (str(settings.get(key) or "") for key in ("NAME", "USER", "HOST", "PORT"))
    key = (vendor, system, connection.alias, name, user, host, port)
    return _parts.get(key) or _parts.keep(key, spans.share(_static_attributes(*key)))


def _static_attributes(
    vendor: str, system: str, alias: str, name: str, user: str, host: str, port: str
) -> Attributes:
    attributes: Attributes = {OPERATION_TYPE: "database", DB_SYSTEM: system, DB_ALIAS: alias}
    if name:
        if vendor == "sqlite":
            # Its folder may show whose machine it is, and a URI's parameters may contain anything.
            name = name.removeprefix("file:").partition("?")[0].replace("\\", "/").rpartition("/")[2]
        elif vendor == "oracle":
            # A connect string, in which user/password may stand before the address.
            name = name.rpartition("@")[2]
        attributes[DB_NAME] = cut(redact_text(name), 255)
    if user:
        # In databases with personal accounts it may be an e-mail address.
        attributes[DB_USER] = cut(redact_text(user), 255)
    if host:
        # A folder of sockets may be in a home folder. Host names may look random, as secrets do.
        attributes[NET_PEER_NAME] = cut(redact_text(host.rpartition("@")[2], random=False), 255)
        port = port or str(_DEFAULT_PORTS.get(vendor, ""))
        # A folder means a Unix socket, which has no port.
        if port.isdigit() and not host.startswith("/"):
            attributes[NET_PEER_PORT] = int(port)
    return attributes


def _is_mariadb(connection: Any) -> bool:
    if not hasattr(type(connection), "mysql_is_mariadb"):
        return False
    if "mysql_server_data" in vars(connection):
        return bool(connection.mysql_is_mariadb)
    # Django asks the server while it connects. Until then, the property would connect. The driver knows it before.
    with suppress(Exception):
        return "mariadb" in str(connection.connection.get_server_info()).lower()
    return False


def _execute(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    parent = spans.recording_span()
    if parent is None or not _patches.active:
        return execute(sql, params, many, context)
    span = _start(parent, sql, params, many, context)
    try:
        result = execute(sql, params, many, context)
    except BaseException as error:
        spans.record_error(span, error)
        spans.end_span(span)
        raise
    try:
        cursor = context["cursor"]
        # The driver's own cursor: each access through Django's wrapper costs a failed lookup first.
        rows = getattr(cursor, "cursor", cursor).rowcount
        # -1: not known, as with SQLite for a SELECT. Oracle counts the rows fetched: none so far.
        if (
            rows.__class__ is int
            and 0 <= rows <= _MAX_ROWS
            and not (context["connection"].vendor == "oracle" and cursor.description)
        ):
            spans.end_child(span, _rows.get(rows) or _rows.keep(rows, (spans.share({DB_ROWS: rows}),)))
            return result
    except Exception:
        spans.log_once("database-rows", "A statement's rows could not be read.")
    spans.end_span(span)
    return result


#: Name and attributes of a statement's spans, by the statement and its dialect.
_statements: Final[spans.Cache[tuple[str, Dialect], tuple[str, SharedAttributes]]] = spans.Cache(1024)
_rows: Final[spans.Cache[int, tuple[SharedAttributes]]] = spans.Cache(1024)


def _start(parent: Span, sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Span:
    try:
        connection = context["connection"]
        facts = connection.__dict__.get(_FACTS)
        if facts is None or facts.generation is not _statements.generation:
            facts = _facts(connection)
        if sql.__class__ is not str:
            sql = _text(sql, context)
        dialect = facts.dialect
        if facts.asks and "\\" in sql:
            dialect = _session_dialect(connection, dialect)
        name, statement = _statements.get((sql, dialect)) or _describe(sql, dialect)
        attributes: Attributes | None = None
        if many and hasattr(params, "__len__"):
            attributes = {DB_BATCH_SIZE: len(params)}
        if facts.pooled:
            attributes = {**(attributes or {}), **_pool_figures(connection)}
        shared: tuple[SharedAttributes, ...] = (facts.part, statement)
        if code_locations.on is not False:
            shared = code_locations.add_to(shared)
        return spans.start_child(parent, name, SpanKind.CLIENT, shared, attributes)
    except Exception:
        spans.log_once("database", "A statement could not be traced.")
        return INVALID_SPAN


def _pool_figures(connection: Any) -> Attributes:
    figures = connection.pool.get_stats()
    return {
        DB_POOL_SIZE: figures.get("pool_size", 0),
        DB_POOL_AVAILABLE: figures.get("pool_available", 0),
        DB_POOL_WAITING: figures.get("requests_waiting", 0),
    }


def _describe(sql: str, dialect: Dialect) -> tuple[str, SharedAttributes]:
    statement = describe_sql(sql, dialect)
    attributes: Attributes = {DB_STATEMENT: statement.text, DB_OPERATION: statement.operation}
    name = f"db.{statement.operation}"
    tables = statement.tables
    if tables:
        attributes[DB_TABLE] = tables[0]
        name = f"{name}.{tables[0]}"
        if len(tables) > 1:
            attributes[DB_TABLES] = tables
    described = cut(name, 100), spans.share(attributes)
    return _statements.keep((sql, dialect), described) if len(sql) <= _KEPT_LENGTH else described


def _text(sql: Any, context: dict[str, Any]) -> str:
    """Return the statement as text; empty if there is none in which values can be told from words."""
    if isinstance(sql, str):
        return sql
    if isinstance(sql, bytes):
        return sql[:_MOST_BYTES].decode("utf-8", "replace")
    as_string = getattr(sql, "as_string", None)  # psycopg's sql.Composed and similar
    if as_string is None:
        return ""
    try:
        return str(as_string(context["cursor"].cursor))
    except Exception:  # one of its values cannot be adapted: the driver will raise the error
        return ""


def _traced_callproc(original: Callable[..., Any]) -> Callable[..., Any]:
    """Trace a stored procedure, for which Django does not call ``execute_wrappers``."""

    @wraps(original)
    def callproc(self: CursorWrapper, procname: Any, params: Any = None, kparams: Any = None) -> Any:
        def call(*args: Any) -> Any:
            return original(self, procname, params, kparams)

        sql = f"CALL {procname}" if isinstance(procname, str) else ""
        return _execute(call, sql, None, False, {"connection": self.db, "cursor": self})

    return callproc


def _traced_end(operation: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def traced(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def end(self: BaseDatabaseWrapper) -> Any:
            if self.connection is None or not spans.recording() or not _patches.active:
                return original(self)
            span = _start_end(self, operation)
            try:
                result = original(self)
            except BaseException as error:
                spans.record_error(span, error)
                spans.end_span(span)
                raise
            spans.end_span(span)
            return result

        return end

    return traced


def _start_end(connection: BaseDatabaseWrapper, operation: str) -> Span:
    try:
        shared: tuple[SharedAttributes, ...] = (_facts(connection).part,)
        if code_locations.on is not False:
            shared = code_locations.add_to(shared)
        return spans.start_span(f"db.{operation}", {DB_OPERATION: operation}, SpanKind.CLIENT, shared=shared)
    except Exception:
        spans.log_once("transaction", "A transaction's end could not be traced.")
        return INVALID_SPAN
