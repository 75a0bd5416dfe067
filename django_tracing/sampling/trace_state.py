"""Read and write sampling's part of ``tracestate``: randomness and threshold.

Convention: https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
"""

from __future__ import annotations

from random import getrandbits
from typing import Final

from opentelemetry.trace import TraceState

__all__ = [
    *("RANDOM_BITS", "RANDOM_MASK", "jaeger_randomness", "randomness", "threshold", "with_own_randomness"),
    "with_threshold",
]

#: How many bits of a trace id are random and decide on the trace.
RANDOM_BITS: Final = 56
RANDOM_MASK: Final = (1 << RANDOM_BITS) - 1
_DIGITS: Final = range(1, RANDOM_BITS // 4 + 1)
#: Limits of a tracestate: entries, characters of one (https://www.w3.org/TR/trace-context/#tracestate-header).
_MAX_ENTRIES: Final = 32
_MAX_LENGTH: Final = 256


def threshold(rate: float) -> int:
    """Return the lowest randomness that is kept at ``rate`` (0.0 to 1.0)."""
    return (1 << RANDOM_BITS) - round(rate * (1 << RANDOM_BITS))


def randomness(trace_id: int, trace_state: TraceState | None) -> int:
    """Return the 56 random bits of a trace: from its tracestate (``ot=rv:...``), or else the last ones of its id.

    Services with different rates agree in this way: a trace that is kept at 10 % is also kept at 50 %.
    """
    found = _entry(trace_state).get("rv", "")
    if len(found) == RANDOM_BITS // 4:
        try:
            return int(found, 16)
        except ValueError:
            pass
    return trace_id & RANDOM_MASK


def jaeger_randomness(trace_id: int, trace_state: TraceState | None) -> int:
    """Return the 64 bits that a strategy of Jaeger's is compared with."""
    if "rv" in _entry(trace_state):
        return randomness(trace_id, trace_state) << (64 - RANDOM_BITS)
    return trace_id


def with_own_randomness(trace_state: TraceState | None) -> TraceState:
    """Return ``trace_state`` with new randomness of this process (``ot=rv:...``) in place of the sender's."""
    known = {**_entry(trace_state), "rv": f"{getrandbits(RANDOM_BITS):014x}"}
    known.pop("th", None)
    return _with_entry(trace_state, known)


def with_threshold(trace_state: TraceState | None, rejected: int) -> TraceState:
    """Return ``trace_state`` with the threshold at which the trace was kept (``ot=th:...``)."""
    known = _entry(trace_state)
    known["th"] = f"{rejected:014x}".rstrip("0") or "0"
    return _with_entry(trace_state, known)


def _entry(trace_state: TraceState | None) -> dict[str, str]:
    value = "" if trace_state is None else trace_state.get("ot") or ""
    return dict(part.split(":", 1) for part in value.split(";") if ":" in part)


def _with_entry(trace_state: TraceState | None, known: dict[str, str]) -> TraceState:
    value = ";".join(f"{key}:{text}" for key, text in known.items())
    if len(value) > _MAX_LENGTH:
        # Only numbers of 56 bits: the SDK would reject a longer entry as a whole, with a line in the log.
        value = ";".join(f"{key}:{known[key]}" for key in ("rv", "th") if len(known.get(key, "")) in _DIGITS)
    others = [] if trace_state is None else [(key, text) for key, text in trace_state.items() if key != "ot"]
    # With one entry too many, the SDK drops them all, with a log line for each such caller.
    return TraceState([("ot", value), *others[: _MAX_ENTRIES - 1]])
