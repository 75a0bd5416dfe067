"""Where traces are read back from, as the settings say."""

from __future__ import annotations

from django_tracing.conf import Settings
from django_tracing.traces.jaeger import JaegerReader
from django_tracing.traces.local import LocalStore
from django_tracing.traces.model import ReadError

__all__ = ["get_reader"]


def get_reader(settings: Settings, *, timeout: float = 5.0) -> LocalStore | JaegerReader:
    """The local store, or the Jaeger at QUERY_URL. ``timeout`` is in seconds, for each question to Jaeger.

    Raises :class:`ReadError` (reason ``no_reader``) when spans go where nothing can be read back from.
    """
    if settings.exporter == "local":
        return LocalStore(settings.local_store, max_traces=settings.max_traces)
    if settings.query_url:
        return JaegerReader(settings.query_url, timeout=timeout)
    raise ReadError(
        f"Traces can't be read back: the exporter {settings.exporter!r} ({settings.source('EXPORTER')}) "
        f'keeps none that this app can read. Set EXPORTER to "local", or QUERY_URL to the address of a Jaeger.',
        "no_reader",
    )
