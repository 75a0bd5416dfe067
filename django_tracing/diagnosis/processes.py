"""Read what the running processes report of themselves: their health, their counts and their sampling."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final, NamedTuple

from django.db import Error

from django_tracing.conf.values import Settings
from django_tracing.models import ProcessStatus
from django_tracing.net import shown_address
from django_tracing.sampling.database import table_exists
from django_tracing.sampling.figures import StatusError, figures

__all__ = ["Reported", "ReportingProcess", "as_reported", "reported"]

#: How many endpoints and exporters of a process are shown: its report may be anything.
_MOST_SHOWN: Final = 16
#: The states of a process that sends nothing though it should.
_TROUBLED: Final = frozenset(("failing", "broken"))


class ReportingProcess(NamedTuple):
    """What one process reported, as texts. Empty where it reported nothing of the kind, or something else."""

    service: str
    host: str
    pid: int
    started: datetime
    updated: datetime
    state: str
    #: Exporters with their endpoints, and which of them are not available.
    exporter: str
    queued: str
    exported: str
    #: Reasons and numbers; "0" if nothing was dropped.
    dropped: str
    retries: str
    #: Faults of this app and their numbers.
    faults: str
    last_success: datetime | None
    last_error: str
    sampling: str
    #: The whole report: see ``Health.as_dict``.
    report: Mapping[str, Any]

    @property
    def is_troubled(self) -> bool:
        """Whether it sends nothing, though it should."""
        return self.state in _TROUBLED


class Reported(NamedTuple):
    """The processes that reported in the last 90 seconds, by service, host and process id."""

    processes: list[ReportingProcess]
    #: Whether there is a place for reports: a table, or a file.
    migrated: bool
    #: Why the reports can't be read; empty if they can.
    problem: str


def reported(settings: Settings) -> Reported:
    """Read the reports. A database that fails is a problem, not an exception."""
    try:
        source = figures(settings)
        migrated = not source.in_tables or table_exists()
        found = source.processes() if migrated else []
        return Reported(list(map(as_reported, found)), migrated, "")
    except StatusError as error:
        return Reported([], True, str(error))
    except Error as error:
        # A database's message may quote private data.
        return Reported([], True, f"The status of processes can't be read ({type(error).__name__}).")


def as_reported(process: ProcessStatus) -> ReportingProcess:
    """Return what a stored status says. It may be of another version of this app, and anything."""
    report = _mapping(process.report)
    sampling = _mapping(report.get("sampling"))
    rules = sampling.get("rules")
    dropped = _counts(report.get("dropped"))
    dropped += [f"{name.replace(' ', '_attributes ', 1)}" for name in _counts(report.get("dropped_attributes"))]
    return ReportingProcess(
        service=process.service,
        host=process.host,
        pid=process.pid,
        started=process.started,
        updated=process.updated,
        state=_text(report, "state"),
        exporter=_exporters(report),
        queued=" ".join(filter(None, (_text(report, "queued"), _spooled(report)))),
        exported=_text(report, "exported"),
        dropped=", ".join(dropped) or "0",
        retries=_text(report, "retries"),
        faults=", ".join(_counts(report.get("faults"))),
        last_success=_time(report.get("last_success_time")),
        last_error=_text(report, "last_error") or _trouble(report),
        sampling=", ".join(
            [f"SAMPLE_RATE {sampling.get('rate')}", *map(str, rules if isinstance(rules, (list, tuple)) else ())]
        ),
        report=report,
    )


def _trouble(report: Mapping[str, Any]) -> str:
    return _text(report, "trouble") if _text(report, "state") == "broken" else ""


def _exporters(report: Mapping[str, Any]) -> str:
    exporters = report.get("exporters")
    if not isinstance(exporters, list) or not exporters:
        # One with an older version of this app.
        return _exporter(report)
    return ", ".join(_exporter(each) for each in exporters[:_MOST_SHOWN] if isinstance(each, Mapping))


def _exporter(report: Mapping[str, Any]) -> str:
    states = report.get("endpoints")
    shown = []
    for state in states[:_MOST_SHOWN] if isinstance(states, list) else ():
        address = shown_address(_text(state, "endpoint")) if isinstance(state, Mapping) else ""
        if address:
            shown.append(address if state.get("available") else f"{address} (not available)")
    # A process with an older version of this app may report more of the address.
    endpoint = ", ".join(shown) or shown_address(_text(report, "endpoint"))
    down = "(not available)" if not shown and report.get("state") == "failing" and "exporter" in report else ""
    return " ".join(filter(None, (_text(report, "exporter"), endpoint, down)))


def _spooled(report: Mapping[str, Any]) -> str:
    """Return how many spans wait on disk."""
    spans = _mapping(report.get("spool")).get("spans")
    return f"and {spans} on disk" if isinstance(spans, int) else ""


def _counts(counts: Any) -> list[str]:
    return [f"{reason} {count}" for reason, count in _mapping(counts).items()]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(report: Mapping[str, Any], name: str) -> str:
    value = report.get(name)
    return "" if value is None else str(value)


def _time(seconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(seconds), timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
