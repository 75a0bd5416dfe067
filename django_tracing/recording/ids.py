"""Guard an ID generator of another package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace.span import INVALID_SPAN_ID, INVALID_TRACE_ID

from django_tracing.faults import CONTAINED, log_once

__all__ = ["GuardedIdGenerator"]

_random: Final = RandomIdGenerator()
_LARGEST_TRACE_ID: Final = (1 << 128) - 1
_LARGEST_SPAN_ID: Final = (1 << 64) - 1


class GuardedIdGenerator(IdGenerator):
    """Another ID generator. Where it raises, or returns what is no id, the id is random."""

    def __init__(self, generator: IdGenerator) -> None:
        self.generator = generator

    def generate_trace_id(self) -> int:
        return _checked(self.generator.generate_trace_id, INVALID_TRACE_ID, _LARGEST_TRACE_ID) or (
            _random.generate_trace_id()
        )

    def generate_span_id(self) -> int:
        return _checked(self.generator.generate_span_id, INVALID_SPAN_ID, _LARGEST_SPAN_ID) or (
            _random.generate_span_id()
        )

    def is_trace_id_random(self) -> bool:
        # Old SDKs do not ask for it.
        is_random = getattr(self.generator, "is_trace_id_random", None)
        try:
            return is_random is not None and bool(is_random())
        except CONTAINED:
            return False


def _checked(generate: Callable[[], int], invalid: int, largest: int) -> int | None:
    try:
        made = generate()
        if isinstance(made, int) and invalid < made <= largest:
            return made
        raise ValueError(f"it returned {type(made).__name__}, which is no id")
    except CONTAINED:
        log_once("id generator", "The generator of OTEL_PYTHON_ID_GENERATOR failed. Ids are random instead.")
        return None
