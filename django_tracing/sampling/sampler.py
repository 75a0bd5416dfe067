"""The decision whether a trace is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

__all__ = ["RateSampler"]

#: Of a trace id, the bits that are random in every system.
_MASK: Final = (1 << 64) - 1


class RateSampler(Sampler):
    """Keeps the share ``rate`` (0.0 to 1.0) of the traces that begin here; of the others it does as the parent did.

    It decides as the SDK's ``ParentBased(TraceIdRatioBased(rate))``, so processes of one rate agree on each trace id.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._bound = round(rate * (1 << 64))

    def keep(self, parent: SpanContext | None, trace_id: int) -> bool:
        """Whether to keep a span below ``parent`` (None: the trace begins with it)."""
        if parent is not None:
            return parent.trace_flags.sampled
        return trace_id & _MASK < self._bound

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
        parent: SpanContext | None = get_current_span(parent_context).get_span_context()
        if parent is not None and not parent.is_valid:
            parent = None
        if self.keep(parent, trace_id):
            return SamplingResult(
                Decision.RECORD_AND_SAMPLE, attributes, None if parent is None else parent.trace_state
            )
        return SamplingResult(Decision.DROP, None, None if parent is None else parent.trace_state)

    def get_description(self) -> str:
        return f"RateSampler{{{self.rate}}}"
