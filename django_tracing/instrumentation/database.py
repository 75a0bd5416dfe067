"""SQL through Django's connections, of every vendor: ``db.select.blueprints``, ``db.commit``, ``db.rollback``.

Django's own hook, ``connection.execute_wrappers``, sees each statement once, whatever driver is below. Statements
that Django sends while it connects make no span. psycopg used directly is OpenTelemetry's to trace; Django's own
connections are taken out of its hands, so that no statement is traced twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.attributes import (
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
from django_tracing.redaction import cut, describe_sql

__all__ = ["install", "is_available", "uninstall"]

#: Django's vendor -> ``db.system`` of the semantic conventions; the others are the same word.
_SYSTEMS: Final = {"microsoft": "mssql"}
_DEFAULT_PORTS: Final = {"postgresql": 5432, "mysql": 3306, "oracle": 1521, "microsoft": 1433}
#: Where a connection keeps what all its spans say.
_STATIC: Final = "_django_tracing_attributes"

_originals: dict[str, Callable[..., Any]] = {}


def is_available() -> bool:
    return True


def install() -> None:
    """Puts the wrapper on every connection there is and will be."""
    if _originals:
        return
    for name, traced in (("connect", _connect), ("_commit", _commit), ("_rollback", _rollback)):
        _originals[name] = getattr(BaseDatabaseWrapper, name)
        setattr(BaseDatabaseWrapper, name, traced)
    for connection in connections.all(initialized_only=True):
        _wrap(connection)


def uninstall() -> None:
    if not _originals:
        return
    for name, original in _originals.items():
        setattr(BaseDatabaseWrapper, name, original)
    _originals.clear()
    for connection in connections.all(initialized_only=True):
        if _execute in connection.execute_wrappers:
            connection.execute_wrappers.remove(_execute)


def _connect(self: BaseDatabaseWrapper) -> None:
    # What Django asks of a new connection (the time zone, the role) is no work of the request's.
    with spans.SuppressedUpstream():
        _originals["connect"](self)
    _wrap(self)


def _wrap(connection: BaseDatabaseWrapper) -> None:
    try:
        # Read again with each connection: a test run renames its database.
        connection.__dict__[_STATIC] = _static_attributes(connection)
        if _execute not in connection.execute_wrappers:
            # First in the list is outermost; and a user's `with connection.execute_wrapper()` takes the last one off.
            connection.execute_wrappers.insert(0, _execute)
        _take_from_upstream(connection)
    except Exception:
        spans.log_once("database-connect", "A database connection could not be traced.")


def _take_from_upstream(connection: BaseDatabaseWrapper) -> None:
    """Gives a psycopg connection back the cursors that Django asked for, where upstream put its own in."""
    raw = connection.connection
    if connection.vendor != "postgresql" or not hasattr(raw, "cursor_factory"):
        return
    if "opentelemetry" in (getattr(raw.cursor_factory, "__module__", None) or ""):
        raw.cursor_factory = connection.get_connection_params()["cursor_factory"]


def _static_attributes(connection: BaseDatabaseWrapper) -> Attributes:
    settings = connection.settings_dict
    vendor = connection.vendor
    attributes: Attributes = {
        OPERATION_TYPE: "database",
        DB_SYSTEM: "mariadb" if getattr(connection, "mysql_is_mariadb", False) else _SYSTEMS.get(vendor, vendor),
        DB_ALIAS: connection.alias,
    }
    if settings.get("NAME"):
        attributes[DB_NAME] = cut(str(settings["NAME"]), 255)
    if settings.get("USER"):
        attributes[DB_USER] = cut(str(settings["USER"]), 255)
    if settings.get("HOST"):
        attributes[NET_PEER_NAME] = cut(str(settings["HOST"]), 255)
        port = str(settings.get("PORT") or _DEFAULT_PORTS.get(vendor, ""))
        # A folder is the address of a Unix socket, which has no port.
        if port.isdigit() and not str(settings["HOST"]).startswith("/"):
            attributes[NET_PEER_PORT] = int(port)
    return attributes


def _execute(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    if not spans.recording():
        return execute(sql, params, many, context)
    span = _start(sql, params, many, context)
    try:
        result = execute(sql, params, many, context)
    except BaseException as error:
        spans.record_error(span, error)
        spans.end_span(span)
        raise
    _finish(span, context)
    return result


def _start(sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Span:
    try:
        connection = context["connection"]
        static = connection.__dict__.get(_STATIC)
        if static is None:
            static = _static_attributes(connection)
        statement = describe_sql(
            _text(sql, context), double_quotes="string" if connection.vendor == "mysql" else "identifier"
        )
        attributes: Attributes = {
            **static,
            DB_STATEMENT: statement.text,
            DB_OPERATION: statement.operation,
        }
        name = f"db.{statement.operation}"
        tables = statement.tables
        if tables:
            attributes[DB_TABLE] = tables[0]
            name = f"{name}.{tables[0]}"
            if len(tables) > 1:
                attributes[DB_TABLES] = tables
        if many and hasattr(params, "__len__"):
            attributes[DB_BATCH_SIZE] = len(params)
        pool = getattr(connection, "pool", None)
        if pool is not None:
            figures = pool.get_stats()
            attributes[DB_POOL_SIZE] = figures.get("pool_size", 0)
            attributes[DB_POOL_AVAILABLE] = figures.get("pool_available", 0)
            attributes[DB_POOL_WAITING] = figures.get("requests_waiting", 0)
        return spans.start_span(cut(name, 100), attributes, SpanKind.CLIENT)
    except Exception:
        spans.log_once("database", "A statement could not be traced.")
        return INVALID_SPAN


def _text(sql: Any, context: dict[str, Any]) -> str:
    if isinstance(sql, str):
        return sql
    if isinstance(sql, bytes):
        return sql.decode("utf-8", "replace")
    as_string = getattr(sql, "as_string", None)  # psycopg's sql.Composed and its kin
    if as_string is not None:
        return str(as_string(context["cursor"].cursor))
    return str(sql)


def _finish(span: Span, context: dict[str, Any]) -> None:
    try:
        rows = context["cursor"].rowcount
        # -1: the driver does not know, as SQLite for a SELECT.
        if isinstance(rows, int) and rows >= 0:
            spans.set_attributes(span, {DB_ROWS: rows})
    except Exception:
        spans.log_once("database-rows", "A statement's rows could not be read.")
    spans.end_span(span)


def _commit(self: BaseDatabaseWrapper) -> Any:
    return _transaction(self, "_commit", "commit")


def _rollback(self: BaseDatabaseWrapper) -> Any:
    return _transaction(self, "_rollback", "rollback")


def _transaction(connection: BaseDatabaseWrapper, method: str, operation: str) -> Any:
    original = _originals[method]
    if connection.connection is None or not spans.recording():
        return original(connection)
    try:
        static = connection.__dict__.get(_STATIC) or _static_attributes(connection)
        span = spans.start_span(f"db.{operation}", {**static, DB_OPERATION: operation}, SpanKind.CLIENT)
    except Exception:
        spans.log_once("transaction", "A transaction's end could not be traced.")
        span = INVALID_SPAN
    try:
        result = original(connection)
    except BaseException as error:
        spans.record_error(span, error)
        spans.end_span(span)
        raise
    spans.end_span(span)
    return result
