"""Choose the reader that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, cast

from django_tracing.exceptions import ReadError
from django_tracing.faults import contained
from django_tracing.traces.model import FoundSpan, SpanStream
from django_tracing.traces.readers.base import Reader
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite.store import LocalStore

__all__ = ["ReaderSettings", "get_reader", "read_span", "stream_spans"]

#: The methods that a reader needs.
_METHODS: Final = tuple(name for name in vars(Reader) if not name.startswith("_"))


class ReaderSettings(Protocol):
    """The settings that choose a reader."""

    @property
    def reader(self) -> str | Callable[[Any], Any] | None: ...

    @property
    def exporter(self) -> str: ...

    @property
    def local_store(self) -> Path: ...

    @property
    def max_traces(self) -> int: ...

    @property
    def query_url(self) -> str | None: ...

    def source(self, name: str) -> str:
        """Return where the setting ``name`` is set, for people."""
        ...


def get_reader(settings: ReaderSettings, *, timeout: float = 5.0, budget: float | None = None) -> Reader:
    """Return the reader that READER names, the local store, or the Jaeger at QUERY_URL.

    ``timeout`` is in seconds, for each request to Jaeger; ``budget`` for all of them together, if given.
    Raises :class:`ReadError` with the reason ``no_reader`` if the exporter's spans can't be read, or ``bad_reader``
    if READER does not name a reader.
    """
    if settings.reader is not None:
        return _named_reader(settings)
    if settings.exporter == "local":
        return LocalStore(settings.local_store, max_traces=settings.max_traces)
    if settings.query_url:
        return JaegerReader(settings.query_url, timeout=timeout, budget=budget)
    raise ReadError(
        f"Traces can't be read: the exporter {settings.exporter!r} ({settings.source('EXPORTER')}) "
        f'stores none that this app can read. Set EXPORTER to "local", or QUERY_URL to the address of a Jaeger.',
        "no_reader",
    )


def read_span(reader: Reader, trace_id: str, span_id: str) -> FoundSpan | None:
    """Read one span. If the reader has no method ``span``, read the whole trace. Raises :class:`ReadError`."""
    find = getattr(reader, "span", None)
    if find is not None:
        return cast("FoundSpan | None", find(trace_id, span_id))
    trace = reader.trace(trace_id)
    span = next((span for span in trace.spans if span.span_id == span_id), None) if trace else None
    return None if trace is None or span is None else FoundSpan(span, trace.topmost.name, trace.start)


def stream_spans(reader: Reader, trace_id: str, *, grouped: bool = False) -> SpanStream | None:
    """Read the spans of a trace one by one. If the reader has no method ``stream``, read the whole trace.

    Raises :class:`ReadError`, also while the spans are iterated.
    """
    stream = getattr(reader, "stream", None)
    if stream is not None:
        return cast("SpanStream | None", stream(trace_id, grouped=grouped))
    trace = reader.trace(trace_id)
    return (
        None if trace is None else SpanStream(trace.trace_id, trace.topmost.name, iter(trace.spans), trace.left_out)
    )


def _named_reader(settings: ReaderSettings) -> Reader:
    make: Any = settings.reader
    shown = make if isinstance(make, str) else getattr(make, "__qualname__", repr(make))
    try:
        with contained():
            if isinstance(make, str):
                make = _import(make)
            reader = make(settings)
    except ReadError:
        raise
    except Exception as error:
        raise ReadError(
            f"Traces can't be read: {settings.source('READER')} is {shown!r}, which fails with "
            f"{type(error).__name__}: {error}. It must be the dotted path of a callable that takes the settings.",
            "bad_reader",
        ) from error
    missing = [name for name in _METHODS if not callable(getattr(reader, name, None))]
    if missing:
        raise ReadError(
            f"Traces can't be read: the reader of {settings.source('READER')} has no {', '.join(missing)}. "
            f"docs/traces.md lists the methods of a reader.",
            "bad_reader",
        )
    return cast(Reader, _GuardedReader(reader))


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        raise ImportError(f"{module} has no {name}") from None


class _GuardedReader:
    """A user's reader whose exceptions of any kind become :class:`ReadError`."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._reader, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                with contained():
                    return method(*args, **kwargs)
            except ReadError:
                raise
            except Exception as error:
                kind = type(self._reader).__name__
                raise ReadError(f"{kind}.{name} failed: {type(error).__name__}: {error}.", "failed") from error

        return call if callable(method) else method
