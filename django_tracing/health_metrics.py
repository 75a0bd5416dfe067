"""Offer the health of tracing as metrics of OpenTelemetry, to the MeterProvider that the site has configured.

Only OpenTelemetry's API is used: without a MeterProvider, nothing is computed. The instruments are observable: the
numbers are read when the provider collects them, and spans cost nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from django_tracing.process_health import ExporterHealth, health
from django_tracing.spans.runtime import SCOPE_NAME
from django_tracing.version import __version__

__all__ = ["install"]

_Callback = Callable[[CallbackOptions], Iterator[Observation]]


def install() -> None:
    """Make the instruments. A provider that is configured later gets them, too."""
    meter = get_meter(SCOPE_NAME, __version__)
    meter.create_observable_counter(
        "tracing.spans.exported",
        callbacks=[_each(lambda exporter: exporter.exported)],
        unit="{span}",
        description="Spans that the backend has accepted.",
    )
    meter.create_observable_counter(
        "tracing.spans.dropped", callbacks=[_dropped], unit="{span}", description="Spans that were dropped."
    )
    meter.create_observable_counter(
        "tracing.export.retries",
        callbacks=[_each(lambda exporter: exporter.retries)],
        unit="{attempt}",
        description="Attempts to send a batch that failed and were to be repeated.",
    )
    meter.create_observable_up_down_counter(
        "tracing.queue.spans",
        callbacks=[_each(lambda exporter: exporter.queued)],
        unit="{span}",
        description="Spans that wait to be sent.",
    )
    meter.create_observable_up_down_counter(
        "tracing.queue.memory",
        callbacks=[_each(lambda exporter: exporter.queued_bytes)],
        unit="By",
        description="Memory of the spans that wait, estimated.",
    )
    meter.create_observable_counter(
        "tracing.faults", callbacks=[_faults], unit="{fault}", description="Faults of tracing itself."
    )


_EXPORTER: Final = "exporter"
_REASON: Final = "reason"


def _each(number: Callable[[ExporterHealth], int]) -> _Callback:
    def observe(options: CallbackOptions) -> Iterator[Observation]:
        for exporter in health().exporters:
            yield Observation(number(exporter), {_EXPORTER: exporter.exporter})

    return observe


def _dropped(options: CallbackOptions) -> Iterator[Observation]:
    found: Any = health()
    rest = dict(found.dropped)
    for exporter in found.exporters:
        for reason, count in exporter.dropped.items():
            rest[reason] -= count
            yield Observation(count, {_EXPORTER: exporter.exporter, _REASON: reason})
    for reason, count in rest.items():
        # Before an exporter got them.
        if count:
            yield Observation(count, {_REASON: reason})


def _faults(options: CallbackOptions) -> Iterator[Observation]:
    for fault, count in health().faults.items():
        yield Observation(count, {"fault": fault})
