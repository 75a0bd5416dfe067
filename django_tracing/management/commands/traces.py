"""``manage.py traces``: the newest traces, those to come, or one as a waterfall."""

from __future__ import annotations

import json
import os
import shutil
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_tracing.conf.loading import get_settings
from django_tracing.exceptions import ReadError
from django_tracing.spans import runtime
from django_tracing.traces import query as asked
from django_tracing.traces.durations import parse_duration, period_text
from django_tracing.traces.model import TraceSummary
from django_tracing.traces.readers.base import Reader, limits_of
from django_tracing.traces.readers.choosing import get_reader
from django_tracing.traces.text import render_list, render_trace

__all__ = ["Command"]

#: How often --follow looks, in seconds.
_EVERY: Final = 1.0
#: How far back --follow looks for traces that were stored late, in seconds; nothing older is remembered.
_LATE: Final = 60.0
_FOLLOW_LIMIT: Final = 500


class Command(BaseCommand):
    help = "Lists the newest traces, or prints one as a waterfall. Reads the local store, or Jaeger at QUERY_URL."
    # Traces are wanted most when something is wrong with the project.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "trace_id",
            nargs="?",
            help="The id of a trace, or its first 6 or more digits. Without: the newest traces.",
        )
        parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
        parser.add_argument("--follow", action="store_true", help="Go on printing traces as they come, until Ctrl-C.")
        parser.add_argument("--limit", type=_positive, default=20, help="How many traces to list (default 20).")
        search = parser.add_argument_group("search", "Which traces are listed.")
        search.add_argument("--service", help="Those that this service took part in.")
        search.add_argument("--operation", help='Those with a span of this name, e.g. "GET /items/<int:pk>".')
        search.add_argument("--errors", action="store_true", help="Those with a failed span.")
        duration = "250ms, 1.5s (or seconds)"
        search.add_argument(
            "--min-duration", type=_seconds, metavar="DURATION", help=f"Those that took at least: {duration}."
        )
        search.add_argument(
            "--max-duration", type=_seconds, metavar="DURATION", help=f"Those that took at most: {duration}."
        )
        search.add_argument("--status-code", type=int, help="Those with a request answered with this status.")
        search.add_argument("--user", help="Those of the user with this id.")
        search.add_argument("--correlation-id", help="Those with this correlation id.")
        search.add_argument(
            "--attribute",
            action="append",
            type=_attribute,
            default=[],
            metavar="KEY=VALUE",
            help="Those with a span that has this attribute; may be given several times.",
        )
        search.add_argument(
            "--since", type=_moment, metavar="WHEN", help="Those that began since: 15m, 2h, 1d, or 2026-01-31T13:45."
        )
        search.add_argument(
            "--until", type=_moment, metavar="WHEN", help="Those that began until then, as in --since."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if runtime.current.trouble:
            # Beside the output: --json stays JSON.
            self.stderr.write(runtime.current.trouble)
        try:
            reader = get_reader(get_settings())
            if options["trace_id"]:
                self._print_trace(reader, options)
            elif options["follow"]:
                self._follow(reader, options)
            else:
                self._print_list(reader, options)
        except ReadError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            # What --follow ends with, and nothing to complain about.
            return

    def _print_trace(self, reader: Reader, options: dict[str, Any]) -> None:
        trace = reader.trace(options["trace_id"])
        if trace is None:
            raise CommandError(
                f"There is no trace {options['trace_id']} in {reader.describe()}. "
                "List the newest ones with: python manage.py traces"
            )
        if options["json"]:
            self._write_json(trace.as_dict())
            return
        self._write(render_trace(trace, width=self._width(), color=self._color(options)))
        link = reader.trace_link(trace.trace_id)
        if link:
            self._write(f"\n{link}")

    def _print_list(self, reader: Reader, options: dict[str, Any]) -> None:
        query = _query(options)
        summaries = reader.search(**query, limit=options["limit"])
        if options["json"]:
            self._write_json([summary.as_dict() for summary in summaries])
        elif summaries:
            self._write(render_list(summaries, width=self._width(), color=self._color(options)))
        elif any(value not in (None, False) for value in query.values()):
            self._write(f"No trace in {reader.describe()} is like that.")
        else:
            lookback = limits_of(reader).lookback
            since = "" if lookback is None else f" of the last {period_text(lookback)}"
            self._write(
                f"No traces{since} in {reader.describe()} yet. Make a request to your project and look again; "
                "if none appears, this says why: python manage.py check_tracing"
            )

    def _follow(self, reader: Reader, options: dict[str, Any]) -> None:
        """The newest traces, then each that comes, in the order in which they came."""
        query = _query(options)
        newest = reader.search(**query, limit=options["limit"])
        seen = dict.fromkeys(summary.trace_id for summary in newest)
        self._print_more(newest[::-1], options, head=True)
        # A trace is printed when it has not changed between two looks: until then it may be incomplete.
        waiting: dict[str, int] = {}
        complained = ""
        while True:
            time.sleep(_EVERY)
            try:
                query["start"] = time.time() - _LATE
                found = reader.search(**query, limit=_FOLLOW_LIMIT)
            except ReadError as error:
                # A backend that restarts is waited for; said once.
                if str(error) != complained:
                    complained = str(error)
                    self.stderr.write(f"{error} Still trying.")
                continue
            complained = ""
            fresh = [summary for summary in found[::-1] if summary.trace_id not in seen]
            settled = [summary for summary in fresh if waiting.get(summary.trace_id) == summary.span_count]
            waiting = {summary.trace_id: summary.span_count for summary in fresh}
            self._print_more(settled, options)
            seen.update(dict.fromkeys(summary.trace_id for summary in settled))
            if len(seen) > 2 * _FOLLOW_LIMIT:
                recent = {summary.trace_id for summary in found}
                seen = {trace_id: None for trace_id in seen if trace_id in recent}

    def _print_more(self, summaries: Sequence[TraceSummary], options: dict[str, Any], head: bool = False) -> None:
        if options["json"]:
            for summary in summaries:
                self.stdout.write(json.dumps(summary.as_dict()))
        elif summaries or head:
            text = render_list(summaries, width=self._width(), color=self._color(options))
            self._write(text if head else text.partition("\n")[2])
        self.stdout.flush()

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


def _query(options: dict[str, Any]) -> dict[str, Any]:
    """The options as a reader's ``search`` takes them."""
    return {
        "service": options["service"],
        "operation": options["operation"],
        "min_duration": options["min_duration"],
        "max_duration": options["max_duration"],
        "errors": options["errors"],
        "attributes": asked.searched_attributes(
            dict(options["attribute"]),
            opt_in=get_settings().semconv_stability_opt_in,
            status_code=options["status_code"],
            user=options["user"],
            correlation_id=options["correlation_id"],
        ),
        "start": options["since"],
        "end": options["until"],
    }


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 10_000:
        raise ArgumentTypeError("must be a whole number from 1 to 10000")
    return int(text)


def _or_none(parse: Callable[[str], float], text: str) -> float | None:
    try:
        return parse(text)
    except (OverflowError, ValueError):
        return None


def _seconds(text: str) -> float:
    value = _or_none(parse_duration, text)
    if value is None:
        value = _or_none(float, text)
    if value is None or not 0 <= value < float("inf"):
        raise ArgumentTypeError("must be a duration, e.g. 250ms or 1.5s")
    return value


def _moment(text: str) -> float:
    ago = _or_none(parse_duration, text)
    if ago is not None:
        return time.time() - ago
    try:
        # Before Python 3.11 it knows no Z. Without an offset: this machine's time.
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (OverflowError, OSError, ValueError):
        raise ArgumentTypeError("must be a time ago (15m, 2h, 1d) or a moment (2026-01-31T13:45)") from None


def _attribute(text: str) -> tuple[str, str]:
    try:
        return asked.attribute(text)
    except ValueError:
        raise ArgumentTypeError("must be KEY=VALUE, e.g. http.method=POST") from None
