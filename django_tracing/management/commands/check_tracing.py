"""``manage.py check_tracing``: whether traces arrive, and if not, why."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from typing import Any

from django.conf import settings as django_settings
from django.core.management.base import BaseCommand

from django_tracing.conf import Settings, get_settings, load
from django_tracing.doctor import Diagnosis, Step

_WORDS = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL", "skipped": "skip"}


class Command(BaseCommand):
    help = (
        "Sends a test trace the way requests' traces go and reads it back, one line a step. "
        "Exit code 0: it arrived; 1: it did not; 2: the settings are wrong."
    )
    # Bad settings are this command's to explain, with its own exit code.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--timeout", type=float, default=10.0, metavar="SECONDS", help="for all steps together (default: 10)"
        )
        parser.add_argument("--endpoint", metavar="URL", help="try this endpoint instead of the configured one")
        parser.add_argument("--query-url", metavar="URL", help="read back from this Jaeger")
        parser.add_argument("--no-query", action="store_true", help="do not read the trace back")

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
        steps = [asdict(step) for step in diagnosis.steps()]
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
        for step in diagnosis.steps():
            self._print_step(step)
            self.stdout.flush()
        if diagnosis.exit_code == 0:
            self.stdout.write(self.style.SUCCESS("The trace arrived." if diagnosis.link else "The trace was sent."))
            if diagnosis.link:
                self.stdout.write(f"See it: {diagnosis.link}")
        else:
            self.stdout.write(self.style.ERROR("The trace did not arrive."))

    def _print_step(self, step: Step) -> None:
        styles = {"failed": self.style.ERROR, "warning": self.style.WARNING, "ok": self.style.SUCCESS}
        style = styles.get(step.outcome)
        word = style(_WORDS[step.outcome]) if style is not None else _WORDS[step.outcome]
        self.stdout.write(f"{word} {step.name:<9} {step.detail}  ({_duration(step.seconds)})")
        for text in (step.meaning, step.remedy):
            if text:
                self.stdout.write(f"{'':<14} {text}")


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _settings(endpoint: str | None, query_url: str | None) -> Settings:
    """The settings in force, with what the command line puts in their place."""
    if endpoint is None and query_url is None:
        return get_settings()
    configured = getattr(django_settings, "TRACING", None)
    tracing = dict(configured) if isinstance(configured, dict) else {}
    given: dict[str, str] = {}
    if endpoint is not None:
        # Another place may speak another protocol, and is read from elsewhere.
        tracing = {key: value for key, value in tracing.items() if key not in ("EXPORTER", "QUERY_URL")}
        given["ENDPOINT"] = endpoint
    if query_url is not None:
        given["QUERY_URL"] = query_url
    settings = load({**tracing, **given}, os.environ)
    options = {name: f"--{name.lower().replace('_', '-')}" for name in given}
    if "ENDPOINT" in given:
        options["EXPORTER"] = "--endpoint"
    return replace(
        settings,
        sources={**settings.sources, **options},
        problems=tuple(
            replace(problem, source=options.get(problem.setting, problem.source)) for problem in settings.problems
        ),
    )
