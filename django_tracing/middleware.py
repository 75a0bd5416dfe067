"""Name the middleware where Django projects look for it."""

from __future__ import annotations

from django_tracing.instrumentation.request.middleware import TracingMiddleware

__all__ = ["TracingMiddleware"]
