"""Where traces are read back from, as the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from django.utils.module_loading import import_string

from django_tracing.conf.values import Settings
from django_tracing.semconv.names import CORRELATION_ID, HTTP_STATUS_CODE, USER_ID, Convention
from django_tracing.traces.model import FoundSpan, Reader, ReadError, SpanStream
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite.store import LocalStore

__all__ = ["get_reader", "read_span", "searched_attributes", "stream_spans"]

#: What a reader does, see :class:`django_tracing.traces.model.Reader`.
_METHODS: Final = tuple(name for name in vars(Reader) if not name.startswith("_"))


def get_reader(settings: Settings, *, timeout: float = 5.0, budget: float | None = None) -> Reader:
    """What READER names, the local store, or the Jaeger at QUERY_URL.

    ``timeout`` is in seconds, for each question to Jaeger; ``budget`` for all of them together, where given.
    Raises :class:`ReadError`: reason ``no_reader`` when spans go where nothing can be read back from, ``bad_reader``
    when READER names nothing that can be read with.
    """
    if settings.reader is not None:
        return _named_reader(settings)
    if settings.exporter == "local":
        return LocalStore(settings.local_store, max_traces=settings.max_traces)
    if settings.query_url:
        return JaegerReader(settings.query_url, timeout=timeout, budget=budget)
    raise ReadError(
        f"Traces can't be read back: the exporter {settings.exporter!r} ({settings.source('EXPORTER')}) "
        f'keeps none that this app can read. Set EXPORTER to "local", or QUERY_URL to the address of a Jaeger.',
        "no_reader",
    )


def read_span(reader: Reader, trace_id: str, span_id: str) -> FoundSpan | None:
    """One span; its trace is read only by readers that have no ``span``. Raises :class:`ReadError`."""
    find = getattr(reader, "span", None)
    if find is not None:
        return cast("FoundSpan | None", find(trace_id, span_id))
    trace = reader.trace(trace_id)
    span = next((span for span in trace.spans if span.span_id == span_id), None) if trace else None
    return None if trace is None or span is None else FoundSpan(span, trace.root.name, trace.start)


def stream_spans(reader: Reader, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
    """The spans of a trace as they are read; of readers that have no ``stream``, those of its ``trace``.

    Raises :class:`ReadError`, also while the spans are taken.
    """
    stream = getattr(reader, "stream", None)
    if stream is not None:
        return cast("SpanStream | None", stream(trace_id, grouped=grouped))
    trace = reader.trace(trace_id)
    return None if trace is None else SpanStream(trace.trace_id, trace.root.name, iter(trace.spans), trace.left_out)


def searched_attributes(
    settings: Settings,
    given: Mapping[str, str],
    *,
    status_code: int | None = None,
    user: str | None = None,
    correlation_id: str | None = None,
) -> dict[str, str] | None:
    """What a search asks of a span's attributes, under the names that the settings give them; None for nothing."""
    wanted = dict(given)
    if status_code is not None:
        convention = Convention(settings.semconv_stability_opt_in)
        wanted[next(iter(convention.apply({HTTP_STATUS_CODE: 0})))] = str(status_code)
    if user:
        wanted[USER_ID] = user
    if correlation_id:
        wanted[CORRELATION_ID] = correlation_id
    return wanted or None


def _named_reader(settings: Settings) -> Reader:
    make: Any = settings.reader
    shown = make if isinstance(make, str) else getattr(make, "__qualname__", repr(make))
    try:
        if isinstance(make, str):
            make = import_string(make)
        reader = make(settings)
    except ReadError:
        raise
    except Exception as error:
        raise ReadError(
            f"Traces can't be read back: {settings.source('READER')} is {shown!r}, which fails with "
            f"{type(error).__name__}: {error}. It has to be the dotted path of a callable that takes the settings.",
            "bad_reader",
        ) from error
    missing = [name for name in _METHODS if not callable(getattr(reader, name, None))]
    if missing:
        raise ReadError(
            f"Traces can't be read back: what {settings.source('READER')} names has no {', '.join(missing)}. "
            f"docs/traces.md says what a reader does.",
            "bad_reader",
        )
    return cast(Reader, _Guarded(reader))


class _Guarded:
    """Somebody else's reader, whose errors of any kind become :class:`ReadError`."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._reader, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return method(*args, **kwargs)
            except ReadError:
                raise
            except Exception as error:
                kind = type(self._reader).__name__
                raise ReadError(f"{kind}.{name} failed: {type(error).__name__}: {error}.", "failed") from error

        return call if callable(method) else method
