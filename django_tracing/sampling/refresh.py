"""Keeps a process' rules as the database has them: one thread looks every few seconds, and no request ever does.

The same thread tells the database what the process decided, and how it is. It starts with the first trace, and again
after a fork; between two looks it holds no connection.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import router, transaction
from django.db.models.signals import post_delete, post_save
from django.utils import timezone
from opentelemetry.trace import SpanContext, SpanKind

from django_tracing.conf import Settings
from django_tracing.recording import Origin, Verdict
from django_tracing.sampling.rules import Rule, RuleSet, compile_rules
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.under_test import in_tests as _in_tests

if TYPE_CHECKING:
    from django_tracing.models import SamplingRule

__all__ = ["Refresher", "as_rule", "begin", "changed", "current", "read_rules", "table_exists"]

_logger = logging.getLogger("django_tracing")

#: How often a process tells how it is, and from which age on it counts as gone, in seconds.
REPORTED_EVERY: Final = 30.0
GONE_AFTER: Final = 90.0
#: How often a table that is not there is looked for, in seconds.
UNMIGRATED: Final = 60.0
#: How long counts are kept, in hours.
COUNTS_KEPT: Final = 2

#: Its own: a site may have seeded Python's.
_chance: Final = random.Random()  # noqa: S311 - nothing here is a secret

_current: Refresher | None = None


def begin(sampler: RuleSampler, origin: Origin, settings: Settings, report: Callable[[], dict[str, Any]]) -> None:
    """Steers ``sampler`` and ``origin`` from the database from now on."""
    global _current
    _current = Refresher(sampler, origin, settings, report)
    _current.prepare()
    for signal in (post_save, post_delete):
        signal.connect(_saved, sender="django_tracing.SamplingRule", dispatch_uid="django_tracing.sampling")
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def current() -> Refresher | None:
    """This process' refresher; None where nothing is steered."""
    return _current


def changed(using: str | None = None) -> None:
    """Looks at the rules as soon as what was written is committed: what writes them in bulk says so by this."""
    if _current is not None and not _in_tests():
        transaction.on_commit(_current.wake, using=using)


def _saved(*, using: str | None = None, **kwargs: Any) -> None:
    try:
        changed(using)
    except Exception:
        _logger.debug("A changed sampling rule could not be read at once.", exc_info=True)


def _after_fork() -> None:
    if _current is not None:
        _current.sampler.forked()
        _current.prepare()


def read_rules() -> list[Rule]:
    """The rules that are switched on and have not ended, in their order. Raises what the database raises."""
    from django_tracing.models import SamplingRule

    # Django's: without USE_TZ the database's times are naive, and nothing else compares with them.
    now = timezone.now()
    return [
        as_rule(row)
        for row in SamplingRule.objects.filter(enabled=True).order_by("order", "id")
        if row.valid_until is None or row.valid_until > now
    ]


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


class Refresher:
    """Looks at the database for one process."""

    def __init__(
        self, sampler: RuleSampler, origin: Origin, settings: Settings, report: Callable[[], dict[str, Any]]
    ) -> None:
        self.sampler = sampler
        self.origin = origin
        self.settings = settings
        self._report = report
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        #: What went wrong the last time, so that it is said once.
        self._trouble = ""
        #: Rules that were said to be left out, and why.
        self._left_out: set[tuple[str, str]] = set()
        self._has_table = self._unmigrated = False
        self._reported = float("-inf")
        self._processes = 1

    # ----- starting

    def prepare(self) -> None:
        """Makes the first trace start the thread; called again in a forked child."""
        self.origin.root_part = self.sampler.part
        self._thread = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._started = timezone.now()
        self._reported = float("-inf")
        self._counts: dict[int | None, tuple[int, int]] = {}
        # What tells pods apart stands at the end of long names.
        self._process = f"{socket.gethostname()[:70]}-{os.getpid()}-{int(self._started.timestamp())}"
        self.origin.judge = self._first if self.settings.sampling_refresh else self._judge()

    def _judge(self) -> Callable[..., Verdict] | None:
        return None if self.sampler.is_simple else self.sampler.judge

    def settle(self) -> None:
        """Decides without ever having looked: for tests, whose databases come and go."""
        self.origin.judge = self._judge()

    def _first(self, scope: Any, name: str, kind: SpanKind, parent: SpanContext | None, trace_id: int) -> Verdict:
        if self.start():
            self.settle()
        return self.sampler.judge(scope, name, kind, parent, trace_id)

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
        """Looks now: this process has changed a rule."""
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
                _close_connections()
            # Not all processes of a host at once.
            seconds = self.settings.sampling_refresh
            if self._unmigrated:
                # It may never be migrated.
                seconds = max(seconds, UNMIGRATED)
            wake.wait(seconds * _chance.uniform(0.9, 1.0))
            wake.clear()

    def refresh(self) -> None:
        """Reads the rules, and tells the database what is to be told. What goes wrong is said once."""
        try:
            if not self._has_table:
                self._has_table = table_exists()
                self._unmigrated = not self._has_table
                if self._unmigrated:
                    self._say_missing()
                    return
            rules = read_rules()
            self.use(compile_rules(rules, self.settings.service_name))
            if rules or self._has_counts():
                self._write_counts()
            self._tell()
        except ImproperlyConfigured:
            # A site without a database.
            self._unmigrated = True
            self._say_missing()
        except Exception as error:
            self._say(error)
        else:
            if self._trouble:
                self._trouble = ""
                _logger.info("The sampling rules are read again.")

    def use(self, rules: RuleSet) -> None:
        """Decides by ``rules`` from now on."""
        for rule, why in rules.left_out:
            if (rule.name, why) not in self._left_out:
                _logger.warning('The sampling rule "%s" is left out: %s', rule.name, why)
        self._left_out = {(rule.name, why) for rule, why in rules.left_out}
        self.sampler.use(rules, self._processes)
        self.origin.judge = self._judge()

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

    # ----- what is told

    def _has_counts(self) -> bool:
        return any(rule is not None for rule in self._counts)

    def _write_counts(self) -> None:
        from django.db.models import F

        from django_tracing.models import SamplingCount, SamplingRule

        for rule, (kept, passed_over) in self.sampler.drain().items():
            before = self._counts.get(rule, (0, 0))
            self._counts[rule] = before[0] + kept, before[1] + passed_over
        if not self._counts:
            return
        minute = timezone.now().replace(second=0, microsecond=0)
        known = set(SamplingRule.objects.values_list("id", flat=True))
        with transaction.atomic(using=router.db_for_write(SamplingCount)):
            for rule, (kept, passed_over) in self._counts.items():
                if rule is not None and rule not in known:
                    continue
                row, made = SamplingCount.objects.get_or_create(
                    rule_id=rule,
                    process=self._process,
                    minute=minute,
                    defaults={"kept": kept, "passed_over": passed_over},
                )
                if not made:
                    row.kept = F("kept") + kept
                    row.passed_over = F("passed_over") + passed_over
                    row.save(update_fields=["kept", "passed_over"])
        # What could not be written stays for the next time.
        self._counts.clear()
        if _chance.random() < 0.05:  # one look in twenty tidies up
            SamplingCount.objects.filter(minute__lt=minute - timedelta(hours=COUNTS_KEPT)).delete()

    def _tell(self) -> None:
        from time import monotonic

        from django_tracing.models import ProcessStatus

        if monotonic() - self._reported < REPORTED_EVERY:
            return
        now = timezone.now()
        ProcessStatus.objects.update_or_create(
            process=self._process,
            defaults={
                "service": self.settings.service_name[:100],
                "host": socket.gethostname()[:255],
                "pid": os.getpid(),
                "started": self._started,
                "updated": now,
                "report": {**self._report(), "sampling": self.sampler.describe()},
            },
        )
        # Not before: where another process held the lock (SQLite), it is told at the next look.
        self._reported = monotonic()
        ProcessStatus.objects.filter(updated__lt=now - timedelta(seconds=GONE_AFTER)).delete()
        self._processes = max(ProcessStatus.objects.filter(service=self.settings.service_name[:100]).count(), 1)
        self.sampler.use(self.sampler.rules, self._processes)


def table_exists() -> bool:
    """Whether the rules' table is there, and the others with it.

    Not asked by reading it: each failure would be in the database's own log.
    """
    from django.db import connections

    from django_tracing.models import SamplingRule

    connection = connections[router.db_for_read(SamplingRule)]
    with connection.cursor() as cursor:
        return SamplingRule._meta.db_table in connection.introspection.table_names(cursor)


def _close_connections() -> None:
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        try:
            connection.close()
        except Exception:
            _logger.debug("A connection of the sampling thread could not be closed.", exc_info=True)
