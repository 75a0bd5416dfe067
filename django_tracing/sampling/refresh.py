"""Keep this process's sampling rules up to date with the database.

One thread reads the rules every few seconds, so that no request reads them. It also stores the process's counts and
status. It starts with the first trace, and again after a fork. Between two reads it holds no connection, and it does
nothing when the process ends: the status that it stored expires.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, Literal

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.utils import timezone
from opentelemetry.trace import SpanContext, SpanKind

from django_tracing.conf.under_test import in_tests as _in_tests
from django_tracing.conf.values import Settings
from django_tracing.faults import Lasting
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.undecided import SamplingDecision
from django_tracing.sampling.database import (
    FileBusy,
    SQLiteRules,
    TableMissing,
    is_sqlite,
    read_rules,
    rules_alias,
    shares_connections,
    table_exists,
    use_autocommit,
    without_ended,
)
from django_tracing.sampling.figures import Figures, StatusError, figures
from django_tracing.sampling.rules import Rule, RuleSet, compile_rules
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.spans import runtime
from django_tracing.untraced import start_without_context

if TYPE_CHECKING:
    from django_tracing.models import ProcessStatus

__all__ = ["Refresher", "rules_changed", "start"]

_logger = logging.getLogger("django_tracing")

#: How often a process stores its status, in seconds.
STATUS_INTERVAL: Final = 30.0
#: How often to look for a missing table, in seconds.
MISSING_TABLE_INTERVAL: Final = 60.0
#: When to read a SQLite file again after another process was writing to it, in seconds.
BUSY_FILE_INTERVAL: Final = 1.0
#: How long a fork waits for this thread to close its connection, and to leave SQLite, in seconds.
FORK_TIMEOUT: Final = 1.0

#: Whether the rules can be read: not yet tried, read, no table, an error, or not safe (connections are shared).
RulesState = Literal["not_read", "ok", "no_table", "failing", "unsafe"]

#: A separate generator: a site may have seeded Python's.
_random: Final = random.Random()  # noqa: S311 - not for secrets


def start(
    sampler: RuleSampler, factory: SpanFactory, settings: Settings, report: Callable[[], dict[str, Any]]
) -> Refresher:
    """Keep ``sampler`` and ``factory`` up to date from now on. ``report`` returns what the status page shows."""
    refresher = Refresher(sampler, factory, settings, report)
    refresher.prepare()
    for signal in (post_save, post_delete):
        signal.connect(_saved, sender="django_tracing.SamplingRule", dispatch_uid="django_tracing.sampling")
    refresher.handle_forks()
    return refresher


def rules_changed(using: str | None = None) -> None:
    """Read the rules as soon as the current transaction is committed.

    Call it after writing rules without Django's signals (``bulk_create()``, SQL). ``using`` is the alias of their
    database.
    """
    refresher = runtime.current.refresher
    if refresher is not None and not _in_tests():
        transaction.on_commit(refresher.wake, using=using)


def _saved(*, using: str | None = None, **kwargs: Any) -> None:
    try:
        rules_changed(using)
    except Exception:
        _logger.debug("A changed sampling rule could not be read at once.", exc_info=True)


class Refresher:
    """Read the rules, and store counts and status, for one process."""

    def __init__(
        self, sampler: RuleSampler, factory: SpanFactory, settings: Settings, report: Callable[[], dict[str, Any]]
    ) -> None:
        self.sampler = sampler
        self.factory = factory
        self.settings = settings
        self._report = report
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        #: Held while the thread is in SQLite: a child that is forked meanwhile could inherit a held lock of SQLite's.
        self.sqlite_lock = threading.Lock()
        #: Held while the thread has a connection: a child would have the same one, and close it when it ends.
        self._connected_lock = threading.Lock()
        self._held_by_fork: list[threading.Lock] = []
        #: Whether the rules can be read, in one word, and when they were read last, in seconds since the epoch.
        self.rules_state: RulesState = "not_read"
        self.rules_read: float | None = None
        self._failing, self._sharing, self._not_storing = Lasting(), Lasting(), Lasting()
        self._is_hinted = False
        #: Rules that were logged as left out, and the reason.
        self._left_out: set[tuple[str, str]] = set()
        self._has_table = self._is_missing = self._is_busy = False
        self._sqlite = SQLiteRules()
        #: Its modification time shows other processes of this machine that a rule in a SQLite database changed.
        self._notice = settings.local_store.with_name(f"{settings.local_store.stem}.rules-changed")
        self._noticed = 0
        self._is_requested = False
        #: When the thread reads the rules next; and how long a forked process waits before it reads them first.
        self._due = float("-inf")
        self._first_pause = 0.0
        self._status_stored = float("-inf")
        self._processes = 1

    # ----- starting

    def prepare(self) -> None:
        """Let the first trace start the thread. Called again in a forked child."""
        self.factory.root_shared = self.sampler.shared
        self._thread = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._started = timezone.now()
        self._status_stored = float("-inf")
        self._counts: dict[int | None, tuple[int, int]] = {}
        # The names of pods differ at their end, which has to fit.
        self._process = f"{socket.gethostname()[:70]}-{os.getpid()}-{int(self._started.timestamp())}"
        self.factory.decide = self._first if self.settings.sampling_refresh else self._decide()

    def handle_forks(self) -> None:
        """Keep SQLite's locks out of forked children, and let each child start its own thread."""
        if not hasattr(os, "register_at_fork"):
            return
        weak = weakref.ref(self)

        def call(name: str) -> Callable[[], None]:
            def handler() -> None:
                refresher = weak()
                if refresher is not None:
                    getattr(refresher, name)()

            return handler

        os.register_at_fork(
            before=call("_before_fork"),
            after_in_parent=call("_after_fork_in_parent"),
            after_in_child=call("_after_fork_in_child"),
        )

    def _before_fork(self) -> None:
        # In the order in which the thread takes them.
        for lock in (self._connected_lock, self.sqlite_lock):
            if lock.acquire(timeout=FORK_TIMEOUT):
                self._held_by_fork.append(lock)

    def _after_fork_in_parent(self) -> None:
        while self._held_by_fork:
            self._held_by_fork.pop().release()

    def _after_fork_in_child(self) -> None:
        self._held_by_fork = []
        self._connected_lock = threading.Lock()
        self.sqlite_lock = threading.Lock()
        self.sampler.reset_after_fork()
        # What the parent has just read is known here too: a process that ends soon need not connect to the database.
        self._first_pause = self._pause() if time.monotonic() < self._due else 0.0
        self.prepare()

    def _decide(self) -> Callable[..., SamplingDecision] | None:
        return None if self.sampler.is_simple else self.sampler.decide

    def use_without_reading(self) -> None:
        """Decide by the rules that are known: in tests, whose databases come and go, and where a process is short."""
        self.factory.decide = self._decide()

    def _first(
        self, state: Any, name: str, kind: SpanKind, parent: SpanContext | None, trace_id: int
    ) -> SamplingDecision:
        if self.start():
            self.use_without_reading()
        return self.sampler.decide(state, name, kind, parent, trace_id)

    def start(self) -> bool:
        """Start the thread. Return False if no thread could be started, and the next trace has to try again.

        None is started while Django's tests run, whose databases come and go, or if ``SAMPLING_REFRESH`` is 0.
        """
        try:
            with self._lock:
                if self._thread is not None or not self.settings.sampling_refresh or _in_tests():
                    return True
                # Raises in an interpreter without daemon threads.
                thread = self._thread = threading.Thread(
                    target=self._run, name="django_tracing.sampling", daemon=True
                )
            # Not with the lock: under gevent, starting a thread lets others run, which would wait for it forever.
            start_without_context(thread)
        except RuntimeError:  # no more threads, or the process is ending
            self._thread = None
            return False
        return True

    def stop(self, timeout: float) -> None:
        """Stop the thread, if one runs, and wait for it for at most ``timeout`` seconds."""
        with self._lock:
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None:
            thread.join(timeout)

    def wake(self) -> None:
        """Read the rules now: this process changed one. Other processes of a SQLite database see the file's time."""
        self._is_requested = True
        # This runs in the request that saved a rule. Without a folder, no process has stored anything yet.
        with suppress(Exception):
            if is_sqlite(rules_alias()):
                self._notice.touch(0o600)
        self.start()
        self._wake.set()

    # ----- the thread

    def _run(self) -> None:
        wake = self._wake
        wake.wait(self._first_pause)
        # Until another thread replaces it.
        while self._thread is threading.current_thread():
            with self._connected_lock:
                try:
                    self.refresh()
                except Exception:
                    _logger.debug("The sampling rules could not be refreshed.", exc_info=True)
                finally:
                    if not shares_connections():
                        _close_connections()
            seconds = self._pause()
            self._due = time.monotonic() + seconds
            wake.wait(seconds)
            wake.clear()

    def _pause(self) -> float:
        """Return the seconds until the rules are read again: random, so that not all processes read at once."""
        seconds = self.settings.sampling_refresh
        if self._is_missing:
            # The table may never be created.
            seconds = max(seconds, MISSING_TABLE_INTERVAL)
        if self._is_busy:
            seconds = min(seconds, BUSY_FILE_INTERVAL)
        return seconds * _random.uniform(0.9, 1.0)

    def refresh(self) -> None:
        """Read the rules, and store counts and status. Each failure is logged once."""
        if shares_connections():
            self._is_missing = True
            self._log_shared_connections()
            return
        self._is_busy = False
        try:
            rules = self._read()
        except FileBusy:
            self._is_busy = True
        except (ImproperlyConfigured, TableMissing):
            # There is no table, or no database at all.
            self._is_missing = True
            self._log_missing_table()
        except Exception as error:
            self._log_failure(error)
        else:
            self._is_missing = False
            self.use(compile_rules(rules, self.settings.service_name))
            self.rules_state = "ok"
            self.rules_read = time.time()
            if self._failing.ends() or self._is_hinted:
                self._is_hinted = False
                _logger.info("The sampling rules are read again.")
        try:
            self._store()
        except Exception as error:
            self._log_status_failure(error)

    def _read(self) -> list[Rule]:
        alias = rules_alias()
        if is_sqlite(alias):
            return without_ended(self._read_file(alias))
        use_autocommit(alias)
        if not self._has_table:
            self._has_table = table_exists()
            if not self._has_table:
                raise TableMissing
        return read_rules()

    def _read_file(self, alias: str) -> list[Rule]:
        try:
            noticed = self._notice.stat().st_mtime_ns
        except OSError:
            noticed = 0
        requested = self._is_requested or noticed != self._noticed
        self._noticed, self._is_requested = noticed, False
        try:
            with self.sqlite_lock:
                return self._sqlite.read(alias, requested=requested)
        except TableMissing:
            raise
        except Exception:
            # The request is still open: the next read is for it.
            self._is_requested = requested
            raise

    def use(self, rules: RuleSet) -> None:
        """Decide by ``rules`` from now on."""
        for rule, reason in rules.left_out:
            if (rule.name, reason) not in self._left_out:
                _logger.warning('The sampling rule "%s" is left out: %s', rule.name, reason)
        self._left_out = {(rule.name, reason) for rule, reason in rules.left_out}
        self.sampler.use(rules, self._processes)
        self.factory.decide = self._decide()

    def _log_failure(self, error: Exception) -> None:
        # The table may be gone: look for it before the next read.
        self._has_table = False
        self.rules_state = "failing"
        if self._failing.happens():
            known = self.sampler.rules.compiled
            _logger.warning(
                "The sampling rules can't be read (%s); %s.%s",
                type(error).__name__,
                "the last known rules stay in force" if known else "TRACING decides",
                _more(self._failing),
            )

    def _log_missing_table(self) -> None:
        if self._failing.count:
            # They were read before.
            self._log_failure(TableMissing())
            return
        self.rules_state = "no_table"
        if not self._is_hinted:
            # Not a fault: most sites do not use rules.
            self._is_hinted = True
            _logger.info(
                "There is no table of sampling rules, so TRACING decides. To control sampling in the admin, create "
                "it with `python manage.py migrate django_tracing`."
            )

    def _log_shared_connections(self) -> None:
        self.rules_state = "unsafe"
        if self._sharing.happens():
            from django.db import connections

            # A site without a database has no rules.
            has_database = any("dummy" not in options["ENGINE"] for options in connections.settings.values())
            _logger.log(
                logging.WARNING if has_database else logging.DEBUG,
                "The sampling rules are not read, so TRACING decides: gevent patched this process after Django was "
                "loaded, so that all greenlets share the same database connections. Patch first (`import "
                "gevent.monkey; gevent.monkey.patch_all()` at the top of gunicorn's configuration), or do not use "
                "--preload.",
            )

    # ----- counts and status

    def _store(self) -> None:
        where = figures(self.settings)
        if where.in_tables and not self._has_table:
            return
        with nullcontext() if where.in_tables else self.sqlite_lock:
            if self.sampler.rules.compiled or any(rule is not None for rule in self._counts):
                self._store_counts(where)
            if time.monotonic() - self._status_stored >= STATUS_INTERVAL:
                self._processes = max(where.store_status(self._status()), 1)
                self._status_stored = time.monotonic()
                if self._not_storing.ends():
                    _logger.info("The status of this process is stored again.")
                self.sampler.use(self.sampler.rules, self._processes)

    def _store_counts(self, where: Figures) -> None:
        for rule, (kept, passed_over) in self.sampler.drain().items():
            before = self._counts.get(rule, (0, 0))
            self._counts[rule] = before[0] + kept, before[1] + passed_over
        if self._counts:
            # Counts that can't be stored stay for the next time.
            where.add_counts(self._process, timezone.now().replace(second=0, microsecond=0), self._counts)
            if _random.random() < 0.05:  # about every twentieth time
                where.delete_old()

    def _status(self) -> ProcessStatus:
        from django_tracing.models import ProcessStatus

        return ProcessStatus(
            process=self._process,
            service=self.settings.service_name[:100],
            host=socket.gethostname()[:255],
            pid=os.getpid(),
            started=self._started,
            updated=timezone.now(),
            report={**self._report(), "sampling": self.sampler.describe()},
        )

    def _log_status_failure(self, error: Exception) -> None:
        # A database's message may quote private data.
        reason = str(error) if isinstance(error, StatusError) else f"{type(error).__name__}."
        if self._not_storing.happens():
            _logger.warning("The status of this process can't be stored: %s%s", reason, _more(self._not_storing))


def _more(trouble: Lasting) -> str:
    again = trouble.since_last_line()
    return f" It happened {again} more times since it was last logged." if again else ""


def __getattr__(name: str) -> Any:
    from django_tracing.deprecation import resolve_former_name

    return resolve_former_name(__name__, name, {"changed": ("django_tracing.sampling.rules_changed", "0.3")})


def _close_connections() -> None:
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        try:
            connection.close()
        except Exception:
            _logger.debug("A connection of the sampling thread could not be closed.", exc_info=True)
