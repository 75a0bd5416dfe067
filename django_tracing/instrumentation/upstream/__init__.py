"""OpenTelemetry's own instrumentations: what switches them on and off, and what completes their spans."""

from django_tracing.instrumentation.upstream.registry import postpone_django

#: The entry point ``opentelemetry_pre_instrument`` of this package names it here.
__all__ = ["postpone_django"]
