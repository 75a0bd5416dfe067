"""Read the rules from the host's database without affecting any request.

For most databases, a query in autocommit mode does not. A SQLite file is locked as a whole, so it is only read after
it has changed, by a read-only connection that waits for no lock and reads all rules within one step of SQLite.
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
    *("FileBusy", "SQLiteRules", "TableMissing", "as_rule", "file_of", "is_sqlite", "read_rules"),
    *("read_rules_in_background", "rules_alias", "shares_connections", "table_exists", "use_autocommit"),
    "without_ended",
]

#: How long a file's times may stay the same although it is changed again, in seconds (on FAT).
_CLOCK_STEP: Final = 2.0
#: After how long without a write a file may be read although it has no rules, in seconds.
_QUIET: Final = 5.0


class TableMissing(Exception):
    """There is no table of rules."""


class FileBusy(Exception):
    """The SQLite file is being written to. Read it again soon instead of waiting."""


def read_rules() -> list[Rule]:
    """Return the rules in force, in their order, by the request's own connection. Raise the database's exceptions."""
    return without_ended(_enabled())


def read_rules_in_background() -> list[Rule]:
    """Return the rules in force, in their order, for code outside of requests."""
    alias = rules_alias()
    return without_ended(SQLiteRules().read(alias)) if is_sqlite(alias) else read_rules()


def without_ended(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules that have not ended."""
    now = time.time()
    return [rule for rule in rules if rule.valid_until is None or rule.valid_until > now]


def _enabled() -> list[Rule]:
    from django_tracing.models import SamplingRule

    return [as_rule(row) for row in SamplingRule.objects.filter(enabled=True).order_by("order", "id")]


def as_rule(row: SamplingRule) -> Rule:
    """Return a row of the table as a :class:`Rule`."""
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
    """Return whether the rules' table exists, and with it the other tables.

    Don't try to read it instead: each failure would be a line of the database's log.
    """
    from django_tracing.models import SamplingRule

    connection = connections[rules_alias()]
    with connection.cursor() as cursor:
        return SamplingRule._meta.db_table in connection.introspection.table_names(cursor)


def shares_connections() -> bool:
    """Return whether all threads of this process share their connections, because gevent patched it too late.

    Under ``gunicorn --preload``, gevent patches the process after Django created its thread-local variables. A
    connection of this app's thread would then be the connection of a request.
    """
    local: Any = connections._connections  # type: ignore[attr-defined]  # asgiref's Local
    storage = getattr(local, "_storage", None)
    return storage is not None and type(storage) is not threading.local


def rules_alias() -> str:
    """Return the alias of the database that the rules are read from."""
    from django_tracing.models import SamplingRule

    return router.db_for_read(SamplingRule)


def is_sqlite(alias: str) -> bool:
    """Return whether ``alias`` is a SQLite database. This opens no connection."""
    return connections[alias].vendor == "sqlite"


def use_autocommit(alias: str) -> str:
    """Let this thread's connection ``alias`` lock nothing between two statements. Return ``alias``."""
    connection = connections[alias]
    if not connection.settings_dict["AUTOCOMMIT"] and not connection.in_atomic_block:
        connection.set_autocommit(True)
    return alias


def file_of(alias: str) -> tuple[Path, str] | None:
    """Return the file of a SQLite database and a read-only URI of it; None if the database is in memory."""
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
    """The rules in a SQLite file, as of the last time that it was read."""

    def __init__(self) -> None:
        #: None if there is no table.
        self._rules: list[Rule] | None = None
        #: Whether the table has any rules, including disabled ones.
        self._has_rules = False
        self._file: tuple[int, ...] | None = None
        self._seen: _State | None = None

    def read(self, alias: str, *, requested: bool = False) -> list[Rule]:
        """Return the enabled rules, in their order. Raise FileBusy, TableMissing, or the database's exceptions.

        ``requested`` is whether a process reported a change. While there are no rules, a file that others write to is
        read only if a change was reported, or if it is another file than before.
        """
        found = file_of(alias)
        state = None if found is None else _state(found[0])
        if found is None or state is None:
            # Opening it would create it.
            raise TableMissing
        now = time.time()
        is_due = self._has_rules or state.changed < now - _QUIET
        if requested or state.file != self._file or (is_due and state != self._seen):
            self._seen = None
            try:
                self._has_rules, self._rules = _copied(alias, found[1])
            except TableMissing:
                self._has_rules, self._rules = False, None
            self._file = state.file
            # A change right after this one may leave the file's times as they are.
            if state.changed < now - _CLOCK_STEP:
                self._seen = state
        if self._rules is None:
            raise TableMissing
        return self._rules


class _State(NamedTuple):
    """The properties of a database file that differ after each change."""

    #: Device and inode.
    file: tuple[int, int]
    sizes: tuple[tuple[int, ...], ...]
    #: The time of the last change.
    changed: float


def _state(path: Path) -> _State | None:
    """Return the state of a file; None if there is none.

    Don't open it: closing it would release the locks of the host's own connections.
    """
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
    """Return whether the SQLite file at ``address`` has rules, and the enabled ones."""
    from django_tracing.models import SamplingRule

    with _own_connection(alias, address) as own:
        table = own.ops.quote_name(SamplingRule._meta.db_table)
        try:
            own.connection.execute("PRAGMA temp_store = MEMORY")
            # One step of SQLite, during which Python runs no other code: the file is locked for reading only that
            # long. The model then reads the copy, because temporary tables are found first.
            own.connection.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM main.{table}")  # noqa: S608
        except own.Database.OperationalError as error:
            if "locked" in str(error):
                raise FileBusy from error
            if "no such table" in str(error):
                raise TableMissing from error
            raise
        return SamplingRule.objects.exists(), _enabled()


@contextmanager
def _own_connection(alias: str, address: str) -> Iterator[Any]:
    """Replace this thread's connection ``alias`` by one that only reads and waits for no lock.

    Django's own ``connect()`` is not used: receivers of ``connection_created`` and OPTIONS["init_command"] may, for
    example, set the journal mode, which is meant for the host's connections.
    """
    shared: Any = connections[alias]
    own = shared.copy(alias)
    options = {name: value for name, value in own.settings_dict["OPTIONS"].items() if name != "init_command"}
    own.settings_dict.update(NAME=address, OPTIONS={**options, "timeout": 0})
    # Django's get_new_connection() is not used either: it registers SQL functions, which no rule needs. With some
    # versions of SQLite that reads the file, fails if it is locked, and leaves the connection open.
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
