"""Keeps a process' rules as the database has them: one thread looks every few seconds, and no request ever does.

The same thread stores what the process decided, and how it is. It starts with the first trace, and again after a
fork; between two looks it holds no connection. When the process ends it does nothing: what it has told grows old.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.utils import timezone
from opentelemetry.trace import SpanContext, SpanKind

from django_tracing.conf.under_test import in_tests as _in_tests
from django_tracing.conf.values import Settings
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.undecided import SamplingDecision
from django_tracing.sampling.database import (
    Busy,
    Missing,
    SQLiteRules,
    autocommitting,
    in_force,
    is_sqlite,
    read_rules,
    rules_alias,
    shares_connections,
    table_exists,
)
from django_tracing.sampling.figures import Figures, StatusError, figures
from django_tracing.sampling.rules import Rule, RuleSet, compile_rules
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.spans import runtime

if TYPE_CHECKING:
    from django_tracing.models import ProcessStatus

__all__ = ["Refresher", "changed", "start"]

_logger = logging.getLogger("django_tracing")

#: How often a process tells how it is, in seconds.
REPORTED_EVERY: Final = 30.0
#: How often a table that is not there is looked for, in seconds.
UNMIGRATED: Final = 60.0
#: How soon a SQLite file is looked at again that was being written to, in seconds.
BUSY: Final = 1.0
#: How long a fork waits at most for this thread to be out of SQLite, in seconds.
FORK: Final = 1.0

#: Its own: a site may have seeded Python's.
_chance: Final = random.Random()  # noqa: S311 - nothing here is a secret


def start(
    sampler: RuleSampler, factory: SpanFactory, settings: Settings, report: Callable[[], dict[str, Any]]
) -> Refresher:
    """Keep ``sampler`` and ``factory`` as the database has the rules, from now on."""
    refresher = Refresher(sampler, factory, settings, report)
    refresher.prepare()
    for signal in (post_save, post_delete):
        signal.connect(_saved, sender="django_tracing.SamplingRule", dispatch_uid="django_tracing.sampling")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork)
    return refresher


def changed(using: str | None = None) -> None:
    """Looks at the rules as soon as what was written is committed: what writes them in bulk says so by this."""
    refresher = runtime.current.refresher
    if refresher is not None and not _in_tests():
        transaction.on_commit(refresher.wake, using=using)


def _saved(*, using: str | None = None, **kwargs: Any) -> None:
    try:
        changed(using)
    except Exception:
        _logger.debug("A changed sampling rule could not be read at once.", exc_info=True)


#: Held while the thread is in SQLite: a child that is forked meanwhile could find a lock of SQLite's held for ever.
_in_sqlite = threading.Lock()
_held: Final[list[threading.Lock]] = []


def _before_fork() -> None:
    if _in_sqlite.acquire(timeout=FORK):
        _held.append(_in_sqlite)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().release()


def _after_fork() -> None:
    global _in_sqlite
    _held.clear()
    _in_sqlite = threading.Lock()
    refresher = runtime.current.refresher
    if refresher is not None:
        refresher.sampler.forked()
        refresher.prepare()


class Refresher:
    """Looks at the database for one process."""

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
        #: What went wrong the last time, so that it is said once.
        self._trouble = ""
        self._untold = ""
        #: Rules that were said to be left out, and why.
        self._left_out: set[tuple[str, str]] = set()
        self._has_table = self._unmigrated = self._is_busy = False
        self._sqlite = SQLiteRules()
        #: A file whose time says when a process of this machine changed a rule in a SQLite database.
        self._notice = settings.local_store.with_name(f"{settings.local_store.stem}.rules-changed")
        self._noticed = 0
        self._asked = False
        self._reported = float("-inf")
        self._processes = 1

    # ----- starting

    def prepare(self) -> None:
        """Makes the first trace start the thread; called again in a forked child."""
        self.factory.root_shared = self.sampler.part
        self._thread = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._started = timezone.now()
        self._reported = float("-inf")
        self._counts: dict[int | None, tuple[int, int]] = {}
        # What tells pods apart stands at the end of long names.
        self._process = f"{socket.gethostname()[:70]}-{os.getpid()}-{int(self._started.timestamp())}"
        self.factory.decide = self._first if self.settings.sampling_refresh else self._judge()

    def _judge(self) -> Callable[..., SamplingDecision] | None:
        return None if self.sampler.is_simple else self.sampler.decide

    def settle(self) -> None:
        """Decides without ever having looked: for tests, whose databases come and go."""
        self.factory.decide = self._judge()

    def _first(
        self, scope: Any, name: str, kind: SpanKind, parent: SpanContext | None, trace_id: int
    ) -> SamplingDecision:
        if self.start():
            self.settle()
        return self.sampler.decide(scope, name, kind, parent, trace_id)

    def start(self) -> bool:
        """Starts the thread; False when there was none to be had, and it is to be tried again.

        Never where Django's tests run, their databases come and go, nor where the settings want no refreshing.
        """
        with self._lock:
            if self._thread is not None or not self.settings.sampling_refresh or _in_tests():
                return True
            thread = self._thread = threading.Thread(target=self._run, name="django_tracing.sampling", daemon=True)
        # Not with the lock: under gevent, starting a thread lets others run, who would wait for it for good.
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the process is ending
            self._thread = None
            return False
        return True

    def wake(self) -> None:
        """Looks now: this process has changed a rule. The others of a SQLite database are told by a file's time."""
        self._asked = True
        # In the request that saved a rule. Where there is no folder yet, no process has told of itself.
        with suppress(Exception):
            if is_sqlite(rules_alias()):
                self._notice.touch(0o600)
        self.start()
        self._wake.set()

    # ----- the thread

    def _run(self) -> None:
        wake = self._wake
        # Until it is another one's turn.
        while self._thread is threading.current_thread():
            try:
                self.refresh()
            except Exception:
                _logger.debug("The sampling rules could not be refreshed.", exc_info=True)
            finally:
                if not shares_connections():
                    _close_connections()
            # Not all processes of a host at once.
            seconds = self.settings.sampling_refresh
            if self._unmigrated:
                # It may never be migrated.
                seconds = max(seconds, UNMIGRATED)
            if self._is_busy:
                seconds = min(seconds, BUSY)
            wake.wait(seconds * _chance.uniform(0.9, 1.0))
            wake.clear()

    def refresh(self) -> None:
        """Reads the rules, and stores what is to be told. What goes wrong is said once."""
        if shares_connections():
            self._unmigrated = True
            self._say_shared()
            return
        self._is_busy = False
        try:
            rules = self._look()
        except Busy:
            self._is_busy = True
        except (ImproperlyConfigured, Missing):
            # Without a table, or without any database.
            self._unmigrated = True
            self._say_missing()
        except Exception as error:
            self._say(error)
        else:
            self._unmigrated = False
            self.use(compile_rules(rules, self.settings.service_name))
            if self._trouble:
                self._trouble = ""
                _logger.info("The sampling rules are read again.")
        try:
            self._tell()
        except Exception as error:
            self._say_untold(error)

    def _look(self) -> list[Rule]:
        alias = rules_alias()
        if is_sqlite(alias):
            return in_force(self._look_at_file(alias))
        autocommitting(alias)
        if not self._has_table:
            self._has_table = table_exists()
            if not self._has_table:
                raise Missing
        return read_rules()

    def _look_at_file(self, alias: str) -> list[Rule]:
        try:
            noticed = self._notice.stat().st_mtime_ns
        except OSError:
            noticed = 0
        asked = self._asked or noticed != self._noticed
        self._noticed, self._asked = noticed, False
        try:
            with _in_sqlite:
                return self._sqlite.read(alias, asked=asked)
        except Missing:
            raise
        except Exception:
            # The next look is for this one, too.
            self._asked = asked
            raise

    def use(self, rules: RuleSet) -> None:
        """Decides by ``rules`` from now on."""
        for rule, why in rules.left_out:
            if (rule.name, why) not in self._left_out:
                _logger.warning('The sampling rule "%s" is left out: %s', rule.name, why)
        self._left_out = {(rule.name, why) for rule, why in rules.left_out}
        self.sampler.use(rules, self._processes)
        self.factory.decide = self._judge()

    def _say(self, error: Exception) -> None:
        # It may be the table that went: asked for before the next look.
        self._has_table = False
        kind = type(error).__name__
        if kind != self._trouble:
            self._trouble = kind
            known = self.sampler.rules.compiled
            _logger.warning(
                "The sampling rules can't be read (%s); %s.",
                kind,
                "those known last stay in force" if known else "TRACING decides",
            )

    def _say_missing(self) -> None:
        if not self._trouble:
            # Nobody who has not asked for rules wants to read of them as of a fault.
            self._trouble = "missing"
            _logger.info(
                "There is no table of sampling rules: TRACING decides. `python manage.py migrate django_tracing` "
                "makes it, and the admin steers sampling from then on."
            )

    def _say_shared(self) -> None:
        if not self._trouble:
            self._trouble = "shared"
            from django.db import connections

            # A site without a database has no rules to miss.
            missed = any("dummy" not in options["ENGINE"] for options in connections.settings.values())
            _logger.log(
                logging.WARNING if missed else logging.DEBUG,
                "The sampling rules are not read, TRACING decides: gevent patched this process after Django was "
                "loaded, so that all greenlets have the same database connections. Patch first (`import "
                "gevent.monkey; gevent.monkey.patch_all()` at the top of gunicorn's configuration), or leave out "
                "--preload.",
            )

    # ----- what is told

    def _tell(self) -> None:
        where = figures(self.settings)
        if where.in_tables and not self._has_table:
            return
        with nullcontext() if where.in_tables else _in_sqlite:
            if self.sampler.rules.compiled or any(rule is not None for rule in self._counts):
                self._tell_counts(where)
            if time.monotonic() - self._reported >= REPORTED_EVERY:
                self._processes = max(where.tell(self._status()), 1)
                self._reported = time.monotonic()
                self._untold = ""
                self.sampler.use(self.sampler.rules, self._processes)

    def _tell_counts(self, where: Figures) -> None:
        for rule, (kept, passed_over) in self.sampler.drain().items():
            before = self._counts.get(rule, (0, 0))
            self._counts[rule] = before[0] + kept, before[1] + passed_over
        if self._counts:
            # What can't be stored stays for the next time.
            where.add(self._process, timezone.now().replace(second=0, microsecond=0), self._counts)
            if _chance.random() < 0.05:  # one look in twenty tidies up
                where.tidy()

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

    def _say_untold(self, error: Exception) -> None:
        # What a database says may hold what is nobody's to read.
        why = str(error) if isinstance(error, StatusError) else f"{type(error).__name__}."
        if why != self._untold:
            self._untold = why
            _logger.warning("The status of this process can't be stored: %s", why)


def _close_connections() -> None:
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        try:
            connection.close()
        except Exception:
            _logger.debug("A connection of the sampling thread could not be closed.", exc_info=True)
