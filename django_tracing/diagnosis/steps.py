"""Run a diagnosis: send a test trace and read it back, step by step.

The findings are data, which ``check_tracing`` and the admin print. The test trace goes through the exporter that the
settings choose.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

from django_tracing.conf.values import Settings
from django_tracing.diagnosis import arrival, configuration, endpoint
from django_tracing.diagnosis.advice import ADVICE
from django_tracing.diagnosis.findings import Outcome, Run, Step, Stop
from django_tracing.diagnosis.probes import within

__all__ = ["Diagnosis", "Outcome", "Step"]

_STEPS: Final[tuple[tuple[str, Callable[[Run], Iterator[Step]]], ...]] = (
    ("settings", configuration.check_settings),
    ("sampling", configuration.check_sampling),
    ("traced", configuration.check_instrumentations),
    ("exporter", configuration.check_exporter),
    ("endpoint", endpoint.check_endpoints),
    ("name", endpoint.check_name),
    ("port", endpoint.check_port),
    ("tls", endpoint.check_tls),
    ("protocol", endpoint.check_protocol),
    ("send", arrival.send),
    ("read", arrival.read_back),
)

#: Each of several endpoints has one step instead of these.
_OF_ONE_ENDPOINT: Final = frozenset(("name", "port", "tls", "protocol"))


class Diagnosis(Run):
    """A diagnosis of the settings. ``timeout`` is in seconds, for all steps together."""

    def __init__(self, settings: Settings, *, timeout: float = 10.0, query: bool = True) -> None:
        super().__init__(settings, timeout=timeout, query=query)

    def steps(self) -> Iterator[Step]:
        """Run the steps, and yield each finding at once. Never raises."""
        self.deadline = time.monotonic() + self.timeout
        try:
            for name, check in _STEPS:
                if name in _OF_ONE_ENDPOINT and self.endpoints():
                    continue
                started = time.monotonic()
                try:
                    for step in check(self):
                        yield self._complete(step, started)
                        started = time.monotonic()
                except Stop:
                    return
                except TimeoutError:
                    meaning, remedy = ADVICE["timeout"] if name != "name" else ADVICE["dns"]
                    detail = f"There was no answer within the {self.timeout:g} s of this check."
                    step = Step(name, "failed", detail, meaning, remedy.format(at=self.endpoint_place))
                    yield self._complete(step, started)
                    return
                except Exception as error:
                    detail = f"{type(error).__name__}: {error}"
                    step = Step(name, "failed", detail, "This is a bug in django_tracing.", "Please report it.")
                    yield self._complete(step, started)
                    return
        finally:
            exporter = self.exporter
            if exporter is not None:
                with suppress(Exception):
                    within(1.0, exporter.shutdown)

    def _complete(self, step: Step, started: float) -> Step:
        if step.outcome == "failed" and self.exit_code == 0:
            self.exit_code = 1
        return replace(
            step,
            detail=self.redact(step.detail),
            meaning=self.redact(step.meaning),
            remedy=self.redact(step.remedy),
            seconds=time.monotonic() - started,
        )
