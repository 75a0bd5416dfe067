"""Print what the running processes report of their tracing: ``manage.py tracing_status``."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandParser
from django.utils.timezone import is_aware, make_aware, now

from django_tracing.conf.loading import get_settings
from django_tracing.conf.values import Settings
from django_tracing.diagnosis.processes import Reported, ReportingProcess, reported
from django_tracing.net import shown_address
from django_tracing.redaction.printable import printable

__all__ = ["Command"]

_COLUMNS: Final = (
    *("service", "process", "reported", "state", "exporter", "queued", "sent", "retries", "dropped", "last success"),
)
#: A column is at most this wide, in characters.
_WIDEST: Final = 60


class Command(BaseCommand):
    help = (
        "Print what the running processes have reported of their tracing in the last 90 seconds, and the settings of "
        "this process. Exit code 0: no process has reported trouble; 1: a process sends no spans though it should, "
        "or the reports can't be read; 2: the settings are wrong."
    )
    # This command shows wrong settings itself, with its own exit code.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")

    def handle(self, *, json: bool, **options: Any) -> None:
        settings = get_settings()
        found = reported(settings)
        exit_code = _exit_code(settings, found)
        if json:
            self._print_json(settings, found, exit_code)
        else:
            self._print_text(settings, found)
        if exit_code:
            sys.exit(exit_code)

    def _print_json(self, settings: Settings, found: Reported, exit_code: int) -> None:
        document = {
            "ok": exit_code == 0,
            "exit_code": exit_code,
            "settings": _configuration(settings),
            "problem": found.problem,
            "processes": [_as_dict(process) for process in found.processes],
        }
        # ASCII: every pipe accepts it.
        self.stdout.write(json.dumps(document, indent=2, default=str))

    def _print_text(self, settings: Settings, found: Reported) -> None:
        for name, value in _configuration(settings).items():
            for text in value if isinstance(value, list) else [value]:
                if text not in (None, ""):
                    self._write(f"{name.replace('_', ' '):<13} {text}")
        self._write("")
        if found.problem:
            self._write(found.problem)
        elif not found.migrated:
            self._write(
                "The table for the status of processes does not exist yet. To create it, run: "
                "python manage.py migrate django_tracing"
            )
        elif not found.processes:
            self._write(
                "No process has reported in the last 90 seconds. A process reports after it has traced something."
            )
        else:
            self._print_table(found.processes)

    def _print_table(self, processes: list[ReportingProcess]) -> None:
        rows = [_COLUMNS, *map(_row, processes)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self._write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for process in processes:
            name = f"{process.host}:{process.pid}"
            for noun, text in (("last error", process.last_error), ("faults", process.faults)):
                if text:
                    self._write(f"{name} {noun}: {text}")

    def _write(self, text: str) -> None:
        # Reports are stored by other processes. What a terminal can't show becomes a question mark.
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(printable(text).encode(encoding, "replace").decode(encoding))


def _exit_code(settings: Settings, found: Reported) -> int:
    if settings.problems:
        return 2
    return 1 if found.problem or any(process.is_troubled for process in found.processes) else 0


def _configuration(settings: Settings) -> dict[str, Any]:
    endpoints = settings.endpoints or ((settings.endpoint,) if settings.endpoint else ())
    return {
        "service": settings.service_name,
        "tracing": "on" if settings.enabled else f"off ({settings.source('ENABLED')})",
        "exporter": ", ".join([settings.exporter, *settings.more_exporters]),
        "endpoint": ", ".join(map(shown_address, endpoints)) or None,
        "sample_rate": settings.sample_rate,
        "problems": [str(problem) for problem in settings.problems],
    }


def _row(process: ReportingProcess) -> tuple[str, ...]:
    # The numbers are those of that moment: half a minute old, or of a process that has ended since.
    age = max((now() - _aware(process.updated)).total_seconds(), 0)
    cells = (
        *(process.service, f"{process.host}:{process.pid}", f"{age:.0f} s ago", process.state, process.exporter),
        *(process.queued, process.exported, process.retries, process.dropped, _moment(process.last_success)),
    )
    return tuple(printable(cell, _WIDEST) or "-" for cell in cells)


def _as_dict(process: ReportingProcess) -> dict[str, Any]:
    return {
        "service": process.service,
        "host": process.host,
        "pid": process.pid,
        "started": _aware(process.started).isoformat(),
        "updated": _aware(process.updated).isoformat(),
        **process.report,
    }


def _moment(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}Z"


def _aware(time: datetime) -> datetime:
    return time if is_aware(time) else make_aware(time)
