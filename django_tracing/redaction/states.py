"""Redact the tracestate that is sent to a receiver: a caller may have put anything into it."""

from __future__ import annotations

from typing import Final

from django_tracing.redaction.patterns import pattern, safely
from django_tracing.redaction.text import redact_text

__all__ = ["redact_tracestate"]

#: OpenTelemetry's own member: a threshold and the trace's random bits, which look as random as they are.
#: https://opentelemetry.io/docs/specs/otel/trace/tracestate-handling/
_OWN: Final = pattern(r"ot=(?:(?:th|rv|p|r):[0-9a-f]{1,14}(?:;|\Z))+")


@safely(lambda: "")
def redact_tracestate(header: str) -> str:
    """Return ``header`` without the secrets in its members. Each member keeps its name.

    Called services still get the caller's tracestate unchanged.
    """
    return ",".join(map(_redacted, header.split(",")))


def _redacted(member: str) -> str:
    return member if _OWN.fullmatch(member) else redact_text(member)
