"""Print the newest traces, new traces as they arrive, or one as a waterfall: ``manage.py traces``."""

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
from django_tracing.context.trace_page import origin_of_url, page_path
from django_tracing.exceptions import ReadError
from django_tracing.semconv.names import HTTP_URL, URL_FULL
from django_tracing.spans import runtime
from django_tracing.traces import query as parse
from django_tracing.traces.durations import parse_duration, period_text
from django_tracing.traces.model import Trace, TraceSummary
from django_tracing.traces.readers.base import Reader, limits_of
from django_tracing.traces.readers.choosing import get_reader
from django_tracing.traces.text import render_list, render_trace
from django_tracing.traces.times import iso_time

__all__ = ["Command"]

#: How long --follow waits between two searches, in seconds.
_EVERY: Final = 1.0
#: How far back --follow searches for traces that were stored late, in seconds.
_LATE: Final = 60.0
#: How far back it searches for requests that were still running, in seconds.
_LONGEST: Final = 3600.0
_FOLLOW_LIMIT: Final = 500


class Command(BaseCommand):
    help = "List the newest traces, or print one as a waterfall. Reads the local store, or the Jaeger at QUERY_URL."
    # Traces are needed most when the project has errors.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "trace_id",
            nargs="?",
            help="The ID of a trace, or at least its first 6 digits. Without it, the newest traces are listed.",
        )
        parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
        parser.add_argument("--follow", action="store_true", help="Print new traces as they arrive, until Ctrl-C.")
        parser.add_argument("--limit", type=_positive, default=20, help="How many traces to list (default: 20).")
        search = parser.add_argument_group("search", "List only traces that match all of these options.")
        search.add_argument("--service", help="Traces that this service is part of.")
        search.add_argument("--operation", help='Traces with a span of this name, for example "GET /items/<int:pk>".')
        search.add_argument("--errors", action="store_true", help="Traces with a failed span.")
        duration = "for example 250ms or 1.5s; a number without a unit means seconds"
        search.add_argument(
            "--min-duration",
            type=_seconds,
            metavar="DURATION",
            help=f"Traces that took at least this long, {duration}.",
        )
        search.add_argument(
            "--max-duration",
            type=_seconds,
            metavar="DURATION",
            help=f"Traces that took at most this long, {duration}.",
        )
        search.add_argument(
            "--status-code", type=int, help="Traces with a request that was answered with this HTTP status code."
        )
        search.add_argument("--user", help="Traces of the user with this ID.")
        search.add_argument("--correlation-id", help="Traces with this correlation ID.")
        search.add_argument(
            "--attribute",
            action="append",
            type=_attribute,
            default=[],
            metavar="KEY=VALUE",
            help="Traces with a span that has this attribute. You can repeat this option.",
        )
        search.add_argument(
            "--since",
            type=_moment,
            metavar="WHEN",
            help="Traces that started at this time or later: 15m, 2h or 1d before now, or 2026-01-31T13:45.",
        )
        search.add_argument(
            "--until",
            type=_moment,
            metavar="WHEN",
            help="Traces that started at this time or earlier, in the same format as --since.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if runtime.current.trouble:
            # Not on standard output: --json stays valid JSON.
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
            # The normal end of --follow.
            return

    def _print_trace(self, reader: Reader, options: dict[str, Any]) -> None:
        trace = reader.trace(options["trace_id"])
        if trace is None:
            raise CommandError(
                f"There is no trace {options['trace_id']} in {reader.describe()}. "
                "To list the newest traces, run: python manage.py traces"
            )
        if options["json"]:
            self._write_json(trace.as_dict())
            return
        self._write(render_trace(trace, width=self._width(), color=self._color(options)))
        link = reader.trace_link(trace.trace_id)
        pages = [line for line in (link, _page_of(trace)) if line]
        if pages:
            self._write("\n" + "\n".join(pages))

    def _print_list(self, reader: Reader, options: dict[str, Any]) -> None:
        query = _query(options)
        summaries = reader.search(**query, limit=options["limit"])
        reached = getattr(summaries, "reached", None)
        if reached is not None:
            # Not on standard output: --json stays valid JSON.
            self.stderr.write(
                f"The search took too long. It has found all matching traces that started after {iso_time(reached)}. "
                f"To search on from there: --until {iso_time(reached)}"
            )
        if options["json"]:
            self._write_json([summary.as_dict() for summary in summaries])
        elif summaries:
            self._write(render_list(summaries, width=self._width(), color=self._color(options)))
        elif any(value not in (None, False) for value in query.values()):
            self._write(f"No trace in {reader.describe()} matches.")
        else:
            lookback = limits_of(reader).lookback
            since = "" if lookback is None else f" of the last {period_text(lookback)}"
            self._write(
                f"No traces{since} in {reader.describe()} yet. Send a request to your project and try again. "
                "If there is still none, find out why with: python manage.py check_tracing"
            )

    def _follow(self, reader: Reader, options: dict[str, Any]) -> None:
        """Print the newest traces, then new ones in the order of their arrival."""
        query = _query(options)
        newest = reader.search(**query, limit=options["limit"])
        seen = dict.fromkeys(summary.trace_id for summary in newest if summary.state != "running")
        self._print_more(newest[::-1], options, head=True)
        # A trace is printed when two searches find the same number of spans and its request has ended.
        waiting: dict[str, int] = {}
        running = time.time()
        reported = ""
        while True:
            time.sleep(_EVERY)
            try:
                now = time.time()
                query["start"] = max(min(now - _LATE, running), now - _LONGEST)
                found = reader.search(**query, limit=_FOLLOW_LIMIT)
            except ReadError as error:
                # The backend may be restarting. The error is printed once.
                if str(error) != reported:
                    reported = str(error)
                    self.stderr.write(f"{error} Trying again.")
                continue
            reported = ""
            fresh = [summary for summary in found[::-1] if summary.trace_id not in seen]
            settled = [
                summary
                for summary in fresh
                if summary.state != "running" and waiting.get(summary.trace_id) == summary.span_count
            ]
            waiting = {summary.trace_id: summary.span_count for summary in fresh}
            running = min((summary.start / 1e9 for summary in fresh if summary.state == "running"), default=now)
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
        # Files and pipes are searched by programs, so lines are not cut.
        return shutil.get_terminal_size((100, 24)).columns if self.stdout.isatty() else 240

    def _write_json(self, value: Any) -> None:
        # ASCII: every terminal and pipe accepts it, and it contains no control characters.
        self._write(json.dumps(value, indent=2))

    def _write(self, text: str) -> None:
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(text.encode(encoding, "replace").decode(encoding))


def _page_of(trace: Trace) -> str:
    """Return where a page shows the trace; "" without such pages.

    A command knows no host. A request of this service in the trace has it.
    """
    path = page_path(trace.trace_id)
    service = get_settings().service_name
    for span in trace.spans if path else ():
        if span.kind == "server" and span.service == service:
            url = span.attributes.get(HTTP_URL) or span.attributes.get(URL_FULL)
            origin = origin_of_url(url) if isinstance(url, str) else ""
            if origin:
                return f"{origin}{path}"
    return f"On your site: {path}" if path else ""


def _query(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options as arguments for a reader's ``search``."""
    return {
        "service": options["service"],
        "operation": options["operation"],
        "min_duration": options["min_duration"],
        "max_duration": options["max_duration"],
        "errors": options["errors"],
        "attributes": parse.searched_attributes(
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
        raise ArgumentTypeError("must be a duration, for example 250ms or 1.5s")
    return value


def _moment(text: str) -> float:
    ago = _or_none(parse_duration, text)
    if ago is not None:
        return time.time() - ago
    try:
        # Python 3.10 does not parse Z. Without an offset, this machine's time zone applies.
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (OverflowError, OSError, ValueError):
        raise ArgumentTypeError("must be a time span (15m, 2h, 1d) or a date and time (2026-01-31T13:45)") from None


def _attribute(text: str) -> tuple[str, str]:
    try:
        return parse.attribute(text)
    except ValueError:
        raise ArgumentTypeError("must be KEY=VALUE, for example http.method=POST") from None
