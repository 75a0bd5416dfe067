"""``manage.py traces``: the newest traces, or one as a tree."""

from __future__ import annotations

import json
import os
import shutil
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_tracing.conf import get_settings
from django_tracing.reading import get_reader
from django_tracing.traces.jaeger import JaegerReader
from django_tracing.traces.model import Reader, ReadError
from django_tracing.traces.render import render_list, render_trace

__all__ = ["Command"]


class Command(BaseCommand):
    help = "Lists the newest traces, or prints one as a tree. Reads the local store, or Jaeger at QUERY_URL."
    # Traces are wanted most when something is wrong with the project.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "trace_id",
            nargs="?",
            help="The id of a trace, or its first 6 or more digits. Without: the newest traces.",
        )
        parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
        parser.add_argument("--limit", type=_positive, default=20, help="How many traces to list (default 20).")
        parser.add_argument("--service", help="List only traces that this service took part in.")
        parser.add_argument("--errors", action="store_true", help="List only traces with a failed span.")
        parser.add_argument(
            "--min-duration", type=_seconds, metavar="SECONDS", help="List only traces that took at least this long."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            reader = get_reader(get_settings())
            if options["trace_id"]:
                self._print_trace(reader, options)
            else:
                self._print_list(reader, options)
        except ReadError as error:
            raise CommandError(str(error)) from error

    def _print_trace(self, reader: Reader, options: dict[str, Any]) -> None:
        trace = reader.trace(options["trace_id"])
        if trace is None:
            raise CommandError(
                f"There is no trace {options['trace_id']} in {_place(reader)}. "
                "List the newest ones with: python manage.py traces"
            )
        if options["json"]:
            self._write_json(trace.as_dict())
            return
        self._write(render_trace(trace, width=self._width(), color=self._color(options)))
        if isinstance(reader, JaegerReader):
            self._write(f"\n{reader.trace_link(trace.trace_id)}")

    def _print_list(self, reader: Reader, options: dict[str, Any]) -> None:
        summaries = reader.search(
            service=options["service"],
            errors=options["errors"],
            min_duration=options["min_duration"],
            limit=options["limit"],
        )
        if options["json"]:
            self._write_json([summary.as_dict() for summary in summaries])
        elif summaries:
            self._write(render_list(summaries, width=self._width(), color=self._color(options)))
        elif options["service"] or options["errors"] or options["min_duration"] is not None:
            self._write(f"No trace in {_place(reader)} is like that.")
        else:
            since = " of the last day" if isinstance(reader, JaegerReader) else ""
            self._write(
                f"No traces{since} in {_place(reader)} yet. Make a request to your project and look again; "
                "if none appears, this says why: python manage.py check_tracing"
            )

    def _color(self, options: dict[str, Any]) -> bool:
        if options["force_color"]:
            return True
        # https://no-color.org
        return not options["no_color"] and not os.environ.get("NO_COLOR") and self.stdout.isatty()

    def _width(self) -> int:
        # A file or a pipe is searched, not looked at: nothing needs cutting there.
        return shutil.get_terminal_size((100, 24)).columns if self.stdout.isatty() else 240

    def _write_json(self, value: Any) -> None:
        # ASCII: whatever is in it, every terminal and pipe takes it, and no terminal obeys it.
        self._write(json.dumps(value, indent=2))

    def _write(self, text: str) -> None:
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(text.encode(encoding, "replace").decode(encoding))


def _place(reader: Reader) -> str:
    if isinstance(reader, JaegerReader):
        return reader.query_url
    return str(getattr(reader, "path", "the store"))


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 10_000:
        raise ArgumentTypeError("must be a whole number from 1 to 10000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError("must be a number of seconds, e.g. 1.5")
    return value
