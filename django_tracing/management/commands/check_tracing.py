"""Check whether traces arrive: ``manage.py check_tracing``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand

from django_tracing.conf.loading import get_settings, load
from django_tracing.conf.values import Settings
from django_tracing.diagnosis.steps import Diagnosis, Step

_WORDS = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL", "skipped": "skip"}


class Command(BaseCommand):
    help = (
        "Send a test trace through the configured exporter, read it back, and print one line per step. "
        "Exit code 0: the trace arrived; 1: it did not; 2: the settings are wrong."
    )
    # This command explains wrong settings itself, with its own exit code.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object instead of text.")
        parser.add_argument(
            "--timeout",
            type=_seconds,
            default=10.0,
            metavar="SECONDS",
            help="The time limit for all steps together (default: 10).",
        )
        parser.add_argument("--endpoint", metavar="URL", help="Try this endpoint instead of the configured one.")
        parser.add_argument("--query-url", metavar="URL", help="Read the trace back from this Jaeger.")
        parser.add_argument("--no-query", action="store_true", help="Don't read the trace back.")

    def handle(
        self,
        *,
        json: bool,
        timeout: float,
        endpoint: str | None,
        query_url: str | None,
        no_query: bool,
        **options: Any,
    ) -> None:
        diagnosis = Diagnosis(_settings(endpoint, query_url), timeout=timeout, query=not no_query)
        if json:
            self._print_json(diagnosis)
        else:
            self._print_lines(diagnosis)
        if diagnosis.exit_code:
            sys.exit(diagnosis.exit_code)

    def _print_json(self, diagnosis: Diagnosis) -> None:
        steps = [asdict(replace(step, seconds=round(step.seconds, 6))) for step in diagnosis.steps()]
        # ASCII: every pipe accepts it.
        self.stdout.write(
            json.dumps(
                {
                    "ok": diagnosis.exit_code == 0,
                    "exit_code": diagnosis.exit_code,
                    "trace_id": diagnosis.trace_id,
                    "link": diagnosis.link,
                    "steps": steps,
                },
                indent=2,
            )
        )

    def _print_lines(self, diagnosis: Diagnosis) -> None:
        failed = False
        for step in diagnosis.steps():
            failed = failed or step.outcome == "failed"
            self._print_step(step)
            self.stdout.flush()
        if diagnosis.exit_code == 2:
            self._write("Nothing was sent: the settings are wrong.", self.style.ERROR)
        elif failed:
            self._write("The trace did not arrive.", self.style.ERROR)
        elif diagnosis.exit_code:
            self._write("It is unknown whether the trace arrived.", self.style.WARNING)
        elif diagnosis.link:
            self._write("The trace arrived.", self.style.SUCCESS)
            self._write(f"See it: {diagnosis.link}")
        else:
            self._write("The trace was sent, but not read back.", self.style.SUCCESS)

    def _print_step(self, step: Step) -> None:
        styles = {"failed": self.style.ERROR, "warning": self.style.WARNING, "ok": self.style.SUCCESS}
        style = styles.get(step.outcome)
        word = style(_WORDS[step.outcome]) if style is not None else _WORDS[step.outcome]
        self._write(f"{word} {step.name:<9} {step.detail}  ({_duration(step.seconds)})")
        for text in (step.meaning, step.remedy):
            if text:
                self._write(f"{'':<14} {text}")

    def _write(self, text: str, style: Callable[[str], str] | None = None) -> None:
        # A terminal that can't show a character gets a question mark instead of a traceback.
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        self.stdout.write(text.encode(encoding, "replace").decode(encoding), style)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _settings(endpoint: str | None, query_url: str | None) -> Settings:
    """Return the settings in force, changed by the command's options."""
    if endpoint is None and query_url is None:
        return get_settings()
    configured = getattr(django_settings, "TRACING", None)
    if configured is not None and not isinstance(configured, Mapping):
        return get_settings()  # they contain this problem
    tracing = dict(configured or {})
    given: dict[str, str] = {}
    if endpoint is not None:
        # Another endpoint may speak another protocol, and is read from another place.
        tracing = {key: value for key, value in tracing.items() if key not in ("ENDPOINTS", "EXPORTER", "QUERY_URL")}
        given["ENDPOINT"] = endpoint
    if query_url is not None:
        given["QUERY_URL"] = query_url
    settings = load({**tracing, **given}, os.environ)
    options = {f'TRACING["{name}"]': f"--{name.lower().replace('_', '-')}" for name in given}
    return settings._replace(
        sources={name: options.get(source, source) for name, source in settings.sources.items()},
        problems=tuple(
            problem._replace(source=options.get(problem.source, problem.source)) for problem in settings.problems
        ),
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError("must be a number of seconds greater than 0 and at most 3600")
    return seconds
