"""Use a sampler that an installed package registers with OpenTelemetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from django_tracing.conf.entry_points import load_entry_point
from django_tracing.conf.selection import SAMPLER_GROUP
from django_tracing.faults import CONTAINED, contained, log_once

__all__ = ["GuardedSampler", "make_registered_sampler"]

#: Methods of a sampler that are called.
_METHODS: Final = ("should_sample", "get_description")


def make_registered_sampler(name: str, argument: str | None, fallback: Sampler) -> Sampler:
    """Make the sampler that ``OTEL_TRACES_SAMPLER`` calls ``name``, with ``OTEL_TRACES_SAMPLER_ARG``.

    ``fallback`` decides if the sampler raises. Raise TypeError if it is no sampler, and any error of its package.
    """
    with contained():
        sampler = load_entry_point(SAMPLER_GROUP, name)(argument)
    if not all(callable(getattr(sampler, method, None)) for method in _METHODS):
        raise TypeError(f"the entry point {name} makes {type(sampler).__name__}, which is no sampler")
    return GuardedSampler(sampler, fallback)


class GuardedSampler(Sampler):
    """Another sampler. What it raises is logged once, and does not reach the code that starts a span."""

    def __init__(self, sampler: Sampler, fallback: Sampler) -> None:
        self.sampler = sampler
        self.fallback = fallback

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        try:
            result = self.sampler.should_sample(parent_context, trace_id, name, kind, attributes, links)
            if _is_usable(result):
                return result
            raise TypeError(f"it returned {type(result).__name__}, which is no result or has wrong parts")
        except CONTAINED:
            log_once("registered sampler", "The sampler of OTEL_TRACES_SAMPLER failed. SAMPLE_RATE decides instead.")
        return self.fallback.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        try:
            return str(self.sampler.get_description())
        except CONTAINED:
            return type(self.sampler).__name__


def _is_usable(result: object) -> bool:
    """Return whether the SDK and propagators can use ``result``."""
    return (
        isinstance(result, SamplingResult)
        and isinstance(result.decision, Decision)
        and isinstance(result.attributes, (Mapping, NoneType))
        and isinstance(result.trace_state, (TraceState, NoneType))
    )
