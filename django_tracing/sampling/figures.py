"""Store the status and the counts of processes: in the database, or in a file beside the local store.

In the database, each statement is a transaction of its own, on rows that only this process writes. SQLite has one
lock for the whole file, so a host's SQLite database is never written to.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from datetime import timezone as datetime_timezone
from typing import TYPE_CHECKING, Any, Final, Protocol

from django.conf import settings as site
from django.db import connections, router
from django.db.models import BigIntegerField, Case, F, Q, QuerySet, Sum, Value, When
from django.db.models.functions import Coalesce
from django.utils import timezone

from django_tracing.conf.values import Settings
from django_tracing.exceptions import TracingError
from django_tracing.sampling.database import file_of, is_sqlite, use_autocommit

if TYPE_CHECKING:
    from django_tracing.models import ProcessStatus, SamplingRule
    from django_tracing.sampling.status_file import StatusFile

__all__ = ["GONE_AFTER", "Figures", "StatusError", "figures"]

#: The age of a status from which on its process counts as gone, in seconds.
GONE_AFTER: Final = 90.0
#: How long counts are stored, in hours.
COUNTS_KEPT: Final = 2

#: Rule (None: the settings) -> number of traces that were kept, and that were passed over.
Counts = dict["int | None", "tuple[int, int]"]


class StatusError(TracingError):
    """The status file can't be written or read. The message has the cause; ``reason`` is one word for programs."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Figures(Protocol):
    """A place for status and counts. Every method raises the exceptions of the database or file."""

    #: Whether it is the tables beside the rules' table.
    in_tables: bool

    def add_counts(self, process: str, minute: datetime, counts: Counts) -> None:
        """Add ``counts`` to those of ``process`` for ``minute``. Remove from ``counts`` what is stored."""

    def store_status(self, status: ProcessStatus) -> int:
        """Store ``status``, an unsaved object. Return how many processes of its service are running."""

    def delete_old(self) -> None:
        """Delete counts that are not shown any more."""

    def processes(self) -> list[ProcessStatus]:
        """Return the status of running processes, by service."""

    def with_counts(self, rules: QuerySet[SamplingRule]) -> QuerySet[Any]:
        """Return ``rules`` with ``kept_sum`` and ``passed_over_sum`` of the last hour."""


def figures(settings: Settings) -> Figures:
    """Return the place where this project's status and counts are stored."""
    from django_tracing.models import ProcessStatus, SamplingCount, SamplingRule

    for alias in (*map(router.db_for_write, (ProcessStatus, SamplingCount)), router.db_for_read(SamplingRule)):
        if is_sqlite(alias):
            return _InFile(settings, alias)
    return _InTables()


class _InTables:
    in_tables = True

    def add_counts(self, process: str, minute: datetime, counts: Counts) -> None:
        from django_tracing.models import SamplingCount

        rows = SamplingCount.objects.using(use_autocommit(router.db_for_write(SamplingCount)))
        for rule, (kept, passed_over) in list(counts.items()):
            row = SamplingCount(rule_id=rule, process=process, minute=minute, kept=kept, passed_over=passed_over)
            known = rows.filter(rule_id=rule, process=process, minute=minute)
            # Without save(): receivers of signals are for the host's models.
            if not known.update(kept=F("kept") + kept, passed_over=F("passed_over") + passed_over):
                rows.bulk_create([row])
            del counts[rule]

    def store_status(self, status: ProcessStatus) -> int:
        from django_tracing.models import ProcessStatus

        alias = use_autocommit(router.db_for_write(ProcessStatus))
        rows = ProcessStatus.objects.using(alias)
        values = {field.attname: getattr(status, field.attname) for field in status._meta.concrete_fields}
        if not rows.filter(pk=values.pop("process")).update(**values):
            rows.bulk_create([status])
        recent = status.updated - timedelta(seconds=GONE_AFTER)
        rows.filter(updated__lt=recent)._raw_delete(alias)
        alive: int = rows.filter(service=status.service, updated__gte=recent).count()
        return alive

    def delete_old(self) -> None:
        from django_tracing.models import SamplingCount

        alias = use_autocommit(router.db_for_write(SamplingCount))
        old = timezone.now() - timedelta(hours=COUNTS_KEPT)
        SamplingCount.objects.using(alias).filter(minute__lt=old)._raw_delete(alias)

    def processes(self) -> list[ProcessStatus]:
        from django_tracing.models import ProcessStatus

        recent = timezone.now() - timedelta(seconds=GONE_AFTER)
        return list(ProcessStatus.objects.filter(updated__gte=recent).order_by("service", "host", "pid"))

    def with_counts(self, rules: QuerySet[SamplingRule]) -> QuerySet[Any]:
        recent = Q(counts__minute__gte=timezone.now() - timedelta(hours=1))
        found: QuerySet[Any] = rules.annotate(
            kept_sum=Coalesce(Sum("counts__kept", filter=recent), 0),
            passed_over_sum=Coalesce(Sum("counts__passed_over", filter=recent), 0),
        )
        return found


class _InFile:
    in_tables = False

    def __init__(self, settings: Settings, alias: str) -> None:
        self._settings = settings
        found = file_of(alias)
        self._database = str(connections[alias].settings_dict["NAME"] if found is None else found[0].resolve())

    def _file(self) -> StatusFile:
        # It imports SQLite, which processes with other databases never need.
        from django_tracing.sampling.status_file import StatusFile

        return StatusFile.beside(self._settings.local_store, self._database)

    def add_counts(self, process: str, minute: datetime, counts: Counts) -> None:
        self._file().add_counts(int(minute.timestamp()), {rule or 0: decided for rule, decided in counts.items()})
        counts.clear()

    def store_status(self, status: ProcessStatus) -> int:
        values = {
            field.attname: value.timestamp() if isinstance(value, datetime) else value
            for field in status._meta.concrete_fields
            for value in (getattr(status, field.attname),)
        }
        return self._file().store_status(values, GONE_AFTER)

    def delete_old(self) -> None:
        self._file().delete_old(int(timezone.now().timestamp()) - COUNTS_KEPT * 3600)

    def processes(self) -> list[ProcessStatus]:
        from django_tracing.models import ProcessStatus

        recent = timezone.now().timestamp() - GONE_AFTER
        return [
            ProcessStatus(**{**values, "started": _time(values["started"]), "updated": _time(values["updated"])})
            for values in self._file().processes(recent)
        ]

    def with_counts(self, rules: QuerySet[SamplingRule]) -> QuerySet[Any]:
        counts = self._file().counts(int(timezone.now().timestamp()) - 3600)
        kept, passed_over = (
            Case(
                *(When(pk=rule, then=Value(decided[index])) for rule, decided in counts.items()),
                default=Value(0),
                output_field=BigIntegerField(),
            )
            for index in (0, 1)
        )
        found: QuerySet[Any] = rules.annotate(kept_sum=kept, passed_over_sum=passed_over)
        return found


def _time(seconds: float) -> datetime:
    """Return a time as the database would return it. The epoch for what is none: the file may hold any number."""
    zone = datetime_timezone.utc if site.USE_TZ else None
    try:
        return datetime.fromtimestamp(seconds, zone)
    except (OSError, OverflowError, ValueError):
        return datetime.fromtimestamp(0, zone)
