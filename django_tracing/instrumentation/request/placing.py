"""Place ``TracingMiddleware`` in MIDDLEWARE: first, unless the user lists it."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings

from django_tracing.instrumentation.request import streams

__all__ = ["MIDDLEWARE", "install", "is_available", "uninstall"]

MIDDLEWARE: Final = "django_tracing.middleware.TracingMiddleware"
#: The middleware of OpenTelemetry's Django instrumentation. Ours goes inside it, to add its attributes to that span.
UPSTREAM: Final = "opentelemetry.instrumentation.django.middleware.otel_middleware._DjangoMiddleware"


class _Placing:
    """Whether MIDDLEWARE has our entry because this module placed it there."""

    __slots__ = ("placed",)

    def __init__(self) -> None:
        self.placed = False


_placing: Final = _Placing()


def is_available() -> bool:
    return True


def install() -> None:
    """Place the middleware, unless it is listed."""
    streams.install()
    listed = list(settings.MIDDLEWARE)
    if MIDDLEWARE in listed:
        return
    position = listed.index(UPSTREAM) + 1 if UPSTREAM in listed else 0
    listed.insert(position, MIDDLEWARE)
    settings.MIDDLEWARE = _same_kind(settings.MIDDLEWARE, listed)
    _placing.placed = True


def uninstall() -> None:
    """Remove the middleware, if it was placed here. Entries of other tools stay."""
    streams.uninstall()
    if _placing.placed:
        left = [path for path in settings.MIDDLEWARE if path != MIDDLEWARE]
        settings.MIDDLEWARE = _same_kind(settings.MIDDLEWARE, left)
        _placing.placed = False


def _same_kind(former: Any, paths: list[str]) -> Any:
    """Return ``paths`` as the kind of sequence that was there: code that adds a tuple to a tuple keeps working."""
    try:
        return paths if type(former) is list else type(former)(paths)
    except Exception:  # a sequence that is made in another way
        return paths
