"""Name the logging filter and the structlog processor where LOGGING settings look for them."""

from __future__ import annotations

from django_tracing.instrumentation.log_records import TraceContextFilter, structlog_processor

__all__ = ["TraceContextFilter", "structlog_processor"]
