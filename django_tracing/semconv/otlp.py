"""Define the numbers that OTLP has for kinds and statuses of spans.

https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["KIND_NUMBERS", "STATUS_NUMBERS"]

KIND_NUMBERS: Final[Mapping[str, int]] = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
STATUS_NUMBERS: Final[Mapping[str, int]] = {"unset": 0, "ok": 1, "error": 2}
