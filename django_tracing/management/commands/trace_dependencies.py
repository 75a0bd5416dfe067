"""Print which services call each other: ``manage.py trace_dependencies``."""

from __future__ import annotations

import json
import time
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_tracing.conf.loading import get_settings
from django_tracing.exceptions import ReadError
from django_tracing.traces.diagrams import as_dot, as_mermaid, as_text
from django_tracing.traces.durations import parse_duration
from django_tracing.traces.readers.choosing import get_reader

__all__ = ["Command"]


class Command(BaseCommand):
    help = (
        "Print which services call each other and which databases, caches and circuit breakers they use, with the "
        "number of calls and of failed calls. Reads the local store, or the Jaeger at QUERY_URL."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--format",
            choices=["text", "mermaid", "dot", "json"],
            default="text",
            help="Text, a Mermaid flowchart, Graphviz DOT, or JSON (default: text).",
        )
        parser.add_argument(
            "--since",
            type=_ago,
            metavar="AGO",
            help="Use only traces that started this long ago or later: 15m, 2h, 1d (default: all).",
        )

    def handle(self, *, format: str, since: float | None, **options: Any) -> None:
        start = None if since is None else time.time() - since
        try:
            reader = get_reader(get_settings())
            found = reader.dependencies(start=start)
        except ReadError as error:
            raise CommandError(str(error)) from error
        if format == "json":
            content = {"links": [link.as_dict() for link in found.links], "sampled_traces": found.sampled}
            self.stdout.write(json.dumps(content, indent=2))
        elif format == "mermaid":
            self.stdout.write(as_mermaid(found))
        elif format == "dot":
            self.stdout.write(as_dot(found))
        elif found.links:
            self.stdout.write(as_text(found))
        else:
            self.stdout.write(
                f"The traces in {reader.describe()} contain no calls between services yet. "
                "To check whether traces arrive, run: python manage.py check_tracing"
            )


def _ago(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise ArgumentTypeError("must be a time span, for example 15m, 2h or 1d") from None
