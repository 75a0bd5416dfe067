"""Name the logging filters and the structlog processor where LOGGING settings look for them."""

from __future__ import annotations

from django_tracing.instrumentation.log_records import TraceContextFilter, TracePageFilter, structlog_processor

__all__ = ["TraceContextFilter", "TracePageFilter", "structlog_processor"]
