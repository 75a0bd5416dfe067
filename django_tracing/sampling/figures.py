"""Where processes tell how they are and what they kept by which rule: the database, or a file beside the store.

The database's tables are written by statements that are transactions of their own, on rows that nobody else writes.
SQLite has one lock for a whole file, so a host's SQLite database is not written to at all.
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
from django_tracing.sampling.database import autocommitting, file_of, is_sqlite

if TYPE_CHECKING:
    from django_tracing.models import ProcessStatus, SamplingRule
    from django_tracing.sampling.status_file import StatusFile

__all__ = ["GONE_AFTER", "Figures", "StatusError", "figures"]

#: From which age on a process counts as gone, in seconds.
GONE_AFTER: Final = 90.0
#: How long counts are kept, in hours.
COUNTS_KEPT: Final = 2

#: Rule (None: the settings) -> how many traces were kept, how many passed over.
Counts = dict["int | None", "tuple[int, int]"]


class StatusError(Exception):
    """The status file can't be written or read; the message says why. ``reason`` is one word."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Figures(Protocol):
    """Every method raises what the place raises."""

    #: Whether they are in the tables that stand beside the rules' one.
    in_tables: bool

    def add(self, process: str, minute: datetime, counts: Counts) -> None:
        """Adds ``counts`` to what ``process`` decided within ``minute``. What is stored leaves them."""

    def tell(self, status: ProcessStatus) -> int:
        """Stores ``status``, which is not saved; returns how many processes of its service are alive."""

    def tidy(self) -> None:
        """Deletes counts that nobody looks at any more."""

    def processes(self) -> list[ProcessStatus]:
        """The processes that are alive, by service."""

    def counted(self, rules: QuerySet[SamplingRule]) -> QuerySet[Any]:
        """``rules`` with ``kept_sum`` and ``passed_over_sum``, of the last hour."""


def figures(settings: Settings) -> Figures:
    """Where this project's are."""
    from django_tracing.models import ProcessStatus, SamplingCount, SamplingRule

    for alias in (*map(router.db_for_write, (ProcessStatus, SamplingCount)), router.db_for_read(SamplingRule)):
        if is_sqlite(alias):
            return _InFile(settings, alias)
    return _InTables()


class _InTables:
    in_tables = True

    def add(self, process: str, minute: datetime, counts: Counts) -> None:
        from django_tracing.models import SamplingCount

        rows = SamplingCount.objects.using(autocommitting(router.db_for_write(SamplingCount)))
        for rule, (kept, passed_over) in list(counts.items()):
            row = SamplingCount(rule_id=rule, process=process, minute=minute, kept=kept, passed_over=passed_over)
            known = rows.filter(rule_id=rule, process=process, minute=minute)
            # By no save(): receivers of signals are for the host's models.
            if not known.update(kept=F("kept") + kept, passed_over=F("passed_over") + passed_over):
                rows.bulk_create([row])
            del counts[rule]

    def tell(self, status: ProcessStatus) -> int:
        from django_tracing.models import ProcessStatus

        alias = autocommitting(router.db_for_write(ProcessStatus))
        rows = ProcessStatus.objects.using(alias)
        said = {field.attname: getattr(status, field.attname) for field in status._meta.concrete_fields}
        if not rows.filter(pk=said.pop("process")).update(**said):
            rows.bulk_create([status])
        recent = status.updated - timedelta(seconds=GONE_AFTER)
        rows.filter(updated__lt=recent)._raw_delete(alias)
        alive: int = rows.filter(service=status.service, updated__gte=recent).count()
        return alive

    def tidy(self) -> None:
        from django_tracing.models import SamplingCount

        alias = autocommitting(router.db_for_write(SamplingCount))
        old = timezone.now() - timedelta(hours=COUNTS_KEPT)
        SamplingCount.objects.using(alias).filter(minute__lt=old)._raw_delete(alias)

    def processes(self) -> list[ProcessStatus]:
        from django_tracing.models import ProcessStatus

        recent = timezone.now() - timedelta(seconds=GONE_AFTER)
        return list(ProcessStatus.objects.filter(updated__gte=recent).order_by("service", "host", "pid"))

    def counted(self, rules: QuerySet[SamplingRule]) -> QuerySet[Any]:
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
        # It imports SQLite, which the other databases' processes never need.
        from django_tracing.sampling.status_file import StatusFile

        return StatusFile.beside(self._settings.local_store, self._database)

    def add(self, process: str, minute: datetime, counts: Counts) -> None:
        self._file().add(int(minute.timestamp()), {rule or 0: decided for rule, decided in counts.items()})
        counts.clear()

    def tell(self, status: ProcessStatus) -> int:
        said = {
            field.attname: value.timestamp() if isinstance(value, datetime) else value
            for field in status._meta.concrete_fields
            for value in (getattr(status, field.attname),)
        }
        return self._file().tell(said, GONE_AFTER)

    def tidy(self) -> None:
        self._file().tidy(int(timezone.now().timestamp()) - COUNTS_KEPT * 3600)

    def processes(self) -> list[ProcessStatus]:
        from django_tracing.models import ProcessStatus

        recent = timezone.now().timestamp() - GONE_AFTER
        return [
            ProcessStatus(**{**said, "started": _time(said["started"]), "updated": _time(said["updated"])})
            for said in self._file().processes(recent)
        ]

    def counted(self, rules: QuerySet[SamplingRule]) -> QuerySet[Any]:
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
    """As the database would give it."""
    return datetime.fromtimestamp(seconds, datetime_timezone.utc if site.USE_TZ else None)
