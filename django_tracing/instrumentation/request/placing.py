"""Requests: places ``TracingMiddleware`` in MIDDLEWARE, first, unless the user lists it."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings

__all__ = ["MIDDLEWARE", "install", "is_available", "uninstall"]

MIDDLEWARE: Final = "django_tracing.middleware.TracingMiddleware"
#: Upstream's middleware; ours goes inside it, so that it finds upstream's span and enriches it.
UPSTREAM: Final = "opentelemetry.instrumentation.django.middleware.otel_middleware._DjangoMiddleware"

_placed = False


def is_available() -> bool:
    return True


def install() -> None:
    global _placed
    listed = list(settings.MIDDLEWARE)
    if MIDDLEWARE in listed:
        return
    position = listed.index(UPSTREAM) + 1 if UPSTREAM in listed else 0
    listed.insert(position, MIDDLEWARE)
    settings.MIDDLEWARE = _like(settings.MIDDLEWARE, listed)
    _placed = True


def uninstall() -> None:
    global _placed
    if _placed:
        settings.MIDDLEWARE = _like(settings.MIDDLEWARE, [path for path in settings.MIDDLEWARE if path != MIDDLEWARE])
        _placed = False


def _like(before: Any, paths: list[str]) -> Any:
    """``paths`` as what stood there: code that adds a tuple to a tuple goes on working."""
    try:
        return paths if type(before) is list else type(before)(paths)
    except Exception:  # a sequence that is made in another way
        return paths
