"""Reads the rules from the host's database in a way that no request can notice.

Of most databases a query in autocommit is just that. A SQLite file is locked as a whole, so it is only looked at when
it has changed, by a read-only connection that waits for nobody and has what it wants within one step of SQLite.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

from django.db import connections, router

from django_tracing.sampling.rules import Rule

if TYPE_CHECKING:
    from django_tracing.models import SamplingRule

__all__ = [
    *("Busy", "Missing", "SQLiteRules", "as_rule", "autocommitting", "file_of", "in_force", "is_sqlite"),
    *("look", "read_rules", "rules_alias", "shares_connections", "table_exists"),
]

#: For how long after a change a file's times may stay what they are though it is changed again, in seconds (FAT's).
_CLOCK_STEP: Final = 2.0
#: A file that nobody has written to for so long may be looked at though it holds no rules, in seconds.
_REST: Final = 5.0


class Missing(Exception):
    """There is no table of rules."""


class Busy(Exception):
    """Somebody writes just now: the file is looked at again soon, and not waited for."""


def read_rules() -> list[Rule]:
    """The rules in force, in their order, for a request: by its own connection. Raises what the database raises."""
    return in_force(_enabled())


def look() -> list[Rule]:
    """The rules in force, in their order, for what is no request."""
    alias = rules_alias()
    return in_force(SQLiteRules().read(alias)) if is_sqlite(alias) else read_rules()


def in_force(rules: Iterable[Rule]) -> list[Rule]:
    """Those that have not ended."""
    now = time.time()
    return [rule for rule in rules if rule.valid_until is None or rule.valid_until > now]


def _enabled() -> list[Rule]:
    from django_tracing.models import SamplingRule

    return [as_rule(row) for row in SamplingRule.objects.filter(enabled=True).order_by("order", "id")]


def as_rule(row: SamplingRule) -> Rule:
    """A row as the rules know it."""
    return Rule(
        id=row.pk,
        name=row.name,
        operation=row.operation,
        method=row.method,
        path=row.path,
        service=row.service,
        user_id=row.user_id,
        subscription=row.subscription,
        header_name=row.header_name,
        header_value=row.header_value,
        rate=min(max(row.rate / 100, 0.0), 1.0),
        max_per_second=row.max_per_second,
        keep_errors=row.keep_errors,
        keep_slower_than=row.keep_slower_than,
        valid_until=None if row.valid_until is None else row.valid_until.timestamp(),
    )


def table_exists() -> bool:
    """Whether the rules' table is there, and the others with it.

    Not asked by reading it: each failure would be in the database's own log.
    """
    from django_tracing.models import SamplingRule

    connection = connections[rules_alias()]
    with connection.cursor() as cursor:
        return SamplingRule._meta.db_table in connection.introspection.table_names(cursor)


def shares_connections() -> bool:
    """Whether all threads of this process have the same connections: gevent made greenlets of them too late.

    Under ``gunicorn --preload`` it does so when Django has its thread-local variables already. A connection of this
    app's thread would then be a request's, which may not use it.
    """
    local: Any = connections._connections  # type: ignore[attr-defined]  # asgiref's Local
    storage = getattr(local, "_storage", None)
    return storage is not None and type(storage) is not threading.local


def rules_alias() -> str:
    """The name of the connection that the rules are read by."""
    from django_tracing.models import SamplingRule

    return router.db_for_read(SamplingRule)


def is_sqlite(alias: str) -> bool:
    """Whether a connection of that name is to SQLite; none is opened."""
    return connections[alias].vendor == "sqlite"


def autocommitting(alias: str) -> str:
    """``alias``, whose connection of this thread locks nothing between two statements, whatever the site's do."""
    connection = connections[alias]
    if not connection.settings_dict["AUTOCOMMIT"] and not connection.in_atomic_block:
        connection.set_autocommit(True)
    return alias


def file_of(alias: str) -> tuple[Path, str] | None:
    """A SQLite database's file, and the address to read it by and no more; None where it is in memory."""
    connection: Any = connections[alias]
    name = connection.settings_dict["NAME"]
    if connection.is_in_memory_db():
        return None
    text, options = os.fspath(name), []
    if text.startswith("file:"):
        # https://www.sqlite.org/uri.html
        text, _mark, query = text[len("file:") :].partition("#")[0].partition("?")
        if text.startswith("//"):
            text = "/" + text[2:].partition("/")[2]
        text = unquote(text)
        options = [pair for pair in parse_qsl(query) if pair[0] not in ("mode", "cache")]
    path = Path(text).absolute()
    return path, f"{path.as_uri()}?{urlencode([*options, ('mode', 'ro')])}"


class SQLiteRules:
    """The rules in a SQLite file, as it was when it was looked at last."""

    def __init__(self) -> None:
        #: None: there is no table.
        self._rules: list[Rule] | None = None
        #: Those that are switched off count.
        self._has_rules = False
        self._file: tuple[int, ...] | None = None
        self._seen: _State | None = None

    def read(self, alias: str, *, asked: bool = False) -> list[Rule]:
        """The rules that are switched on, in their order. Raises Busy, Missing, or what the database raises.

        ``asked``: somebody said that they have changed. Without rules nothing else leads to a look at a file that
        others are writing to, but that it is another file than before.
        """
        found = file_of(alias)
        state = None if found is None else _state(found[0])
        if found is None or state is None:
            # To open it would make it.
            raise Missing
        began = time.time()
        is_due = self._has_rules or state.changed < began - _REST
        if asked or state.file != self._file or (is_due and state != self._seen):
            self._seen = None
            try:
                self._has_rules, self._rules = _copied(alias, found[1])
            except Missing:
                self._has_rules, self._rules = False, None
            self._file = state.file
            # A change right after one that was seen need not show in the file's times.
            if state.changed < began - _CLOCK_STEP:
                self._seen = state
        if self._rules is None:
            raise Missing
        return self._rules


class _State(NamedTuple):
    """What is another after each change of a database."""

    #: Which file it is.
    file: tuple[int, int]
    sizes: tuple[tuple[int, ...], ...]
    #: When it was changed last.
    changed: float


def _state(path: Path) -> _State | None:
    """None where there is no file. It is not opened: to close it would drop the locks of the host's connections."""
    found = []
    for name in (str(path), f"{path}-wal"):
        try:
            found.append(os.stat(name))
        except FileNotFoundError:
            break
    if not found:
        return None
    sizes = tuple((file.st_ino, file.st_size, file.st_mtime_ns) for file in found)
    return _State((found[0].st_dev, found[0].st_ino), sizes, max(file.st_mtime for file in found))


def _copied(alias: str, address: str) -> tuple[bool, list[Rule]]:
    """Whether there are rules in the SQLite file at ``address``, and those that are switched on."""
    from django_tracing.models import SamplingRule

    with _own_connection(alias, address) as own:
        table = own.ops.quote_name(SamplingRule._meta.db_table)
        try:
            own.connection.execute("PRAGMA temp_store = MEMORY")
            # One step of SQLite, in which Python runs nothing else: the file is locked for reading for just as long.
            # The model then reads the copy, whose name comes before the table's.
            own.connection.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM main.{table}")  # noqa: S608
        except own.Database.OperationalError as error:
            if "locked" in str(error):
                raise Busy from error
            if "no such table" in str(error):
                raise Missing from error
            raise
        return SamplingRule.objects.exists(), _enabled()


@contextmanager
def _own_connection(alias: str, address: str) -> Iterator[Any]:
    """Makes this thread's connection ``alias`` one that only reads and waits for no lock.

    Not Django's own ``connect()``: what receivers of ``connection_created`` and OPTIONS["init_command"] do, such as
    setting the journal's mode, is for the host's connections.
    """
    shared: Any = connections[alias]
    own = shared.copy(alias)
    options = {name: value for name, value in own.settings_dict["OPTIONS"].items() if name != "init_command"}
    own.settings_dict.update(NAME=address, OPTIONS={**options, "timeout": 0})
    # Not Django's own get_new_connection() either: it registers functions of SQL, which no rule needs, and with some
    # versions of SQLite that reads the file, and fails where it is locked, with the connection left open.
    own.connection = own.Database.connect(**own.get_connection_params())
    try:
        own.set_autocommit(True)
        connections[alias] = own
        try:
            yield own
        finally:
            connections[alias] = shared
    finally:
        own.close()
